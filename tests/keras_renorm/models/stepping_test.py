"""Callbacks that go by steps, in trainings whose steps the model's own optimizer does not make."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_renorm import callbacks, diagnostics, layers


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
