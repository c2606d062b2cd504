import keras
import numpy as np
import pytest

from keras_renorm import layers
from keras_renorm.statistics import moving_statistics

OWN = ["moving_mean", "moving_variance"]
RENORM = [*OWN, "moving_stddev", "renorm_mean", "renorm_stddev"]
KINDS = {
    "bn": (layers.BatchNormalization, OWN),
    "brn": (layers.BatchRenormalization, OWN),
    "domains": (lambda **options: layers.DomainBatchNormalization(2, **options), OWN),
    "keras": (keras.layers.BatchNormalization, OWN),
    "keras_renorm": (
        lambda **options: keras.layers.BatchNormalization(renorm=True, **options),
        RENORM,
    ),
}
every_kind = pytest.mark.parametrize(("norm", "names"), KINDS.values(), ids=KINDS)
needs_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="float64 under TensorFlow"
)


def numpy(value):
    return np.array(keras.ops.convert_to_numpy(value))


def built(norm, channels=3, **options):
    layer = norm(**options)
    layer.build((None, channels))
    return layer


@every_kind
def test_weights_are_required_by_name(norm, names):
    with pytest.raises(ValueError, match=r"'fresh' has no weights yet\. Call the model once"):
        moving_statistics.require_weights(norm(name="fresh"))
    moving_statistics.require_weights(built(norm))


@every_kind
def test_the_weights_that_are_statistics(norm, names):
    layer = built(norm)
    found = moving_statistics.variables(layer)
    assert list(found) == names
    assert all(found[name] is getattr(layer, name) for name in names)
    layer = norm(name="fresh")
    assert moving_statistics.variables(layer) == {}


@every_kind
@pytest.mark.parametrize("epsilon", [1e-3, 0.5])
def test_what_is_written_is_read_and_is_what_inference_uses(rng, norm, names, epsilon):
    layer = built(norm, epsilon=epsilon)
    shape = tuple(layer.moving_mean.shape)
    statistics = rng.normal(size=shape), rng.uniform(0.5, 2.0, shape)
    arrays = moving_statistics.values(layer, statistics)
    assert list(arrays) == names
    moving_statistics.write(layer, arrays)
    for actual, value in zip(moving_statistics.read(layer), statistics, strict=True):
        assert actual.dtype == np.float64
        np.testing.assert_array_equal(actual, value.astype("f4"))
    x = rng.normal(size=(5, 3)).astype("f4")
    mean, variance = (value.reshape(-1, 3)[-1] for value in statistics)
    y = layer(x, domain=1) if len(shape) == 2 else layer(x)
    desired = (x - mean) / np.sqrt(variance + epsilon)
    np.testing.assert_allclose(numpy(y), desired, rtol=1e-5, atol=1e-6)


def test_the_weights_of_keras_renorm_are_those_of_its_own_update(rng):
    """With momentum 0, a step of training has them be the minibatch's."""
    layer = keras.layers.BatchNormalization(renorm=True, renorm_momentum=0.0, momentum=0.0)
    x = rng.normal(3.0, 2.0, (50, 4)).astype("f4")
    layer(x, training=True)
    exact = np.float64(x)
    for name, value in moving_statistics.values(layer, (exact.mean(0), exact.var(0))).items():
        np.testing.assert_allclose(numpy(getattr(layer, name)), value, rtol=1e-5)


@needs_tensorflow
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "mixed_float16"])
@pytest.mark.parametrize("norm", [KINDS["bn"][0], KINDS["keras"][0]], ids=["bn", "keras"])
def test_half_precision_is_read_as_float32(norm, dtype):
    layer = built(norm, dtype=dtype)
    assert moving_statistics.dtype(layer.moving_mean) == (
        "float64" if dtype == "float64" else "float32"
    )
    third = np.full(3, 1 / 3)
    moving_statistics.write(layer, moving_statistics.values(layer, (third, third)))
    kept = numpy(keras.ops.cast(third, layer.moving_mean.dtype)).astype("f8")
    for value in moving_statistics.read(layer):
        assert value.dtype == np.float64
        np.testing.assert_array_equal(value, kept)
    if dtype == "float64":
        np.testing.assert_array_equal(kept, third)


@pytest.mark.parametrize("number_of_steps", [0, 1, 30])
@pytest.mark.parametrize("kind", [layers.BatchRenormalization, layers.DomainBatchRenormalization])
def test_training_goes_on_from_what_is_written(rng, kind, number_of_steps):
    """Averages in which the initial values weigh nothing give no way to the first minibatch."""
    domains = {"num_domains": 2} if kind is layers.DomainBatchRenormalization else {}
    layer = built(kind, momentum=0.99, **domains)
    domain = {"domain": 1} if domains else {}
    for _ in range(number_of_steps):
        layer(rng.normal(size=(8, 3)).astype("f4"), training=True, **domain)
    shape = tuple(layer.moving_mean.shape)
    statistics = np.full(shape, 5.0), np.full(shape, 4.0)
    moving_statistics.write(layer, moving_statistics.values(layer, statistics))
    x = rng.normal(7.0, 1.0, (8, 3)).astype("f4")
    layer(x, training=True, **domain)
    mean, sigma = np.float64(x).mean(0), np.sqrt(np.float64(x).var(0) + 1e-3)
    found = (value.reshape(-1, 3)[-1] for value in moving_statistics.read(layer))
    np.testing.assert_allclose(next(found), 5.0 + 0.01 * (mean - 5.0), rtol=1e-6)
    sigma = 0.99 * np.sqrt(4.001) + 0.01 * sigma
    np.testing.assert_allclose(next(found), sigma**2 - 1e-3, rtol=1e-5)
