"""Limits of Batch Renormalization that follow from what a layer sees, without a number of steps.

A minibatch deviates from the moving statistics for two reasons. The statistics lag, as weights
move. And it is a small or uneven sample, which is what the corrections are there for. The limits
are wide where there is much of the second and little of the first. Time tells the two apart: lag
has the same sign step after step, noise changes its sign. Ghost batches tell more. They share their
weights, so what they differ by is noise. What their mean deviates by beyond that counts as lag, as
if the ghosts were independent samples.

Leading axes `...` are none, or `[D]` where each domain has statistics of its own. The functions
compute with `keras.ops`, or with NumPy, for a backend whose own calls cost more than the numbers.
"""

from typing import Any, NamedTuple

import keras

from keras_renorm.ops.maths.moving import Moving
from keras_renorm.ops.maths.scatter import Scatter
from keras_renorm.ops.maths.sums import at_least, at_most
from keras_renorm.typing import Tensor

# Standard deviations of the noise that the limits let pass.
WIDTH = 3.0
# The squared lag, as a share of the noise's variance, from which on the limits shrink.
SHARE = 0.05
# The share of the squared deviation of a mean of ghosts, beyond noise, that counts as lag.
LASTING = 0.25
ROWS = 6
"""The rows of `State.deviations`."""
EARLIER_ROWS = 4
"""Those of an earlier rule, in files."""

_LEAST_LAG = 1e-12
# The squares of larger deviations, summed over channels, could leave float32.
_LARGEST = 1e9


class State(NamedTuple):
    """What a layer has seen of its minibatches. All zeros before the first.

    Attributes:
        deviations: `[..., 6, C]`, of z = (mu_B - mu) / sigma and of e = sigma_B / sigma - 1: their
            moving averages, the squared lags, which may be below 0 where they are estimated, and
            the variances of the noise in a single ghost batch.
        seen: `[..., 2]`, the shares of the moving statistics and of `deviations` that were seen in
            minibatches: the initial values make up the rest.
    """

    deviations: Tensor
    seen: Tensor


def limits(state: State, *, ops: Any = keras.ops) -> tuple[Tensor, Tensor]:
    """The limits of r and d for the next minibatch, without greatest values.

    ```
    lag     = mean_c L_z + mean_c L_e       noise_z = mean_c N_z            noise_e = mean_c N_e
    open    = min(1, SHARE * (noise_z + noise_e) / lag)
    r_max   = 1 + WIDTH * sqrt(noise_e) * open
    d_max   = WIDTH * sqrt(noise_z) * open
    ```

    with Z, E, L_z, L_e, N_z, N_e the rows of `deviations`, and no mean below 0. After one minibatch
    without ghosts lag is all there is, and the limits are those of Batch Normalization, 1 and 0.

    Args:
        state: What the layer has seen.
        ops: What computes, `keras.ops` or NumPy.

    Returns:
        `(r_max, d_max)`, each `[...]`, in the dtype of `deviations`.

    Source: ours; docs/default_limits.md has the measurements.
    """
    channels = max(1, state.deviations.shape[-1])  # NumPy warns of a mean of nothing
    means = at_least(0, ops.sum(state.deviations, axis=-1) / channels, ops)
    lag = at_least(_LEAST_LAG, ops.sum(means[..., 2:4], axis=-1, keepdims=True), ops)
    noises = means[..., 4:]
    ratio = SHARE * ops.sum(noises, axis=-1, keepdims=True) / lag
    widths = WIDTH * ops.sqrt(noises) * at_most(1, ratio, ops)
    # The sum first: NumPy 1 makes float64 of 1 and a float32 scalar.
    return (1 + widths)[..., 1], widths[..., 0]


def trusting(
    state: State,
    moving: tuple[Tensor, Tensor],
    initial: tuple[Tensor, Tensor],
    *,
    ops: Any = keras.ops,
) -> State:
    """A state in which moving statistics that came from elsewhere count in full.

    They did where none of them was seen and they are not the initial ones: weights were loaded or
    assigned. The first minibatch would replace them.

    Args:
        state: What the layer has seen.
        moving: Its mean and variance, `[..., C]` each.
        initial: Likewise, or numbers, as the initializers made them.
        ops: What computes, `keras.ops` or NumPy.
    """
    mean, variance = (ops.not_equal(*pair) for pair in zip(moving, initial, strict=True))
    given = ops.any(ops.logical_or(mean, variance), axis=-1)
    given = ops.stack([given, ops.zeros_like(given)], axis=-1)
    full = ops.ones_like(state.seen)
    return state._replace(seen=ops.where(given & (state.seen == 0), full, state.seen))


def advance(
    state: State,
    moving_mean: Tensor,
    moving_variance: Tensor,
    batch: Moving,
    scatter: Scatter | None = None,
    *,
    momentum: float,
    epsilon: float,
    ops: Any = keras.ops,
) -> tuple[State, Moving]:
    """One step of the state, and of moving statistics in which the initial values weigh nothing.

    ```
    seen  <- seen + alpha * (1 - seen)      step = alpha / seen            1, 1/2, 1/3, ..., alpha
    mu    <- mu + step_0 * (mu_B - mu)      sigma <- sigma + step_0 * (sigma_B - sigma)
    Z     <- Z + step_1 * (z - Z)
    alone:   N_z <- N_z + step_1 * ((z - Z) * (z - Z') - N_z)              Z' is Z after the step
             L_z <- Z'^2
    ghosts:  N_z <- N_z + step_1 * (n_z - N_z)                             n_z among the ghosts
             L_z <- L_z + step_1 * (LASTING * (z^2 - n_z / G) - L_z)
    ```

    with alpha = 1 - momentum, E, N_e and L_e likewise, and z and e against the moving statistics
    before the step. In a minibatch alone N_z + Z^2 is the moving average of z^2. With ghosts, z is
    their mean, and its noise a G-th of theirs. What it deviates by beyond that lags, also within a
    time constant: weights that move to and fro are no noise. A channel in which a single ghost has
    moments takes N_z as alone, and Z'^2 into the average L_z.

    Args:
        state: What the layer has seen.
        moving_mean: `[..., C]`, before the step.
        moving_variance: `[..., C]`, sigma^2 - epsilon before the step.
        batch: The mean and sigma^2 - epsilon of the minibatch, `[..., C]`, or the means of its
            ghosts', and `updated`, `[...]`. `update_moving` with a momentum of 0 returns it, with
            the statistics before the step in channels without finite moments.
        scatter: What the ghost batches differ by. None for a minibatch alone.
        momentum: Weight of the old value, in [0, 1]. At 1 nothing moves.
        epsilon: The epsilon of the normalisation.
        ops: What computes, `keras.ops` or NumPy.

    Returns:
        `(state, moving)`: both as they were where `updated` is 0. Otherwise a channel with the
        minibatch's moments equal to the moving statistics, or without finite ones, keeps its
        moving statistics, and has z = e = 0.

    Source: ours, with docs/default_limits.md; the bias correction is that of Kingma & Ba 2015,
    section 3.
    """
    kept = Moving(moving_mean, moving_variance, batch.updated)
    if momentum == 1:
        return state, kept
    updated = ops.expand_dims(batch.updated > 0, -1)
    seen = state.seen + (1 - momentum) * (1 - state.seen)
    steps = (1 - momentum) / seen
    moving, found = _moved(ops, kept, batch, steps[..., :1], epsilon)
    if scatter is not None:
        variances = scatter.variances / (moving_variance + epsilon)
        scatter = scatter._replace(variances=at_most(_LARGEST**2, variances, ops))
    step = ops.expand_dims(steps[..., 1:], -1)
    deviations = _averaged(ops, state.deviations, found, step, scatter)
    own = ops.expand_dims(updated, -1)
    state = State(
        ops.where(own, deviations, state.deviations),
        ops.where(updated, seen, state.seen),
    )
    mean, variance = (ops.where(updated, *pair) for pair in zip(moving, kept, strict=False))
    return state, Moving(mean, variance, batch.updated)


def _moved(
    ops: Any, kept: Moving, batch: Moving, step: Tensor, epsilon: float
) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """The moving statistics after a step, and z and e: `[..., 2, C]`."""
    sigma = ops.sqrt(kept.variance + epsilon)
    by_mean = batch.mean - kept.mean
    by_sigma = (batch.variance - kept.variance) / (ops.sqrt(batch.variance + epsilon) + sigma)
    found = ops.stack([by_mean / sigma, by_sigma / sigma], axis=-2)
    change = step * by_sigma
    variance = at_least(0, kept.variance + change * (2 * sigma + change), ops)
    # As at a momentum of 0, no rounding of the initial values may stay.
    first = step >= 1
    mean = ops.where(first, batch.mean, kept.mean + step * by_mean)
    return (mean, ops.where(first, batch.variance, variance)), found


def _averaged(
    ops: Any, deviations: Tensor, found: Tensor, step: Tensor, scatter: Scatter | None
) -> Tensor:
    """The six rows after a step by `found`, the rows z and e, and their scatter among ghosts."""
    found = at_most(_LARGEST, at_least(-_LARGEST, found, ops), ops)
    averages, lags, noises = (deviations[..., i : i + 2, :] for i in (0, 2, 4))
    moved = averages + step * (found - averages)
    lag, noise = ops.square(moved), (found - averages) * (found - moved)
    if scatter is not None:
        several = scatter.ghosts > 1
        of_mean = scatter.variances / at_least(1, scatter.ghosts, ops)
        lag = ops.where(several, LASTING * (ops.square(found) - of_mean), lag)
        noise = ops.where(several, scatter.variances, noise)
        lag = lags + step * (lag - lags)
    new = ops.concatenate([moved, lag, noises + step * (noise - noises)], axis=-2)
    return ops.where(ops.isfinite(new), new, deviations)
