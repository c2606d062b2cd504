"""The papers' algorithms in float64 NumPy, as short as they can be.

Compare an op or a layer with them: the tests do, for all of this package. They are not meant for
speed. Channels are last. `mask` is None or a boolean array that broadcasts to `x`'s shape. The
symbols are the papers': `mu` and `sigma` are the moving statistics, `mu_b` and `sigma_b` the
minibatch's.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Forward(NamedTuple):
    """What the training step of Algorithm 1 computes (Ioffe 2017); all but `y` are `[C]`."""

    y: Array
    mu_b: Array
    sigma_b: Array
    r: Array
    d: Array
    mu: Array
    sigma: Array


class Gradients(NamedTuple):
    """Gradients of a loss for the inputs of Algorithm 1."""

    dx: Array
    dgamma: Array
    dbeta: Array


def moments(x: Any, mask: Any = None) -> tuple[Array, Array, Array]:
    """Mean, biased variance and count of each channel (Ioffe & Szegedy 2015, Algorithm 1)."""
    x = np.asarray(x, np.float64)
    m = np.ones(x.shape, bool) if mask is None else np.broadcast_to(mask, x.shape)
    axes = tuple(range(x.ndim - 1))
    count = m.sum(axes)
    mean = np.where(m, x, 0).sum(axes) / np.maximum(count, 1)
    variance = np.square(np.where(m, x - mean, 0)).sum(axes) / np.maximum(count, 1)
    return mean, variance, count.astype(np.float64)


def forward(
    x: Any,
    gamma: Any,
    beta: Any,
    mu: Any,
    sigma: Any,
    *,
    r_max: float,
    d_max: float,
    alpha: float,
    epsilon: float,
    mask: Any = None,
) -> Forward:
    """One training step of Algorithm 1 (Ioffe 2017), with the moving update."""
    x, gamma, beta, mu, sigma = (np.asarray(a, np.float64) for a in (x, gamma, beta, mu, sigma))
    mu_b, variance, count = moments(x, mask)
    sigma_b = np.sqrt(variance + epsilon)
    r = np.clip(sigma_b / sigma, 1 / r_max, r_max)
    d = np.clip((mu_b - mu) / sigma, -d_max, d_max)
    y = gamma * ((x - mu_b) / sigma_b * r + d) + beta
    rate = np.where(count > 0, alpha, 0)
    new_mu, new_sigma = mu + rate * (mu_b - mu), sigma + rate * (sigma_b - sigma)
    return Forward(y, mu_b, sigma_b, r, d, new_mu, new_sigma)


def backward(dy: Any, x: Any, gamma: Any, step: Forward, mask: Any = None) -> Gradients:
    """The gradients of section 3 (Ioffe 2017), term by term, with r and d held constant."""
    dy, x, gamma = (np.asarray(a, np.float64) for a in (dy, x, gamma))
    m = np.ones(x.shape, bool) if mask is None else np.broadcast_to(mask, x.shape)
    axes = tuple(range(x.ndim - 1))
    count = np.maximum(m.sum(axes), 1)
    dy, centred = np.where(m, dy, 0), np.where(m, x - step.mu_b, 0)
    dx_hat = dy * gamma
    dsigma_b = (dx_hat * centred * (-step.r / step.sigma_b**2)).sum(axes)
    dmu_b = (dx_hat * (-step.r / step.sigma_b)).sum(axes)
    dx = (
        dx_hat * step.r / step.sigma_b + dsigma_b * centred / (count * step.sigma_b) + dmu_b / count
    )
    x_hat = np.where(m, centred / step.sigma_b * step.r + step.d, 0)
    return Gradients(np.where(m, dx, 0), (dy * x_hat).sum(axes), dy.sum(axes))


def inference(x: Any, gamma: Any, beta: Any, mu: Any, sigma: Any) -> Array:
    """The inference output of Algorithm 1 (Ioffe 2017)."""
    x, gamma, beta, mu, sigma = (np.asarray(a, np.float64) for a in (x, gamma, beta, mu, sigma))
    return np.asarray(gamma * (x - mu) / sigma + beta)


def moving_variance(old: Any, variance: Any, momentum: float) -> Array:
    """Batch Normalization's moving average: of the variance, not of sigma."""
    return np.asarray(momentum * np.asarray(old, np.float64) + (1 - momentum) * variance)
