"""Mixed images and targets against NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from zoo.data import mixing


@pytest.fixture
def minibatch(rng):
    """Three images, and the first of them again."""
    images = rng.random((3, 6, 8, 3), np.float32)
    targets = np.eye(4, dtype=np.float32)[[2, 0, 3]]
    return np.concatenate([images, images[:1]]), np.concatenate([targets, targets[:1]])


def test_mixup_adds_the_next_image(minibatch):
    images, targets = minibatch
    shares = np.array([0.9, 0.25, 0.0], np.float32)
    found = mixing.mixup(*map(tf.constant, (*minibatch, shares)))
    for i in range(3):
        weight = shares[i]
        expected = weight * images[i] + (1 - weight) * images[(i + 1) % 3]
        np.testing.assert_allclose(found[0][i], expected, rtol=1e-6)
        expected = weight * targets[i] + (1 - weight) * targets[(i + 1) % 3]
        np.testing.assert_allclose(found[1][i], expected, rtol=1e-6)


def test_cutmix_puts_in_a_box_of_the_next_image(minibatch):
    images, targets = minibatch
    boxes = np.array([[0, 0, 0.5, 0.5], [0.4, 0.1, 1, 0.9], [0, 0, 0, 0]], np.float32)
    found = mixing.cutmix(*map(tf.constant, (*minibatch, boxes)))
    for i, (top, left, bottom, right) in enumerate(boxes):
        expected = images[i].copy()
        taken = 0
        for row in range(6):
            for column in range(8):
                if top <= (row + 0.5) / 6 < bottom and left <= (column + 0.5) / 8 < right:
                    expected[row, column] = images[(i + 1) % 3][row, column]
                    taken += 1
        np.testing.assert_array_equal(found[0][i], expected)
        share = 1 - taken / 48
        mixed = share * targets[i] + (1 - share) * targets[(i + 1) % 3]
        np.testing.assert_allclose(found[1][i], mixed, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("alpha", [0.02, 0.2, 1.0, 8.0])
def test_shares_are_of_the_beta_distribution(alpha):
    shares = mixing.draw_shares(tf.constant([1, 2], tf.int64), 20_000, alpha).numpy()
    assert np.all((shares >= 0) & (shares <= 1))
    assert np.mean(shares) == pytest.approx(0.5, abs=0.012)
    assert np.var(shares) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.03)


def test_patches_have_the_area_that_was_drawn_where_they_fit():
    shares = tf.constant(np.linspace(0, 1, 2000), tf.float32)
    boxes = mixing.draw_patches(tf.constant([3, 4], tf.int64), shares).numpy()
    height, width = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    side = np.sqrt(1 - shares.numpy())
    assert np.all(boxes >= 0)
    assert np.all(boxes <= 1)
    assert np.all(height <= side + 1e-6)
    inside = np.all((boxes > 0) & (boxes < 1), axis=1)
    np.testing.assert_allclose((height * width)[inside], side[inside] ** 2, atol=1e-5)


def test_equal_seeds_give_equal_draws():
    for seed in ([1, 2], [1, 3]):
        first, again = (mixing.draw_shares(tf.constant(seed), 5, 0.4).numpy() for _ in range(2))
        np.testing.assert_array_equal(first, again)
    assert np.any(first != mixing.draw_shares(tf.constant([1, 2]), 5, 0.4).numpy())
