"""Steps of softmax regression held against float64 NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_renorm.layers import BatchRenormalization
from zoo.training.step import count_correct, l2_penalty, make_train_step

RATE, MOMENTUM, DECAY = 0.1, 0.9, 0.03


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def reference_steps(x, labels, kernel, bias, steps):
    """SGD with momentum on cross-entropy + DECAY / 2 * |kernel|^2; yields (objective, loss)."""
    one_hot = np.eye(kernel.shape[1])[labels]
    velocity_k, velocity_b = np.zeros_like(kernel), np.zeros_like(bias)
    for _ in range(steps):
        p = softmax(x @ kernel + bias)
        loss = -np.mean(np.log(p[np.arange(len(labels)), labels]))
        yield loss + DECAY / 2 * np.sum(kernel**2), loss
        error = (p - one_hot) / len(labels)
        velocity_k = MOMENTUM * velocity_k - RATE * (x.T @ error + DECAY * kernel)
        velocity_b = MOMENTUM * velocity_b - RATE * error.sum(axis=0)
        kernel += velocity_k
        bias += velocity_b


def built(optimizer, model):
    optimizer.build(model.trainable_variables)
    return optimizer


def test_an_auxiliary_classifiers_loss_is_weighted(rng):
    x, labels = rng.normal(size=(8, 5)), rng.integers(0, 3, 8)
    inputs = keras.Input((5,))
    model = keras.Model(inputs, [keras.layers.Dense(3)(inputs), keras.layers.Dense(3)(inputs)])
    before = [np.array(w, np.float64) for w in model.get_weights()]
    step = make_train_step(model, built(keras.optimizers.SGD(RATE), model), 0.0, 0.4)
    found = step(tf.constant(x, tf.float32), tf.constant(labels))
    losses = []
    for i, weight in ((0, 1.0), (2, 0.4)):
        p = softmax(x @ before[i] + before[i + 1])
        losses.append(-np.mean(np.log(p[np.arange(8), labels])))
        kernel = before[i] - RATE * weight * x.T @ (p - np.eye(3)[labels]) / 8
        np.testing.assert_allclose(model.get_weights()[i], kernel, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.loss, losses[0], rtol=1e-5)
    np.testing.assert_allclose(found.objective, losses[0] + 0.4 * losses[1], rtol=1e-5)


def test_steps_agree_with_the_reference(rng):
    x, labels = rng.normal(size=(8, 5)), rng.integers(0, 3, 8)
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])
    kernel, bias = (np.array(w, np.float64) for w in model.get_weights())
    optimizer = built(keras.optimizers.SGD(RATE, MOMENTUM), model)
    step = make_train_step(model, optimizer, weight_decay=DECAY)
    for objective, loss in reference_steps(x, labels, kernel, bias, steps=5):
        found = step(tf.constant(x, tf.float32), tf.constant(labels))
        np.testing.assert_allclose(found.objective, objective, rtol=1e-5)
        np.testing.assert_allclose(found.loss, loss, rtol=1e-5)
    np.testing.assert_allclose(model.get_weights()[0], kernel, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(model.get_weights()[1], bias, rtol=1e-4, atol=1e-6)


def test_the_layers_own_losses_are_minimised_too():
    model = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(2, kernel_regularizer=keras.regularizers.L1(10.0))]
    )
    before = np.abs(model.get_weights()[0])
    step = make_train_step(model, built(keras.optimizers.SGD(1e-3), model), weight_decay=0.0)
    found = step(tf.zeros([4, 2]), tf.constant([0, 1, 0, 1]))
    np.testing.assert_allclose(found.objective - found.loss, 10 * before.sum(), rtol=1e-5)
    np.testing.assert_allclose(np.abs(model.get_weights()[0]), before - 0.01, rtol=1e-5)


def test_gradients_pass_a_batch_renorm_layer_and_its_statistics_move(rng):
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(4),
            BatchRenormalization(r_max=3.0, d_max=5.0),
            keras.layers.Dense(2),
        ]
    )
    step = make_train_step(model, built(keras.optimizers.SGD(0.1), model), weight_decay=0.0)
    before = [w.copy() for w in model.get_weights()]
    x = tf.constant(rng.normal(3.0, 2.0, size=(16, 3)), tf.float32)
    step(x, tf.constant(rng.integers(0, 2, 16)))
    # Kernel, gamma, beta, moving mean, moving variance, kernel, bias; the first bias has no effect.
    changed = [not np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True)]
    assert changed[0]
    assert all(changed[2:])


def test_l2_counts_kernels_only():
    kernel = keras.Variable([[1.0, 2.0], [3.0, 4.0]])
    bias = keras.Variable([100.0])
    assert float(l2_penalty([kernel, bias], 0.1)) == pytest.approx(0.1 * 30 / 2)


def test_count_correct(rng):
    scores, labels = rng.normal(size=(50, 4)), rng.integers(0, 4, 50)
    expected = int(np.sum(np.argmax(scores, axis=1) == labels))
    assert int(count_correct(tf.constant(scores), tf.constant(labels))) == expected
