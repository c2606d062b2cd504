"""The corrections r and d of Batch Renormalization."""

from typing import NamedTuple

import keras

from keras_renorm.ops import arguments
from keras_renorm.ops.maths.moments import Moments, in_dtype_of
from keras_renorm.ops.maths.operands import Affine, Arguments, Constants, Settings
from keras_renorm.ops.maths.sums import at_least
from keras_renorm.typing import Tensor


class Correction(NamedTuple):
    """The corrections of Batch Renormalization, vectors of shape `[C]` without gradient.

    Attributes:
        r: The minibatch's over the moving standard deviation, clipped.
        d: The minibatch's minus the moving mean, in moving standard deviations, clipped.
    """

    r: Tensor
    d: Tensor


def affine(
    found: Correction, batch: Moments, operands: Arguments, ratio: Tensor, centre: Tensor
) -> Affine:
    """The map that normalises: `y = (x - mu_B) * gamma * ratio + gamma * d + beta`.

    Args:
        found: The corrections.
        batch: The minibatch's moments. Only the mean is used.
        operands: Gamma and beta are used.
        ratio: r / sigma_B.
        centre: A value near the mean, which the map subtracts first.
    """
    rest = (batch.mean - centre) + batch.mean_remainder
    return Affine(centre, rest, *scale_and_offset(found, operands, ratio))


def scale_and_offset(
    found: Correction, operands: Arguments, ratio: Tensor
) -> tuple[Tensor, Tensor]:
    """`gamma * ratio` and `gamma * d + beta`. After a division by sigma_B the ratio is r."""
    _, gamma, beta = operands
    return gamma * ratio, gamma * found.d + beta


def of_step(batch: Moments, constants: Constants, settings: Settings) -> Correction:
    """`renorm_correction` for a step's operands."""
    return renorm_correction(
        batch,
        constants.moving_mean,
        constants.moving_variance,
        r_max=constants.r_max,
        d_max=constants.d_max,
        epsilon=settings.epsilon,
    )


def renorm_correction(
    batch: Moments,
    moving_mean: Tensor,
    moving_variance: Tensor,
    *,
    r_max: float | Tensor,
    d_max: float | Tensor,
    epsilon: float = 1e-3,
) -> Correction:
    """The clipped corrections that take the minibatch's statistics to the moving ones.

    ```
    sigma_B = sqrt(var_B + epsilon)              sigma = sqrt(moving_variance + epsilon)
    r = clip(sigma_B / sigma, 1 / r_max, r_max)  d = clip((mu_B - mu) / sigma, -d_max, d_max)
    ```

    Both are constants for the gradient. `r_max=1` makes r exactly 1 and `d_max=0` makes d exactly
    0, which is Batch Normalization. `r_max=inf` and `d_max=inf` do not clip.

    Differs from `keras.layers.BatchNormalization(renorm=True)`: the lower clip of r is always
    1 / r_max, and the corrections are clipped from the first step.

    Args:
        batch: The minibatch's moments, from `moments`.
        moving_mean: `[C]`, the moving mean before this step's update.
        moving_variance: `[C]`, the moving variance before this step's update.
        r_max: Scalar of at least 1, a number or a tensor. A tensor's value below 1 counts as 1.
        d_max: Scalar of at least 0, a number or a tensor. A tensor's value below 0 counts as 0.
        epsilon: Added to both variances.

    Returns:
        `Correction(r, d)`.

    Raises:
        TypeError: If `batch` are no `Moments`, or a moving statistic is no tensor.
        ValueError: If `r_max`, `d_max` or `epsilon` is a number out of range, or a statistic has
            another number of channels than `batch`.

    Example:
        >>> batch = moments(np.array([[1.0], [3.0]]))
        >>> r, d = renorm_correction(batch, [0.0], [1.0], r_max=3.0, d_max=1.0)
        >>> print(np.asarray(r), np.asarray(d))  # d is clipped from 2
        [1.] [1.]

    Source: Ioffe 2017, Algorithm 1.
    """
    epsilon = arguments.positive("epsilon", epsilon)
    mean, variance = in_dtype_of(batch, moving_mean, moving_variance)
    dtype = keras.backend.standardize_dtype(batch.mean.dtype)
    sigma = keras.ops.sqrt(variance + epsilon)
    sigma_b = keras.ops.sqrt(batch.variance + epsilon)
    difference = batch.mean - mean + batch.mean_remainder
    r_max = at_least(arguments.LEAST["r_max"], arguments.limit("r_max", r_max, dtype))
    d_max = at_least(arguments.LEAST["d_max"], arguments.limit("d_max", d_max, dtype))
    r = keras.ops.clip(sigma_b / sigma, 1 / r_max, r_max)
    d = keras.ops.clip(difference / sigma, -d_max, d_max)
    return Correction(keras.ops.stop_gradient(r), keras.ops.stop_gradient(d))
