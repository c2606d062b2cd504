"""Steps of softmax regression held against float64 NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_renorm.layers import BatchRenormalization
from keras_renorm.schedules import LinearRamp
from zoo.data import mixing
from zoo.training.step import (
    Options,
    count_correct,
    l2_penalty,
    make_train_step,
    smoothed_cross_entropy,
)

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
    step = make_train_step(
        model, built(keras.optimizers.SGD(RATE), model), Options(auxiliary_weight=0.4)
    )
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
    step = make_train_step(model, optimizer, Options(weight_decay=DECAY))
    for objective, loss in reference_steps(x, labels, kernel, bias, steps=5):
        found = step(tf.constant(x, tf.float32), tf.constant(labels))
        np.testing.assert_allclose(found.objective, objective, rtol=1e-5)
        np.testing.assert_allclose(found.loss, loss, rtol=1e-5)
    np.testing.assert_allclose(model.get_weights()[0], kernel, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(model.get_weights()[1], bias, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("parts", [2, 4])
def test_a_minibatch_in_parts_gives_the_same_step(rng, parts):
    x, labels = rng.normal(size=(8, 5)), rng.integers(0, 3, 8)
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])
    kernel, bias = (np.array(w, np.float64) for w in model.get_weights())
    optimizer = built(keras.optimizers.SGD(RATE, MOMENTUM), model)
    step = make_train_step(model, optimizer, Options(weight_decay=DECAY, parts=parts))
    for objective, loss in reference_steps(x, labels, kernel, bias, steps=3):
        found = step(tf.constant(x, tf.float32), tf.constant(labels))
        np.testing.assert_allclose((found.objective, found.loss), (objective, loss), rtol=1e-5)
    np.testing.assert_allclose(model.get_weights()[0], kernel, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(model.get_weights()[1], bias, rtol=1e-4, atol=1e-6)


def test_parts_are_normalized_by_themselves(rng):
    x = rng.normal(size=(8, 3))
    inputs = keras.Input((3,))
    norm = keras.layers.BatchNormalization(momentum=0.5)
    model = keras.Model(inputs, keras.layers.Dense(2)(norm(inputs)))
    step = make_train_step(model, built(keras.optimizers.SGD(0.0), model), Options(parts=2))
    step(tf.constant(x, tf.float32), tf.zeros([8], tf.int64))
    mean = 0.5 * (0.5 * x[:4].mean(axis=0)) + 0.5 * x[4:].mean(axis=0)
    np.testing.assert_allclose(norm.moving_mean, mean, rtol=1e-5)


@pytest.mark.parametrize("parts", [1, 4])
def test_a_schedule_counts_steps_however_many_parts_they_have(rng, parts):
    inputs = keras.Input((3,))
    norm = BatchRenormalization(r_max=LinearRamp(1.0, 3.0, 0, 8), d_max=0.0)
    model = keras.Model(inputs, keras.layers.Dense(2)(norm(inputs)))
    step = make_train_step(model, built(keras.optimizers.SGD(0.1), model), Options(parts=parts))
    for _ in range(4):
        step(tf.constant(rng.normal(size=(8, 3)), tf.float32), tf.zeros([8], tf.int64))
    assert int(norm.update_count) == 4
    assert norm.current_limits().r_max == 2.0
    norm.trainable = False
    step = make_train_step(model, built(keras.optimizers.SGD(0.1), model), Options(parts=parts))
    step(tf.constant(rng.normal(size=(8, 3)), tf.float32), tf.zeros([8], tf.int64))
    assert int(norm.update_count) == 4


def test_smoothed_labels_are_those_of_float64(rng):
    logits, labels = rng.normal(size=(6, 4)), rng.integers(0, 4, 6)
    target = 0.9 * np.eye(4)[labels] + 0.1 / 4
    expected = -np.sum(target * np.log(softmax(logits)))
    found = smoothed_cross_entropy(tf.constant(labels), tf.constant(logits), 0.1)
    np.testing.assert_allclose(found, expected, rtol=1e-12)

    kernel = rng.normal(size=(5, 4))
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4)])
    model.set_weights([kernel, np.zeros(4)])
    x = rng.normal(size=(6, 5))
    step = make_train_step(
        model, built(keras.optimizers.SGD(RATE), model), Options(label_smoothing=0.1)
    )
    told = step(tf.constant(x, tf.float32), tf.constant(labels))
    p = softmax(x @ kernel)
    np.testing.assert_allclose(told.loss, -np.mean(np.log(p[np.arange(6), labels])), rtol=1e-5)
    np.testing.assert_allclose(told.objective, -np.sum(target * np.log(p)) / 6, rtol=1e-5)
    moved = kernel - RATE * x.T @ (p - target) / 6
    np.testing.assert_allclose(model.get_weights()[0], moved, rtol=1e-4, atol=1e-6)


def test_mixed_images_smoothed_and_in_parts_are_those_of_float64(rng):
    shares = rng.uniform(size=6)
    images, labels = rng.uniform(size=(7, 2, 2, 1)), np.eye(3)[rng.integers(0, 3, 7)]
    mixed, probabilities = mixing.mixup(images, labels, shares)
    own = shares[:, None]
    flat = images.reshape(7, 4)
    x = own * flat[:-1] + (1 - own) * flat[1:]
    target = own * labels[:-1] + (1 - own) * labels[1:]
    kernel = rng.normal(size=(4, 3))
    model = keras.Sequential(
        [keras.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(3)]
    )
    model.set_weights([kernel, np.zeros(3)])
    options = Options(label_smoothing=0.1, parts=2)
    step = make_train_step(model, built(keras.optimizers.SGD(RATE), model), options)
    told = step(tf.cast(mixed, tf.float32), tf.cast(probabilities, tf.float32))
    p, smoothed = softmax(x @ kernel), 0.9 * target + 0.1 / 3
    np.testing.assert_allclose(told.loss, -np.sum(target * np.log(p)) / 6, rtol=1e-5)
    np.testing.assert_allclose(told.objective, -np.sum(smoothed * np.log(p)) / 6, rtol=1e-5)
    assert told.correct == np.sum(p.argmax(axis=1) == target.argmax(axis=1))
    moved = kernel - RATE * x.T @ (p - smoothed) / 6
    np.testing.assert_allclose(model.get_weights()[0], moved, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("limit", [0.01, 1e6])
def test_gradients_are_clipped_by_their_common_norm(rng, limit, scaled):
    x, labels = rng.normal(size=(8, 5)), rng.integers(0, 3, 8)
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])
    kernel, bias = (np.array(w, np.float64) for w in model.get_weights())
    optimizer = keras.optimizers.SGD(RATE)
    if scaled:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    step = make_train_step(model, built(optimizer, model), Options(clip_norm=limit))
    step(tf.constant(x, tf.float32), tf.constant(labels))
    error = (softmax(x @ kernel + bias) - np.eye(3)[labels]) / 8
    gradients = [x.T @ error, error.sum(axis=0)]
    norm = np.sqrt(sum(np.sum(gradient**2) for gradient in gradients))
    for weight, before, gradient in zip(
        model.get_weights(), (kernel, bias), gradients, strict=True
    ):
        expected = before - RATE * gradient * min(1.0, limit / norm)
        np.testing.assert_allclose(weight, expected, rtol=1e-4, atol=1e-6)


def test_a_step_that_xla_compiles_is_the_same(rng):
    def steps(jit):
        keras.utils.set_random_seed(0)
        norm = BatchRenormalization(r_max=3.0, d_max=5.0)
        model = keras.Sequential(
            [keras.Input((3,)), keras.layers.Dense(4), norm, keras.layers.Dense(2)]
        )
        optimizer = built(keras.optimizers.SGD(0.1, 0.9), model)
        step = make_train_step(model, optimizer, Options(weight_decay=0.01, jit=jit, parts=2))
        told = [step(x, labels) for _ in range(3)]
        return [*model.get_weights(), *np.asarray(told)]

    x = tf.constant(rng.normal(3.0, 2.0, size=(16, 3)), tf.float32)
    labels = tf.constant(rng.integers(0, 2, 16))
    for plain, compiled in zip(steps(False), steps(True), strict=True):
        np.testing.assert_allclose(compiled, plain, rtol=1e-4, atol=1e-6)


def test_an_objective_that_is_not_finite_leaves_the_weights_to_look_at(rng):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    before = model.get_weights()
    step = make_train_step(model, built(keras.optimizers.SGD(0.1), model))
    assert not np.isfinite(step(tf.constant([[np.inf, 0.0]]), tf.constant([0])).objective)
    for weight, value in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, value)


def test_what_workers_ask_for_is_told():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    step = make_train_step(model, built(keras.optimizers.SGD(0.1), model))
    told = step(tf.zeros([3, 2]), tf.constant([0, 1, 0]), tf.constant([0.0, 1.0], tf.float64))
    assert (float(told.stop), float(told.save)) == (0.0, 1.0)


def test_the_layers_own_losses_are_minimised_too():
    model = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(2, kernel_regularizer=keras.regularizers.L1(10.0))]
    )
    before = np.abs(model.get_weights()[0])
    step = make_train_step(model, built(keras.optimizers.SGD(1e-3), model))
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
    step = make_train_step(model, built(keras.optimizers.SGD(0.1), model))
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
