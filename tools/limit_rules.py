"""Rules for the limits of Batch Renorm, and a layer that follows them, in plain JAX."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

EPSILON = 1e-3
Array = Any


class Rule(NamedTuple):
    """How a layer finds its limits: by a ramp, or by what it sees if `width` or `tolerance` is set.

    Attributes:
        r_max: The greatest limit of r.
        d_max: The greatest limit of d.
        start: When a ramp begins, as a share of the run.
        r_end: When the ramp of r ends.
        d_end: When the ramp of d ends.
        width: Limits in standard deviations of the minibatches' noise.
        lag: Open fully where the squared lag is at most this share of the noise's variance.
        tolerance: Open fully where the lag is at most this many standard deviations of the inputs.
        unbiased: Whether the initial moving statistics weigh nothing: steps of alpha / seen.
        by_variance: Whether to average the variance, as Keras's batch norm, and not sigma.
        lasting: Where a minibatch has ghosts, noise is what they differ by, and this share of what
            their mean deviates by beyond that is the squared lag; 0 tells them apart by time alone.
    """

    r_max: float = 3.0
    d_max: float = 5.0
    start: float = -1.0
    r_end: float = 0.0
    d_end: float = 0.0
    width: float = 0.0
    lag: float = 0.0
    tolerance: float = 0.0
    unbiased: float = 0.0
    by_variance: float = 0.0
    lasting: float = 0.0


RULES = {
    "batch norm": Rule(r_max=1.0, d_max=0.0, by_variance=1.0),
    "1.5, 0.5": Rule(r_max=1.5, d_max=0.5),
    "3, 5": Rule(),
    "ramp 2-10 %": Rule(start=0.02, r_end=0.10, d_end=0.10),
    "paper 5-35 %": Rule(start=0.05, r_end=0.35, d_end=0.25),
    "drift 0.1": Rule(tolerance=0.1),
    "noise 3, 0.05": Rule(width=3.0, lag=0.05),
    "noise 3, 0.1, unbiased": Rule(width=3.0, lag=0.1, unbiased=1.0),
    "noise 3, 0.05, unbiased": Rule(width=3.0, lag=0.05, unbiased=1.0),
    "noise 3, 0.05, ghosts": Rule(width=3.0, lag=0.05, unbiased=1.0, lasting=0.25),
}
BATCH_NORM = "batch norm"
RAMPS = ("1.5, 0.5", "3, 5", "ramp 2-10 %", "paper 5-35 %")


class Statistics(NamedTuple):
    """What a layer keeps.

    Attributes:
        mean: `[C]`, the moving mean.
        variance: `[C]`, the moving variance.
        deviations: `[8, C]`, moving averages which begin with nothing: of the means of z and e over
            the ghosts, of the squares of these means, of the means of the squares, and of the
            variances among the ghosts of a minibatch.
        seen: 1 - momentum^t, the weight in an average of what it has seen.
        limits: r_max and d_max of the next minibatch.
    """

    mean: Array
    variance: Array
    deviations: Array
    seen: Array
    limits: Array


class Context(NamedTuple):
    """What all layers of a net know in a step."""

    rule: Rule
    momentum: Array
    progress: Array
    ghosts: int


def new_statistics(channels: int) -> Statistics:
    """The statistics of a layer that has seen nothing: those of batch norm."""
    mean, variance = jnp.zeros(channels), jnp.ones(channels)
    deviations = jnp.zeros((8, channels))
    return Statistics(mean, variance, deviations, jnp.zeros(()), jnp.array([1.0, 0.0]))


def seen_limits(rule: Rule, deviations: Array, ghosts: int) -> Array:
    """Limits from the averages of z = (mu_B - mu) / sigma and e = sigma_B / sigma - 1.

    `lag = mean_c E[z]^2 + E[e]^2` is what has the same sign again and again: the moving statistics
    do not keep up. `noise = E[z^2] - E[z]^2`, likewise, is what they are there to correct. With
    `lasting`, noise is the variance among ghosts, and lag a share of what their mean deviates by
    beyond a G-th of it.
    """
    averages, *others = deviations.reshape(4, 2, -1)
    lags = jnp.mean(averages**2, axis=1)
    squares, all_squares, among = (jnp.mean(rows, axis=1) for rows in others)
    noises = jnp.maximum(all_squares - lags, 0.0)
    if ghosts > 1:
        rest = jnp.maximum(squares - among / ghosts, 0.0)
        lags = jnp.where(rule.lasting > 0, rule.lasting * rest, lags)
        noises = jnp.where(rule.lasting > 0, among, noises)
    lag = jnp.maximum(jnp.sum(lags), 1e-12)
    by_noise = jnp.minimum(1.0, rule.lag * jnp.sum(noises) / lag)
    by_drift = jnp.minimum(1.0, rule.tolerance**2 / lag)
    z, e = rule.width * jnp.sqrt(noises) * by_noise
    noise = jnp.array([jnp.minimum(rule.r_max, 1.0 + e), jnp.minimum(rule.d_max, z)])
    drift = jnp.array([1.0 + (rule.r_max - 1.0) * by_drift, rule.d_max * by_drift])
    return jnp.where(rule.width > 0, noise, drift)


def ramp_limits(rule: Rule, progress: Array) -> Array:
    """Limits of a ramp after this share of the run."""

    def risen(end: float) -> Array:
        return jnp.clip((progress - rule.start) / (end - rule.start), 0.0, 1.0)

    return jnp.array([1.0 + (rule.r_max - 1.0) * risen(rule.r_end), rule.d_max * risen(rule.d_end)])


def normalize(x: Array, kept: Statistics, context: Context) -> tuple[Array, Statistics]:
    """Batch Renorm of `x`, `[..., C]`, ghost by ghost, and the statistics afterwards."""
    rows = x.reshape(context.ghosts, -1, x.shape[-1])
    mean = rows.mean(1)
    variance = ((rows - mean[:, None]) ** 2).mean(1)
    stddev = jnp.sqrt(variance + EPSILON)
    sigma = jnp.sqrt(kept.variance + EPSILON)
    z, ratio = jax.lax.stop_gradient(((mean - kept.mean) / sigma, stddev / sigma))
    r_max, d_max = kept.limits
    r, d = jnp.clip(ratio, 1.0 / r_max, r_max), jnp.clip(z, -d_max, d_max)
    y = (rows - mean[:, None]) / stddev[:, None] * r[:, None] + d[:, None]
    moments = jax.lax.stop_gradient((mean.mean(0), variance.mean(0), stddev.mean(0)))
    return y.reshape(x.shape), _moved(kept, moments, z, ratio - 1.0, context)


def _moved(
    kept: Statistics, moments: Sequence[Array], z: Array, e: Array, context: Context
) -> Statistics:
    rule, alpha = context.rule, 1.0 - context.momentum
    seen = kept.seen + alpha * (1.0 - kept.seen)
    step = jnp.where(rule.unbiased > 0, alpha / seen, alpha)
    mean, variance, stddev = moments
    sigma = jnp.sqrt(kept.variance + EPSILON)
    by_stddev = (sigma + step * (stddev - sigma)) ** 2 - EPSILON
    by_variance = kept.variance + step * (variance - kept.variance)
    both = jnp.stack([z, e])
    means, among = both.mean(1), both.var(1, ddof=min(1, context.ghosts - 1))
    now = jnp.concatenate([means, means**2, (both**2).mean(1), among])
    deviations = kept.deviations + alpha / seen * (now - kept.deviations)
    limits = jnp.where(
        (rule.width > 0) | (rule.tolerance > 0),
        seen_limits(rule, deviations, context.ghosts),
        ramp_limits(rule, context.progress),
    )
    return Statistics(
        kept.mean + step * (mean - kept.mean),
        jnp.maximum(jnp.where(rule.by_variance > 0, by_variance, by_stddev), 0.0),
        deviations,
        seen,
        limits,
    )
