"""The reference itself, against central differences, NumPy and the paper's properties."""

import numpy as np
import pytest

from keras_renorm.ops import reference

SHAPES = [(7, 3), (4, 5, 3), (2, 3, 4, 3)]
LIMITS = {"r_max": 1.5, "d_max": 0.5, "alpha": 0.01, "epsilon": 1e-3}


def make_case(rng, shape, masked):
    channels = shape[-1]
    x = rng.normal(1.0, 2.0, shape)
    vectors = {
        "gamma": rng.normal(1.0, 0.3, channels),
        "beta": rng.normal(size=channels),
        "mu": rng.normal(0.5, 1.0, channels),
        "sigma": rng.uniform(0.8, 3.0, channels),
    }
    mask = rng.random((*shape[:-1], 1)) > 0.3 if masked else None
    return x, vectors, mask


def held_output(x, gamma, beta, step, mask):
    """y as a function of x, gamma and beta with r and d held."""
    mean, variance, _ = reference.moments(x, mask)
    x_hat = (x - mean) / np.sqrt(variance + LIMITS["epsilon"]) * step.r + step.d
    return gamma * x_hat + beta


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_equal_central_differences(rng, shape, masked):
    x, vectors, mask = make_case(rng, shape, masked)
    gamma, beta = vectors["gamma"], vectors["beta"]
    step = reference.forward(x, **vectors, **LIMITS, mask=mask)
    dy = rng.normal(size=shape)
    weight = dy if mask is None else np.where(mask, dy, 0)
    gradients = reference.backward(dy, x, gamma, step, mask)

    def loss(x, gamma, beta):
        return (weight * held_output(x, gamma, beta, step, mask)).sum()

    arguments = [x, gamma, beta]
    for i, gradient in enumerate(gradients):
        for index in np.ndindex(arguments[i].shape):
            moved = [[a.copy() for a in arguments] for _ in range(2)]
            moved[0][i][index] += 1e-6
            moved[1][i][index] -= 1e-6
            numeric = (loss(*moved[0]) - loss(*moved[1])) / 2e-6
            # A masked position's own gradient is 0 by definition, as is the numeric one.
            np.testing.assert_allclose(gradient[index], numeric, rtol=1e-6, atol=1e-8)


def test_moments_equal_numpy(rng):
    x = rng.normal(3.0, 2.0, (5, 6, 4))
    mean, variance, count = reference.moments(x)
    np.testing.assert_allclose(mean, x.mean((0, 1)), rtol=1e-12)
    np.testing.assert_allclose(variance, x.var((0, 1)), rtol=1e-12)
    np.testing.assert_array_equal(count, 30)


def test_masked_moments_are_those_of_the_rows_that_remain(rng):
    x = rng.normal(size=(6, 4))
    mask = np.array([True, False, True, True, False, True])[:, None]
    mean, variance, count = reference.moments(np.where(mask, x, np.nan), mask)
    np.testing.assert_allclose(mean, x[mask[:, 0]].mean(0))
    np.testing.assert_allclose(variance, x[mask[:, 0]].var(0))
    np.testing.assert_array_equal(count, 4)


def test_training_equals_inference_when_nothing_clips(rng):
    x, vectors, _ = make_case(rng, (6, 5, 3), False)
    step = reference.forward(x, **vectors, r_max=np.inf, d_max=np.inf, alpha=0.01, epsilon=1e-3)
    np.testing.assert_allclose(step.y, reference.inference(x, **vectors), rtol=1e-12)


def test_moving_update(rng):
    x, vectors, _ = make_case(rng, (6, 3), False)
    step = reference.forward(x, **vectors, **LIMITS)
    sigma_b = np.sqrt(x.var(0) + 1e-3)
    np.testing.assert_allclose(step.mu, 0.99 * vectors["mu"] + 0.01 * x.mean(0))
    np.testing.assert_allclose(step.sigma, 0.99 * vectors["sigma"] + 0.01 * sigma_b)


def test_moving_variance():
    assert reference.moving_variance(2.0, 4.0, 0.75) == 2.5
