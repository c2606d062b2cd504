"""Statistics on the replicas of a strategy of logical CPUs; `replicas_test.py` runs this."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_renorm import layers
from keras_renorm.statistics import batch_statistics, freeze, precise, save_set, use_set

REPLICAS = len(tf.config.list_logical_devices("CPU"))
NORMS = {
    "own": lambda: layers.BatchRenormalization(),
    "synchronized": lambda: layers.BatchNormalization(synchronized=True),
    "keras": lambda: keras.layers.BatchNormalization(),
}


@pytest.fixture(scope="module")
def strategy():
    return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(REPLICAS)])


@pytest.fixture
def x(rng):
    return rng.normal(2.0, 3.0, (23, 5, 3)).astype("f4")


def model_of(norm):
    initial = keras.initializers.GlorotUniform(1)
    conv = keras.layers.Conv1D(4, 3, kernel_initializer=initial)
    return keras.Sequential([keras.Input((5, 3)), conv, norm(), keras.layers.ReLU(), norm()])


def own_values(variable):
    return [value.numpy() for value in variable.value.values]


def norms_of(model):
    return [layer for layer in model.layers if hasattr(layer, "moving_mean")]


def drift(strategy, model, x):
    """Training steps that leave each replica with statistics of its own."""
    parts = np.array_split(x, REPLICAS)

    @tf.function
    def step():
        def own():
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            model(tf.stack([part[:7] for part in parts])[replica], training=True)

        strategy.run(own)

    step()


@pytest.mark.parametrize(
    ("norm", "batch_size"),
    [("own", 23), ("own", 8), ("own", 1), ("synchronized", 8), ("keras", 8)],
)
def test_all_replicas_get_the_moments_of_all_examples(strategy, norm, x, batch_size):
    with strategy.scope():
        model = model_of(NORMS[norm])
    drift(strategy, model, x)
    report = precise(model, x, batch_size=batch_size, verbose=0)
    assert report.sweeps == (1 if batch_size == 23 else 2)
    received = x
    for layer in model.layers:
        if layer in norms_of(model):
            flat = np.float64(received).reshape(-1, 4)
            for variable, value in [
                (layer.moving_mean, flat.mean(0)),
                (layer.moving_variance, flat.var(0)),
            ]:
                first, *others = own_values(variable)
                np.testing.assert_allclose(first, value, rtol=1e-6, atol=1e-6)
                for other in others:
                    np.testing.assert_array_equal(other, first)
        received = layer(received).numpy()


@pytest.mark.parametrize("dataset", ["early", "nan"])
def test_a_failure_leaves_every_replica_as_it_was(strategy, x, dataset):
    with strategy.scope():
        model = model_of(NORMS["own"])
    drift(strategy, model, x)
    before = [own_values(layer.moving_mean) for layer in norms_of(model)]
    assert (before[0][0] != before[0][1]).any()
    batches, count = ([x], 24) if dataset == "early" else ([x, np.full_like(x, np.nan)], None)
    with pytest.raises(ValueError, match="ended after 23" if count else "are not finite"):
        precise(model, batches, count, verbose=0)
    for old, layer in zip(before, norms_of(model), strict=True):
        np.testing.assert_array_equal(own_values(layer.moving_mean), old)


def test_a_single_pass(strategy, x):
    with strategy.scope():
        model = model_of(NORMS["synchronized"])
    alone = model_of(NORMS["synchronized"])
    for one in (model, alone):
        precise(one, x, batch_size=8, passes="single", verbose=0)
    for ours, theirs in zip(norms_of(model), norms_of(alone), strict=True):
        np.testing.assert_allclose(
            own_values(ours.moving_variance)[-1], theirs.moving_variance.numpy(), rtol=1e-5
        )


@pytest.mark.parametrize("norm", ["own", "keras"])
def test_predict_with_batch_statistics_and_back(strategy, norm, x):
    with strategy.scope():
        model = model_of(NORMS[norm])
    precise(model, x, verbose=0)
    x = x[:4]
    before = model.predict(x, batch_size=4, verbose=0)
    with batch_statistics(model):
        inside = model.predict(x, batch_size=4 * REPLICAS, verbose=0)
    assert np.abs(inside - before).max() > 1e-2
    np.testing.assert_array_equal(model.predict(x, batch_size=4, verbose=0), before)


@pytest.mark.parametrize("norm", ["own", "keras"])
def test_fit_keeps_frozen_statistics_and_sets_are_the_same_everywhere(strategy, norm, x):
    with strategy.scope():
        model = model_of(NORMS[norm])
        model.compile("sgd", "mse")
    drift(strategy, model, x)
    kept = save_set(model, "drifted")
    use_set(model, "drifted")
    freeze(model)
    targets = np.zeros((24, 3, 4), "f4")
    model.fit(np.concatenate([x, x[:1]]), targets, batch_size=12, verbose=0)
    for number, layer in enumerate(norms_of(model)):
        saved = kept[f"{number}/{layer.path}/moving_mean"]
        for value in own_values(layer.moving_mean):
            np.testing.assert_array_equal(value, saved)


def test_a_norm_that_inference_does_not_call_is_skipped(strategy, x):
    class Idle(keras.Model):
        def __init__(self):
            super().__init__()
            self.norm = layers.BatchNormalization(name="norm")

        def call(self, x, training=None):
            return self.norm(x, training=True) if training else x

    with strategy.scope():
        model = Idle()
        model.norm.build((None, 3))
        model(x[:1])
    report = precise(model, x, batch_size=8, verbose=0)
    assert report.skipped == (model.norm.path,)


def test_a_model_with_one_norm(strategy, x):
    with strategy.scope():
        model = keras.Sequential([keras.Input(x.shape[1:]), layers.BatchNormalization()])
    precise(model, x, batch_size=7, verbose=0)
    mean = np.float64(x).mean(tuple(range(x.ndim - 1)))
    for value in own_values(model.layers[0].moving_mean):
        np.testing.assert_allclose(value, mean, rtol=1e-5, atol=1e-6)
