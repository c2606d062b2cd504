import keras
import numpy as np
import pytest

from keras_renorm import layers, schedules
from keras_renorm.statistics import freeze, is_frozen, unfreeze

NORMS = {
    "bn": layers.BatchNormalization,
    "brn": layers.BatchRenormalization,
    "paper": lambda **options: layers.BatchRenormalization(
        r_max=schedules.PAPER_R_MAX, d_max=schedules.PAPER_D_MAX, **options
    ),
    "keras": keras.layers.BatchNormalization,
}
every_norm = pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)


def numpy(value):
    return np.array(keras.ops.convert_to_numpy(value))


def statistics_of(layer):
    names = ("moving_mean", "moving_variance", "update_count", "deviations", "seen")
    found = [getattr(layer, name, None) for name in names]
    return [numpy(variable) for variable in found if variable is not None]


def compiled_model(norm):
    layer = norm()
    model = keras.Sequential([keras.Input((4,)), layer, keras.layers.Dense(1)])
    layer.moving_mean.assign(np.full(4, 1.0))
    layer.moving_variance.assign(np.full(4, 9.0))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model, layer


@pytest.fixture
def data(rng):
    return rng.normal(2.0, 3.0, (24, 4)).astype("f4"), rng.normal(size=(24, 1)).astype("f4")


def fit(model, data, **options):
    model.fit(*data, batch_size=4, verbose=0, shuffle=False, **options)


@every_norm
def test_training_uses_and_keeps_the_statistics(norm, data):
    layer = norm(epsilon=0.1)
    layer.build((None, 4))
    layer.moving_mean.assign(np.full(4, 1.0))
    layer.moving_variance.assign(np.full(4, 8.9))
    freeze(layer)
    y = numpy(layer(data[0], training=True))
    np.testing.assert_allclose(y, (np.float64(data[0]) - 1) / 3, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(numpy(layer.moving_mean), np.full(4, 1.0))
    unfreeze(layer)
    y = numpy(layer(data[0], training=True))
    np.testing.assert_allclose(y.mean(0), np.zeros(4), atol=1e-5)
    assert (numpy(layer.moving_mean) != 1.0).all()


@every_norm
def test_fit_of_a_compiled_model_follows(norm, data):
    model, layer = compiled_model(norm)
    fit(model, data)
    freeze(model)
    statistics, gamma, beta = statistics_of(layer), numpy(layer.gamma), numpy(layer.beta)
    fit(model, data)
    for old, new in zip(statistics, statistics_of(layer), strict=True):
        np.testing.assert_array_equal(new, old)
    assert (numpy(layer.gamma) != gamma).any()
    assert (numpy(layer.beta) != beta).any()
    unfreeze(model)
    # The unbiased average of the same minibatches again would be the same.
    fit(model, (2 * data[0] + 1, data[1]))
    for old, new in zip(statistics, statistics_of(layer), strict=True):
        assert (new != old).any()


@every_norm
def test_a_frozen_step_is_that_of_an_affine_layer(norm, data):
    """One SGD step, against gradients written out: the statistics are constants."""
    model, layer = compiled_model(norm)
    kernel = np.float64(numpy(model.layers[1].kernel))
    freeze(model)
    x, y = np.float64(data[0]), data[1]
    model.train_on_batch(*data)
    x_hat = (x - 1) / np.sqrt(9 + layer.epsilon)
    error = 2 * (x_hat @ kernel - y) / len(x)
    np.testing.assert_allclose(
        numpy(layer.gamma), 1 - 0.1 * (x_hat * (error @ kernel.T)).sum(0), rtol=1e-4
    )
    np.testing.assert_allclose(
        numpy(layer.beta), -0.1 * (error @ kernel.T).sum(0), rtol=1e-4, atol=1e-6
    )


@every_norm
def test_gamma_and_beta_can_be_frozen_too(norm, data):
    model, layer = compiled_model(norm)
    fit(model, data)
    freeze(model, affine_trainable=False)
    assert [w.path for w in model.trainable_weights] == [w.path for w in model.layers[1].weights]
    weights, kernel = [numpy(w) for w in layer.weights], numpy(model.layers[1].kernel)
    fit(model, data)
    for old, new in zip(weights, layer.weights, strict=True):
        np.testing.assert_array_equal(numpy(new), old)
    assert (numpy(model.layers[1].kernel) != kernel).any()
    freeze(model)  # freezing leaves that as it is
    assert len(model.trainable_weights) == 2
    unfreeze(model)
    assert len(model.trainable_weights) == 4


def test_layers_that_are_not_trainable_stay_so(data):
    model, layer = compiled_model(layers.BatchNormalization)
    layer.trainable = False
    freeze(model)
    unfreeze(model)
    assert not layer.trainable
    assert not layer.gamma.trainable


@pytest.mark.parametrize("norm", [NORMS["bn"], NORMS["brn"]], ids=["bn", "brn"])
def test_it_is_kept_in_files(norm, data, tmp_path):
    model, _ = compiled_model(norm)
    assert "frozen_statistics" not in model.layers[0].get_config()
    freeze(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    before = statistics_of(loaded.layers[0])
    fit(loaded, data)
    for old, new in zip(before, statistics_of(loaded.layers[0]), strict=True):
        np.testing.assert_array_equal(new, old)
    assert loaded.layers[0].frozen_statistics


def test_a_keras_norm_saves_and_loads_unfrozen(data, tmp_path):
    model, _ = compiled_model(NORMS["keras"])
    freeze(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    before = numpy(loaded.layers[0].moving_mean)
    fit(loaded, data)
    assert (numpy(loaded.layers[0].moving_mean) != before).all()


def test_freezing_twice_is_freezing_once(data):
    model, layer = compiled_model(NORMS["keras"])
    own = sorted(vars(layer))
    freeze(model)
    freeze(model)
    unfreeze(model)
    assert sorted(vars(layer)) == own


def test_needs_weights_for_gamma_and_beta():
    model = keras.Sequential([layers.BatchNormalization(name="new")])
    with pytest.raises(ValueError, match="'new' has no weights yet"):
        freeze(model, affine_trainable=False)
    freeze(model)
    assert model.layers[0].frozen_statistics
    with pytest.raises(ValueError, match="holds no batch norm"):
        unfreeze(keras.Sequential([keras.layers.Dense(1)]))


@every_norm
def test_a_model_is_frozen_if_all_its_norms_are(norm):
    first, second = norm(), norm()
    model = keras.Sequential([keras.Input((4,)), first, keras.Sequential([second])])
    assert not is_frozen(model)
    freeze(first)
    assert is_frozen(first)
    assert not is_frozen(model)
    freeze(model)
    assert is_frozen(model)
    unfreeze(model)
    assert not any(map(is_frozen, (first, second, model)))


def test_without_norms_nothing_is_frozen_and_what_is_no_layer_is_refused():
    assert not is_frozen(keras.layers.Dense(1))
    with pytest.raises(TypeError, match="`model` must be a Keras model or layer, received 'x'"):
        is_frozen("x")


def test_whether_gamma_and_beta_train_on_is_a_truth_value():
    layer = layers.BatchNormalization()
    with pytest.raises(TypeError, match="`affine_trainable` must be True or False, received 'no'"):
        freeze(layer, affine_trainable="no")
    assert not layer.frozen_statistics
