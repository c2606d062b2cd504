"""Averages held against the formula in float64."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_renorm.layers import BatchRenormalization
from zoo.training.averages import Averages
from zoo.training.step import make_train_step


@pytest.fixture
def model():
    return keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(4),
            BatchRenormalization(r_max=keras_schedule(), d_max=5.0),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(2),
        ]
    )


def keras_schedule():
    from keras_renorm.schedules import LinearRamp

    return LinearRamp(1, 3, 1, 9)


@pytest.mark.parametrize("decay", [0.9, 0.3])
def test_averages_follow_the_formula(model, rng, decay):
    averages = Averages(model, decay)
    optimizer = keras.optimizers.SGD(0.5)
    optimizer.build(model.trainable_variables)
    step = make_train_step(model, optimizer, averages=averages)
    expected = [np.array(w, np.float64) for w in model.get_weights()]
    for t in range(1, 8):
        x = tf.constant(rng.normal(2.0, 3.0, size=(6, 3)), tf.float32)
        step(x, tf.constant(rng.integers(0, 2, 6)))
        rest = 1 - min(decay, (1 + t) / (10 + t))
        for average, value in zip(expected, model.get_weights(), strict=True):
            average += rest * (value - average)
    moved = 0
    for variable, found, value in zip(
        averages.model.weights, averages.model.get_weights(), expected, strict=True
    ):
        if variable.dtype == "float32":
            np.testing.assert_allclose(found, value, rtol=1e-5, atol=1e-6)
            moved += 1
    assert moved == 8  # two kernels, two biases, gamma, beta, mean and variance
    # The schedule's counter and the random state of the dropout are those of the model.
    copied = {"update_count", "seed_generator_state"}
    for average, variable in zip(averages.model.variables, model.variables, strict=True):
        if variable.name in copied:
            copied.remove(variable.name)
            np.testing.assert_array_equal(average, variable)
    assert not copied
    assert float(model.layers[1].update_count) == 7


def test_what_the_default_limits_have_seen_is_copied(rng):
    model = keras.Sequential([keras.Input((3,)), BatchRenormalization(), keras.layers.Dense(2)])
    averages = Averages(model, 0.9)
    optimizer = keras.optimizers.SGD(0.1)
    optimizer.build(model.trainable_variables)
    step = make_train_step(model, optimizer, averages=averages)
    for _ in range(3):
        x = tf.constant(rng.normal(2.0, 3.0, size=(6, 3)), tf.float32)
        step(x, tf.constant(rng.integers(0, 2, 6)))
    norm, average = model.layers[0], averages.model.layers[0]
    np.testing.assert_array_equal(average.seen, norm.seen)
    np.testing.assert_array_equal(average.deviations, norm.deviations)
    assert np.any(np.asarray(average.moving_mean) != np.asarray(norm.moving_mean))


def test_replicas_average_their_own_statistics(run_checks):
    run_checks("averages_checks.py")
