"""Callbacks that go by steps, in trainings whose steps the model's own optimizer does not make."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_renorm import callbacks, diagnostics, layers
from keras_renorm.models import at_step, steps_so_far


class Own(keras.Sequential):
    """A model that steps with an optimizer that Keras does not know of."""

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = keras.ops.mean(keras.ops.square(self(x, training=True) - y))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.own_optimizer.apply(gradients, self.trainable_variables)
        return {"loss": loss}


def freezing(**options):
    return callbacks.FreezeStatistics(2, **options)


def logging(**options):
    gauges = [lambda model: diagnostics.lint(model)]
    return callbacks.LogDiagnostics(gauges, every_n_steps=2, **options)


def recording(**options):
    return diagnostics.ActivationPercentiles("norm", 0, np.ones((4, 4)), every_n_steps=2, **options)


def fit(callback, optimizer="sgd", given=False):
    norm = layers.BatchRenormalization(num_steps=10**6, name="norm")
    model = Own([keras.Input((4,)), norm, keras.layers.Dense(1)], name="net")
    model.own_optimizer = keras.optimizers.SGD(0.1)
    model.own_optimizer.build(model.trainable_variables)
    model.compile(optimizer)
    made = callback(**({"optimizer": model.own_optimizer} if given else {}))
    x = np.random.default_rng(0).normal(size=(12, 4)).astype("f4")
    model.fit(x, x[:, :1], batch_size=4, verbose=0, callbacks=[made])
    return norm, made


every_callback = pytest.mark.parametrize(
    "callback", [callbacks.CountSteps, freezing, logging, recording]
)


def test_another_optimizer_is_followed_if_it_is_given():
    assert fit(freezing, given=True)[0].frozen_statistics
    assert int(fit(callbacks.CountSteps, given=True)[0].update_count) == 3
    assert [record.step for record in fit(recording, given=True)[1].data] == [0, 2, 3]
    fit(logging, None, given=True)


@every_callback
def test_an_optimizer_that_makes_no_step_is_named(callback):
    with pytest.warns(UserWarning, match=r"(\w+) counted nothing: the .*write \1\(\.\.\., optimi"):
        fit(callback)


@every_callback
def test_a_model_without_an_optimizer_is_refused(callback):
    with pytest.raises(ValueError, match=r"'net' is compiled without one.*: \w+\(\.\.\., optimi"):
        fit(callback, None)


def test_the_steps_so_far_are_the_optimizers_unless_they_are_told():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    assert steps_so_far(model) is None
    model.compile("sgd", "mse")
    assert steps_so_far(model) == 0
    x = np.ones((12, 4), "f4")
    model.fit(x, x[:, :1], batch_size=4, verbose=0)
    assert steps_so_far(model) == 3
    with at_step(7):
        assert steps_so_far(model) == 7
    assert steps_so_far(model) == 3


@pytest.mark.parametrize("optimizer", ["sgd", None])
def test_gauges_are_told_the_steps_of_the_optimizer_that_is_given(optimizer):
    seen = []

    def gauge(model):
        seen.append(steps_so_far(model))
        return diagnostics.lint(model)

    fit(lambda **given: callbacks.LogDiagnostics([gauge], **given), optimizer, given=True)
    assert seen == [0, 3]


def test_a_record_in_a_loop_of_ones_own_finds_a_counter_that_stands_still():
    norm = layers.BatchRenormalization(num_steps=10**6, name="norm")
    model = keras.Sequential([keras.Input((4,)), norm])
    x = np.ones((4, 4), "f4")
    callback = callbacks.LogDiagnostics([lambda model: diagnostics.renorm_report(model, x)])
    callback.set_model(model)
    callback.record(10)
    faults = {finding.kind: finding.message for finding in callback.reports[0].findings}
    assert "stands at 0 updates after 10 training steps" in faults["frozen schedule"]


@every_callback
def test_an_optimizer_of_another_library_is_refused(callback):
    made = callback(optimizer=0.1)
    norm = layers.BatchRenormalization(num_steps=10**6, name="norm")
    made.set_model(keras.Sequential([keras.Input((4,)), norm]))
    with pytest.raises(TypeError, match=r"`optimizer` must be an optimizer of Keras, received 0.1"):
        made.on_train_begin()


class OfKeras34(keras.optimizers.SGD):
    """Counts as optimizers of Keras 3.4 do: `iterations` are the minibatches that it gathered."""

    @property
    def iterations(self):
        return self._iterations


@pytest.mark.parametrize("optimizer", [keras.optimizers.SGD, OfKeras34])
@pytest.mark.parametrize("scaled", [False, True])
def test_all_count_the_same_steps_where_gradients_are_gathered(optimizer, scaled):
    made = optimizer(0.1, gradient_accumulation_steps=2)
    if scaled:
        made = keras.optimizers.LossScaleOptimizer(made)
    norm = layers.BatchRenormalization(num_steps=10**6, name="norm")
    model = keras.Sequential([keras.Input((4,)), norm, keras.layers.Dense(1)])
    model.compile(made, "mse")
    x = np.random.default_rng(0).normal(size=(24, 4)).astype("f4")
    record = recording()
    all_callbacks = [callbacks.CountSteps(), record]
    model.fit(x, x[:, :1], batch_size=4, verbose=0, callbacks=all_callbacks)
    assert steps_so_far(model) == int(norm.update_count) == 3
    assert [entry.step for entry in record.data] == [0, 2, 3]
