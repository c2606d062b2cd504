import keras
import numpy as np
import pytest

from keras_renorm import layers
from keras_renorm.callbacks import PreciseStatistics


@pytest.fixture
def x(rng):
    return rng.normal(2.0, 3.0, (24, 4)).astype("f4")


@pytest.fixture
def model():
    norms = layers.BatchNormalization(), layers.BatchRenormalization()
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4), *norms])
    model.compile(keras.optimizers.SGD(0.01), "mse")
    return model


class Watch(keras.callbacks.Callback):
    """Whether the first norm has the moments of what it receives, when asked."""

    def __init__(self, x):
        super().__init__()
        self.x, self.epochs, self.validations = x, [], []

    def is_precise(self):
        received = keras.ops.convert_to_numpy(self.model.layers[0](self.x)).astype("f8")
        mean = keras.ops.convert_to_numpy(self.model.layers[1].moving_mean)
        return bool(np.allclose(mean, received.mean(0), rtol=1e-5, atol=1e-6))

    def on_test_batch_begin(self, batch, logs=None):
        self.validations.append(self.is_precise())

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(self.is_precise())


def fit(model, x, callback, **options):
    watch = Watch(x)
    callbacks = [callback, watch]
    model.fit(x, x, batch_size=8, epochs=4, verbose=0, callbacks=callbacks, **options)
    return watch


def test_at_the_end(model, x):
    callback = PreciseStatistics(x)
    watch = fit(model, x, callback)
    assert watch.epochs == [False] * 4
    assert watch.is_precise()
    assert (callback.report.examples, callback.report.sweeps) == (24, 1)


@pytest.mark.parametrize("validated", [False, True])
def test_every_second_epoch_and_before_its_validation(model, x, validated):
    callback = PreciseStatistics([x[:8], x[8:]], every_epochs=2, at_end=False)
    options = {"validation_data": (x, x), "validation_batch_size": 24} if validated else {}
    watch = fit(model, x, callback, **options)
    assert watch.epochs == [False, True, False, True]
    assert watch.validations == ([False, True, False, True] if validated else [])


@pytest.mark.parametrize(
    "other",
    [
        keras.callbacks.EarlyStopping("loss", mode="max", patience=9, restore_best_weights=True),
        keras.callbacks.SwapEMAWeights(),
    ],
    ids=["early_stopping", "ema"],
)
def test_weights_that_another_callback_changes_at_the_end(model, x, other):
    model.compile(keras.optimizers.SGD(0.01, use_ema=True, ema_momentum=0.5), "mse")
    callbacks = [other, PreciseStatistics(x, every_epochs=1)]
    model.fit(x, x, batch_size=8, epochs=3, verbose=0, callbacks=callbacks)
    watch = Watch(x)
    watch.set_model(model)
    assert watch.is_precise()


def test_an_epoch_is_not_done_twice(model, x, monkeypatch):
    calls = []
    monkeypatch.setattr(
        "keras_renorm.callbacks.precise_statistics.precise",
        lambda model, **options: calls.append(options),
    )
    fit(model, x, PreciseStatistics(x, 16, every_epochs=2, passes="single", at_end=False))
    assert len(calls) == 2
    assert calls[0]["num_samples"] == 16
    assert calls[0]["passes"] == "single"
    validated = {"validation_data": (x, x)}
    fit(model, x, PreciseStatistics(x, every_epochs=1, at_end=False), **validated)
    assert len(calls) == 6
    fit(model, x, PreciseStatistics(x, every_epochs=3))
    assert len(calls) == 8


def test_bad_arguments(x):
    with pytest.raises(ValueError, match="nothing to do with every_epochs=None and at_end=False"):
        PreciseStatistics(x, at_end=False)
    with pytest.raises(ValueError, match="`every_epochs` must be at least 1"):
        PreciseStatistics(x, every_epochs=0)
    with pytest.raises(TypeError, match=r"`every_epochs` must be an integer, received 0\.5"):
        PreciseStatistics(x, every_epochs=0.5)
    with pytest.raises(ValueError, match="`dataset` is a list_iterator, which can be read only"):
        PreciseStatistics(iter([x]), every_epochs=1)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"estimater": "total"}, TypeError, r"received estimater; its arguments are dataset, num_"),
        ({"model": None}, TypeError, "must be arguments of `precise`, received model"),
        ({"estimator": "best"}, ValueError, "`estimator` must be one of 'total', 'mean_of_batch"),
        ({"passes": None}, ValueError, "`passes` must be one of 'exact', 'single'"),
        ({"verbose": 3}, ValueError, "`verbose` must be one of 'auto', 0, 1, 2"),
        ({"memory_budget": -1}, ValueError, "`memory_budget` must be at least 0"),
        ({"tolerance": -1}, ValueError, "`tolerance` must be at least 0"),
        ({"num_samples": 0}, ValueError, "`num_samples` must be at least 1"),
        ({"batch_size": 2.5}, TypeError, r"`batch_size` must be an integer, received 2\.5"),
        ({"dataset": 3}, TypeError, "`dataset` must be a tf.data.Dataset of batches, an array"),
    ],
)
def test_bad_arguments_of_precise_are_refused_before_training(x, options, error, message):
    with pytest.raises(error, match=message):
        PreciseStatistics(**{"dataset": x} | options)


def test_bad_layers_and_models_are_refused_before_the_first_step(model, x):
    with pytest.raises(ValueError, match="`layers` must hold at least one batch norm"):
        fit(model, x, PreciseStatistics(x, layers=[]))
    plain = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)], name="plain")
    plain.compile("sgd", "mse")
    with pytest.raises(ValueError, match="The model 'plain' holds no batch norm"):
        fit(plain, x, PreciseStatistics(x))
    assert int(model.optimizer.iterations) == int(plain.optimizer.iterations) == 0


class Block(keras.layers.Layer):
    """Makes its norm when it is built: where the model has no input, after training has begun."""

    def build(self, input_shape):
        self.norm = layers.BatchNormalization()
        self.norm.build(input_shape)

    def call(self, inputs, training=None):
        return self.norm(inputs, training=training)


def test_a_model_may_get_its_norms_with_its_first_batch(rng):
    x = rng.normal(3.0, 2.0, (64, 4)).astype("f4")
    model = keras.Sequential([Block(), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(x, np.ones((64, 1)), verbose=0, callbacks=[PreciseStatistics(x)])
    np.testing.assert_allclose(model.layers[0].norm.moving_mean, x.mean(0), rtol=1e-5)


def moments_of_a_file(path, x):
    """Of what the first norm receives in a saved model, beside its statistics."""
    model = keras.saving.load_model(path)
    received = np.float64(keras.ops.convert_to_numpy(model.layers[0](x)))
    norm = model.layers[1]
    return (received.mean(0), received.var(0)), (norm.moving_mean, norm.moving_variance)


@pytest.mark.parametrize("validated", [False, True])
@pytest.mark.parametrize("ema", [None, False, True], ids=["no ema", "ema", "ema of epochs"])
def test_what_is_saved_has_the_statistics_of_its_weights(model, x, tmp_path, validated, ema):
    model.compile(keras.optimizers.SGD(0.1, use_ema=ema is not None, ema_momentum=0.5), "mse")
    swap = [] if ema is None else [keras.callbacks.SwapEMAWeights(swap_on_epoch=ema)]
    path = tmp_path / "model.keras"
    callbacks = [
        *swap,
        PreciseStatistics(x, every_epochs=1, at_end=False),
        keras.callbacks.ModelCheckpoint(path),
    ]
    options = {"validation_data": (x, x)} if validated else {}
    model.fit(x, x, batch_size=8, epochs=2, verbose=0, callbacks=callbacks, **options)
    for desired, actual in zip(*moments_of_a_file(path, x), strict=True):
        np.testing.assert_allclose(actual, desired, rtol=1e-5, atol=1e-6)
