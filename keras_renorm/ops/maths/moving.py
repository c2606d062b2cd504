"""Moving statistics: one step of the averages that inference uses.

Ghost batches have moments with one more axis in front, `[G, C]`. The statistics then move towards
the mean over the ghosts of their means and variances (or sigmas). Each ghost weighs as much as its
number of positions `m_g`, so equal ghosts give the plain mean. A ghost that has no position in a
channel, or whose moments are not finite, does not count.

The native kernels compute the same in their own call: see `UpdateMoving` in `native/formulas.h`.
"""

from typing import Any, NamedTuple

import keras

from keras_renorm.ops import arguments
from keras_renorm.ops.maths.moments import Moments, in_dtype_of, require_moments
from keras_renorm.ops.maths.sums import at_least
from keras_renorm.typing import Tensor


class Moving(NamedTuple):
    """The moving statistics after a step.

    Attributes:
        mean: `[C]`, or `[D, C]` where statistics are kept by domain.
        variance: As `mean`.
        updated: Scalar, 1 if a channel had an update, else 0; `[D]` if kept by domain.
    """

    mean: Tensor
    variance: Tensor
    updated: Tensor


def update_moving(
    moving_mean: Tensor,
    moving_variance: Tensor,
    batch: Moments,
    *,
    momentum: float,
    epsilon: float,
    by_stddev: bool,
) -> Moving:
    """One step of the moving averages of the mean, and of the variance or of sigma.

    Batch Normalization keeps the biased variance (`by_stddev=False`), with alpha = 1 - momentum:

    ```
    mu <- mu + alpha * (mu_B - mu)      var <- var + alpha * (var_B - var)
    ```

    Batch Renormalization keeps sigma = sqrt(var + epsilon), with sigma_B = sqrt(var_B + epsilon):

    ```
    mu <- mu + alpha * (mu_B - mu)      sigma <- sigma + alpha * (sigma_B - sigma)
    ```

    The function takes and returns var = sigma^2 - epsilon, so that weights and inference are those
    of Batch Normalization. It computes this as

    ```
    var <- var + alpha * delta * (2 * sigma + alpha * delta)      delta = sigma_B - sigma
    ```

    where epsilon does not swallow a small variance. A channel that has no position in the batch, or
    whose moments are not finite, keeps its statistics, so that one overflow or one empty batch does
    not spoil them for ever.

    Args:
        moving_mean: `[C]`, before the update.
        moving_variance: `[C]`, before the update.
        batch: The minibatch's moments, or those of its ghost batches.
        momentum: Weight of the old value, in [0, 1].
        epsilon: The epsilon of the normalisation. Only the average of sigma depends on it.
        by_stddev: Whether to average sigma, as Batch Renormalization does, not the variance.

    Returns:
        `Moving(mean, variance, updated)`, in the dtype of the minibatch's moments.

    Raises:
        TypeError: If `momentum` or `epsilon` is not a number.
        ValueError: If `momentum` or `epsilon` is out of range, or a statistic has another number of
            channels than `batch`.

    Source: Ioffe & Szegedy 2015, section 3.1; Ioffe 2017, Algorithm 1.
    """
    epsilon = arguments.positive("epsilon", epsilon)
    momentum = arguments.real("momentum", momentum, low=0, high=1)
    kept = in_dtype_of(batch, moving_mean, moving_variance)
    # With a momentum of 0 the old statistics have no weight, so zeros take their place. Otherwise
    # rounding puts a step from variance 1 to 1e-6 off by 1 % in float32, or 13 % by sigma.
    mean, variance = map(keras.ops.zeros_like, kept) if momentum == 0 else kept
    shift = batch.mean - mean + batch.mean_remainder
    moved_mean = mean + (1 - momentum) * _over_ghosts(shift, mean, batch)
    change = batch.variance - variance
    if by_stddev:
        sigma = keras.ops.sqrt(variance + epsilon)
        delta = change / (keras.ops.sqrt(batch.variance + epsilon) + sigma)
        step = (1 - momentum) * _over_ghosts(delta, mean, batch)
        moved_variance = at_least(0, variance + step * (2 * sigma + step))
    else:
        moved_variance = variance + (1 - momentum) * _over_ghosts(change, mean, batch)
    updated = has_update(batch)
    if _has_ghosts(mean, batch):
        updated = keras.ops.any(updated, axis=0)
    pairs = zip((moved_mean, moved_variance), kept, strict=True)
    mean, variance = (keras.ops.where(updated, *pair) for pair in pairs)
    return Moving(mean, variance, keras.ops.cast(keras.ops.any(updated), mean.dtype))


def has_update(batch: Moments, *, ops: Any = keras.ops) -> Tensor:
    """Per channel, whether `batch` updates the statistics: has positions and finite moments.

    `ops` computes it: `keras.ops` or NumPy.
    """
    require_moments(batch)
    finite = ops.logical_and(ops.isfinite(batch.mean), ops.isfinite(batch.variance))
    return ops.logical_and(batch.count > 0, finite)


def _has_ghosts(moving_mean: Tensor, batch: Moments) -> bool:
    return len(batch.mean.shape) > len(moving_mean.shape)


def ghost_shares(batch: Moments, *, ops: Any = keras.ops) -> tuple[Tensor, Tensor]:
    """Which ghosts of `batch` have an update, and `m_g / sum_g m_g` over these, `[G, C]` each.

    `ops` computes them: `keras.ops` or NumPy.
    """
    usable = has_update(batch, ops=ops)
    weights = ops.where(usable, batch.count, ops.zeros_like(batch.count))
    # Exactly 1 for a single ghost: its update has the bits of a whole minibatch's.
    return usable, weights / at_least(1, ops.sum(weights, axis=0), ops)


def _over_ghosts(values: Tensor, moving_mean: Tensor, batch: Moments) -> Tensor:
    """`sum_g m_g values_g / sum_g m_g` over the ghosts that count; without ghosts, the values."""
    if not _has_ghosts(moving_mean, batch):
        return values
    usable, shares = ghost_shares(batch)
    return keras.ops.sum(
        keras.ops.where(usable, shares * values, keras.ops.zeros_like(values)), axis=0
    )
