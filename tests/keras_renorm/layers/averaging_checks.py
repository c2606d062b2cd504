"""Averages and gradients over all variables of a model; `backends_test.py` runs this by backend."""

import keras
import numpy as np
import pytest

from keras_renorm import layers, schedules

RAMP = schedules.LinearRamp(1.0, 3.0, start_step=0, end_step=10)


def net(steps):
    """A net after some steps, of a layer with all that limits may depend on."""
    norm = layers.BatchRenormalization(momentum=0.9, r_max=RAMP)
    model = keras.Sequential([keras.Input((4,)), norm, keras.layers.Dense(2)])
    for i in range(steps):
        model(np.random.default_rng(i).normal(i, 2.0, (8, 4)).astype("f4"), training=True)
    return model


def values(model):
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in model.variables]


def soft_update_by_tensorflow(target, source):
    import tensorflow as tf

    @tf.function
    def update():
        for w, v in zip(target.variables, source.variables, strict=True):
            w.assign(w + 0.5 * (v - w))

    update()


def soft_update_by_jax(target, source):
    import jax

    sources = [variable.value for variable in source.variables]

    def step(carry, _):
        return [w + 0.5 * (v - w) for w, v in zip(carry, sources, strict=True)], None

    found, _ = jax.lax.scan(step, [variable.value for variable in target.variables], length=1)
    for variable, value in zip(target.variables, found, strict=True):
        variable.assign(value)


def soft_update_by_torch(target, source):
    import torch

    with torch.no_grad():
        for w, v in zip(target.variables, source.variables, strict=True):
            w.value.lerp_(v.value, 0.5)


def test_a_soft_update_takes_all_variables():
    target, source = net(2), net(8)
    desired = [(w + v) / 2 for w, v in zip(values(target), values(source), strict=True)]
    globals()[f"soft_update_by_{keras.backend.backend()}"](target, source)
    for actual, value in zip(values(target), desired, strict=True):
        np.testing.assert_allclose(actual, value, rtol=1e-6)
    norm = target.layers[0]
    assert norm.current_limits().r_max == 2.0  # after 5 updates
    target(np.ones((8, 4), "f4"), training=True)
    assert norm.current_limits().r_max == pytest.approx(2.2)


def test_a_count_between_whole_numbers_counts_as_the_nearest():
    norm = net(3).layers[0]
    for count, r_max in ((2.4, 1.4), (2.6, 1.6), (2.9999998, 1.6)):
        norm.update_count.assign(count)
        assert norm.current_limits().r_max == pytest.approx(r_max)


def average_by_tensorflow():
    import tensorflow as tf

    model, average = net(3), tf.train.ExponentialMovingAverage(0.5)
    variables = [variable.value for variable in model.variables]
    average.apply(variables)
    model.layers[0].update_count.assign(5)
    average.apply(variables)
    assert float(average.average(model.layers[0].update_count.value)) == 4


def gradient_by_jax():
    import jax

    model = net(8)
    x = np.random.default_rng(9).normal(3.0, 2.0, (8, 4)).astype("f4")

    def loss(trainable, rest):
        y, _ = model.stateless_call(trainable, rest, x, training=True)
        return (y**2).mean()

    parts = model.trainable_variables, model.non_trainable_variables
    state = [[variable.value for variable in part] for part in parts]
    trained, rest = jax.grad(loss, argnums=(0, 1))(*state)
    assert all(np.abs(gradient).sum() > 0 for gradient in trained)
    for gradient, variable in zip(rest, parts[1], strict=True):
        np.testing.assert_array_equal(gradient, np.zeros(variable.shape))


if keras.backend.backend() == "tensorflow":
    test_an_average_of_tensorflow_takes_all_variables = average_by_tensorflow
if keras.backend.backend() == "jax":
    test_a_gradient_of_jax_takes_the_whole_state = gradient_by_jax
