"""Moving statistics: one step of the averages that inference uses."""

import keras

from keras_renorm.ops.moments import Moments
from keras_renorm.typing import Tensor


def update_moving_moments(
    moving_mean: Tensor, moving_variance: Tensor, batch: Moments, *, momentum: float
) -> tuple[Tensor, Tensor]:
    """Moving averages of the mean and of the biased variance, as Keras's batch norm keeps them.

    ```
    mu <- mu + (1 - momentum) * (mu_B - mu)
    var <- var + (1 - momentum) * (var_B - var)
    ```

    A channel that has no position in the batch, or whose moments are not finite, keeps its
    statistics: one overflow or one empty batch must not spoil them for ever.

    Args:
        moving_mean: `[C]`, before the update.
        moving_variance: `[C]`, before the update.
        batch: The minibatch's moments.
        momentum: Weight of the old value, in [0, 1].

    Returns:
        The two averages after the update.

    Source: Ioffe & Szegedy 2015, section 3.1.
    """
    variance = moving_variance + (1 - momentum) * (batch.variance - moving_variance)
    return _where_updated(moving_mean, moving_variance, batch, momentum, variance)


def update_moving_moments_by_stddev(
    moving_mean: Tensor,
    moving_variance: Tensor,
    batch: Moments,
    *,
    momentum: float,
    epsilon: float,
) -> tuple[Tensor, Tensor]:
    """Moving averages of the mean and of the standard deviation, as Batch Renormalization's.

    ```
    mu <- mu + alpha * (mu_B - mu)      sigma <- sigma + alpha * (sigma_B - sigma)
    ```

    with alpha = 1 - momentum, sigma = sqrt(moving_variance + epsilon) and sigma_B =
    sqrt(var_B + epsilon). What is kept is sigma^2 - epsilon, so that the weights are those of
    Batch Normalization and inference is the same formula. It is computed as

    ```
    var <- var + alpha * delta * (2 * sigma + alpha * delta)      delta = sigma_B - sigma
    ```

    in which epsilon does not swallow a small variance.

    Args:
        moving_mean: `[C]`, before the update.
        moving_variance: `[C]`, before the update.
        batch: The minibatch's moments.
        momentum: Weight of the old value, in [0, 1].
        epsilon: The epsilon of the normalisation.

    Returns:
        The mean and sigma^2 - epsilon after the update. Channels without finite moments keep
        theirs, as in `update_moving_moments`.

    Source: Ioffe 2017, Algorithm 1.
    """
    alpha = 1 - momentum
    sigma = keras.ops.sqrt(moving_variance + epsilon)
    sigma_b = keras.ops.sqrt(batch.variance + epsilon)
    step = alpha * (batch.variance - moving_variance) / (sigma_b + sigma)
    variance = keras.ops.maximum(moving_variance + step * (2 * sigma + step), 0)
    return _where_updated(moving_mean, moving_variance, batch, momentum, variance)


def has_update(batch: Moments) -> Tensor:
    """Per channel, whether `batch` has moments to update with: positions, and all finite."""
    finite = keras.ops.logical_and(
        keras.ops.isfinite(batch.mean), keras.ops.isfinite(batch.variance)
    )
    return keras.ops.logical_and(batch.count > 0, finite)


def _where_updated(
    moving_mean: Tensor, moving_variance: Tensor, batch: Moments, momentum: float, variance: Tensor
) -> tuple[Tensor, Tensor]:
    """The updated mean and `variance` in channels that have an update, the old ones elsewhere."""
    updated = has_update(batch)
    mean = moving_mean + (1 - momentum) * (batch.mean - moving_mean + batch.mean_remainder)
    return (
        keras.ops.where(updated, mean, moving_mean),
        keras.ops.where(updated, variance, moving_variance),
    )
