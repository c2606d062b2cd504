"""What holds on every Keras backend; `backends_test.py` runs this under each in a process."""

import os

import keras
import numpy as np
import pytest

from keras_renorm import layers, schedules
from keras_renorm.callbacks import FreezeStatistics, PreciseStatistics
from keras_renorm.statistics import batch_statistics, freeze, precise, save_set, use_set

NORMS = {
    "ours": lambda: layers.BatchRenormalization(r_max=schedules.PAPER_R_MAX),
    "keras": lambda: keras.layers.BatchNormalization(),
}
every_norm = pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)


def numpy(value):
    return np.array(keras.ops.convert_to_numpy(value))


def model_of(norm):
    dense = keras.layers.Dense(4)
    return keras.Sequential([keras.Input((3,)), norm(), dense, keras.layers.ReLU(), norm()])


def assert_precise(model, x):
    for layer in model.layers:
        if hasattr(layer, "moving_mean"):
            mean, variance = np.float64(x).mean(0), np.float64(x).var(0)
            allowed = 2e-6 * np.maximum(np.abs(mean), np.sqrt(variance))
            assert (np.abs(numpy(layer.moving_mean) - mean) <= allowed).all()
            np.testing.assert_allclose(numpy(layer.moving_variance), variance, rtol=2e-6)
        x = numpy(layer(x))


@pytest.fixture
def x(rng):
    return (rng.normal(size=(23, 3)) + 5).astype("f4")


def test_the_backend_is_the_one_asked_for():
    assert keras.backend.backend() == os.environ["KERAS_BACKEND"]


@every_norm
@pytest.mark.parametrize("batch_size", [23, 8, 1])
def test_precise(norm, x, batch_size):
    model = model_of(norm)
    report = precise(model, x, batch_size=batch_size, verbose=0)
    assert report.sweeps == (1 if batch_size == 23 else 2)
    assert_precise(model, x)


def test_texts_are_refused():
    model = model_of(NORMS["keras"])
    with pytest.raises(TypeError, match=r"numbers under (JAX|PyTorch), .* an array of dtype <U1"):
        precise(model, np.array([["a", "b", "c"]]), verbose=0)


def masked_nested_model_of_domains(norm):
    inputs = keras.Input((5, 4)), keras.Input((), dtype="int32")
    x = norm()(keras.layers.Masking(-7.0)(inputs[0]))
    x = keras.layers.GlobalAveragePooling1D()(x)
    x = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), norm()])(x)
    x = layers.DomainBatchRenormalization(3)(keras.layers.ReLU()(x), domain=inputs[1])
    return keras.Model(inputs, norm()(keras.layers.Dense(2)(x)))


def model_with_a_shared_norm(norm):
    inputs = keras.Input((5, 4)), keras.Input((), dtype="int32")
    shared = norm()
    return keras.Model(inputs, [shared(shared(inputs[0])), inputs[1]])


@every_norm
@pytest.mark.parametrize("make", [masked_nested_model_of_domains, model_with_a_shared_norm])
def test_one_batch_of_all_gives_what_batch_by_batch_does(rng, norm, make):
    x, ids = rng.normal(2.0, 3.0, (24, 5, 4)).astype("f4"), np.arange(24).astype("i4") % 2
    for row, length in zip(x, rng.integers(2, 6, 24), strict=True):
        row[length:] = -7.0
    batches = [((x[i : i + 7], ids[i : i + 7]),) for i in range(0, 24, 7)]
    model, found = make(norm), []
    start = model.get_weights()
    for memory_budget in (0, 2**20):
        model.set_weights(start)
        report = precise(model, batches, memory_budget=memory_budget, verbose=0)
        found.append(model.get_weights())
    joined = make is masked_nested_model_of_domains
    assert (report.sweeps == 1) == joined
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-6, atol=1e-6)


class Sampling(keras.layers.Layer):
    """Random in inference, as in variational autoencoders."""

    def __init__(self):
        super().__init__()
        self.seed = keras.random.SeedGenerator(1)

    def call(self, x):
        return x + keras.random.normal(keras.ops.shape(x), seed=self.seed)


@pytest.mark.parametrize("batch_size", [32, 1000])
def test_each_batch_has_random_numbers_of_its_own(batch_size):
    norms = layers.BatchNormalization(), layers.BatchNormalization()
    sampling = Sampling()
    model = keras.Sequential([keras.Input((4,)), sampling, *norms])
    state = numpy(sampling.seed.state)
    precise(model, np.zeros((10_000, 4), "f4"), batch_size=batch_size, verbose=0)
    np.testing.assert_array_equal(numpy(sampling.seed.state), state)
    # Five standard errors of 10,000 values. The same 32 rows in each batch would make them 18 times
    # as large.
    np.testing.assert_allclose(numpy(norms[0].moving_mean), 0, atol=0.05)
    np.testing.assert_allclose(numpy(norms[0].moving_variance), 1, atol=0.07)
    # Each sweep draws the same: what the second norm receives is normalized by the first one's.
    np.testing.assert_allclose(numpy(norms[1].moving_mean), 0, atol=1e-6)
    variance = numpy(norms[0].moving_variance)
    np.testing.assert_allclose(
        numpy(norms[1].moving_variance), variance / (variance + 1e-3), rtol=1e-5
    )


def test_precise_keeps_nothing_for_gradients_under_torch(x):
    if keras.backend.backend() != "torch":
        return
    import torch

    class Watch(keras.layers.Layer):
        def call(self, x):
            seen.append(torch.is_grad_enabled())
            return x

    seen = []
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), Watch(), NORMS["ours"]()])
    seen.clear()
    precise(model, x, verbose=0)
    assert seen == [False]


@every_norm
def test_a_failure_leaves_the_model_as_it_was(norm, x):
    model = model_of(norm)
    before = [numpy(w) for w in model.variables]
    with pytest.raises(ValueError, match="not finite in the examples 23 to 45"):
        precise(model, [x, np.full_like(x, np.inf)], verbose=0)
    for old, new in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(numpy(new), old)
    assert all("call" not in vars(layer) for layer in model.layers)


@every_norm
def test_batch_statistics(norm, x):
    model = model_of(norm)
    precise(model, x, verbose=0)
    before = model.predict(x, verbose=0)
    with batch_statistics(model):
        inside = model.predict(x, verbose=0)
        np.testing.assert_allclose(numpy(model(x)), inside, atol=1e-5)
    # The minibatch is the population, so the outputs are those of inference.
    np.testing.assert_allclose(inside, before, atol=1e-4)
    np.testing.assert_array_equal(model.predict(x, verbose=0), before)
    with batch_statistics(model):
        part = model.predict(x[:5], verbose=0)
    assert np.abs(part - before[:5]).max() > 0.1


def test_pytorch_compiles_keras_norms_whole(x):
    """By minibatch statistics, or frozen: nothing in their call stops its compiler."""
    if keras.backend.backend() != "torch":
        return
    import torch

    norm = keras.layers.BatchNormalization()
    norm.build((None, 3))
    x = keras.ops.convert_to_tensor(x[:8])
    compiled = torch.compile(lambda x: norm(x), backend="eager", fullgraph=True)
    with batch_statistics(norm):
        np.testing.assert_allclose(numpy(compiled(x)).mean(0), np.zeros(3), atol=1e-5)
    freeze(norm)
    np.testing.assert_array_equal(numpy(compiled(x)), numpy(norm(x)))


def test_freezing_counts_the_steps_of_gathered_gradients(x):
    model = model_of(NORMS["ours"])
    model.compile(keras.optimizers.SGD(1e-3, gradient_accumulation_steps=2), "mse")
    callbacks = [FreezeStatistics(2)]
    model.fit(x, np.zeros((23, 4)), batch_size=4, verbose=0, callbacks=callbacks)
    assert int(numpy(model.layers[0].update_count)) == 4


@pytest.mark.parametrize("passes", ["exact", "single"])
def test_no_layers(x, passes):
    with pytest.raises(ValueError, match="`layers` must hold at least one batch norm"):
        precise(model_of(NORMS["ours"]), x, layers=[], passes=passes, verbose=0)


def test_callbacks_and_sets(x):
    model = model_of(NORMS["ours"])
    model.compile(keras.optimizers.SGD(1e-3), "mse")
    fit = {"batch_size": 8, "verbose": 0, "validation_data": (x, np.zeros((23, 4)))}
    callback = PreciseStatistics(x, every_epochs=1)
    model.fit(x, np.zeros((23, 4)), callbacks=[callback], epochs=2, **fit)
    assert_precise(model, x)
    saved = save_set(model, "a")
    model.fit(x, np.zeros((23, 4)), callbacks=[FreezeStatistics(6)], epochs=2, **fit)
    assert [numpy(one).tolist() for one in save_set(model, "b").values()] == [
        one.tolist() for one in saved.values()
    ]
    freeze(model, affine_trainable=False)
    model.compile("sgd", "mse")
    gamma = numpy(model.layers[0].gamma)
    model.fit(x, np.zeros((23, 4)), **fit)
    np.testing.assert_array_equal(numpy(model.layers[0].gamma), gamma)
    use_set(model, "a")


def test_keras_own_mask_reaches_domains(rng):
    inputs, ids = keras.Input((5, 3)), keras.Input((), dtype="int32")
    norm = layers.DomainBatchNormalization(2)
    model = keras.Model([inputs, ids], norm(keras.layers.Masking()(inputs), domain=ids))
    x, domains = rng.normal(3.0, 2.0, (8, 5, 3)).astype("f4"), np.arange(8, dtype="i4") % 2
    x[:, 3:] = 0.0
    precise(model, [((x, domains),)], verbose=0)
    for k in range(2):
        seen = np.float64(x[domains == k, :3]).reshape(-1, 3)
        np.testing.assert_allclose(numpy(norm.moving_mean)[k], seen.mean(0), rtol=1e-5)
        np.testing.assert_allclose(numpy(norm.moving_variance)[k], seen.var(0), rtol=1e-5)
