"""Batch moments: count, mean and variance of every channel."""

import math
from typing import Any, NamedTuple

import keras

from keras_renorm.ops import arguments
from keras_renorm.ops.maths.masks import select
from keras_renorm.ops.maths.sums import apart, at_least, channel_sum, spread, summed_axes
from keras_renorm.typing import Tensor

# Beyond it sums of squares may overflow, depending on the number of positions.
_LARGEST_VARIANCE = {"float32": 1e30, "float64": 1e300}


class Moments(NamedTuple):
    """Moments of each channel, as vectors of shape `[C]` in float32 (float64 for float64 inputs).

    Moments of ghost batches have shape `[G, C]`.

    Attributes:
        mean: The mean, rounded.
        variance: The biased variance, sum of squared deviations over count. It is never negative,
            and NaN above 1e30 (1e300 for float64 inputs).
        count: The number of positions behind the moments.
        mean_remainder: What rounding took from `mean`: `mean + mean_remainder` is the mean to
            about twice the precision. At mean 1e6 and deviation 1 a float32 `mean` alone is off
            by up to 0.03 deviations.
    """

    mean: Tensor
    variance: Tensor
    count: Tensor
    mean_remainder: Tensor


def moments(
    x: Tensor, axis: int = -1, mask: Tensor | None = None, *, ghosts: bool = False
) -> Moments:
    """Count, mean and biased variance of each channel over all other axes.

    ```
    mean = 1/m sum_i x_i        variance = 1/m sum_i (x_i - mean)^2
    ```

    Both come from sums of `x - shift` and `(x - shift)^2`, where `shift` is a value close to the
    mean. It is the mean of a sparse sample of the positions, so that `x` is read once, or with a
    mask the masked mean. So a mean that is large beside the deviation costs no accuracy: at mean
    1e6 and deviation 1 the variance is within 1e-5 of float64's for the same rounded input.

    Differs from `keras.ops.moments`: masked, safe for large means, float32 for half-precision
    inputs, and a channel without positions has count, mean and variance 0 instead of NaN.

    Args:
        x: Tensor `[..., C, ...]` of rank 2 or more, floating point.
        axis: The axis of the channels.
        mask: Optional boolean tensor of `x`'s rank that broadcasts against `x`. Where it is False,
            `x` contributes nothing, even if it is NaN.
        ghosts: Whether the first axis of `x` counts ghost batches, each with its own moments.

    Returns:
        `Moments(mean, variance, count, mean_remainder)`, each `[C]`, or `[G, C]` for ghost batches.

    Raises:
        TypeError: If `x` is not floating point.
        ValueError: If `axis` or the shape of `mask` does not fit `x`, or if the channels are on the
            axis of the ghost batches.

    Example:
        >>> mean, variance, count, _ = moments(np.array([[1.0, 10.0], [3.0, 20.0]]))
        >>> print(np.asarray(mean), np.asarray(variance), np.asarray(count))
        [ 2. 15.] [ 1. 25.] [2. 2.]

    Source: Ioffe & Szegedy 2015, Algorithm 1. The shifted sums: Chan, Golub & LeVeque 1983,
    equation 1.7, the corrected two-pass algorithm.
    """
    return moments_and_shift(x, axis, mask, ghosts=arguments.flag("ghosts", ghosts))[0]


def require_moments(batch: Any) -> None:
    """Raises a TypeError unless `batch` are `Moments`."""
    if not isinstance(batch, Moments):
        raise TypeError(
            f"`batch` must be Moments, received {batch!r} of type {type(batch).__name__}. Write "
            "batch=keras_renorm.ops.moments(x)."
        )


def in_dtype_of(batch: Moments, moving_mean: Any, moving_variance: Any) -> list[Tensor]:
    """The moving statistics in the dtype of the minibatch's moments.

    Raises:
        TypeError: If `batch` are no `Moments`, or a moving statistic is no tensor.
        ValueError: If one has another number of channels.
    """
    require_moments(batch)
    dtype = keras.backend.standardize_dtype(batch.mean.dtype)
    named = {"moving_mean": moving_mean, "moving_variance": moving_variance}
    kept = []
    for name, values in named.items():
        values = arguments.converted(arguments.numbers(name, values), dtype)
        _check_channels(name, values, batch)
        kept.append(values)
    return kept


def _check_channels(name: str, values: Tensor, batch: Moments) -> None:
    """Raises if statistics, of each ghost or domain, have other channels than the minibatch."""
    if any(getattr(tensor.shape, "rank", 1) is None for tensor in (values, batch.mean)):
        return  # TensorFlow may not know it
    shape = tuple(values.shape)
    own, channels = shape[-1] if shape else 0, batch.mean.shape[-1]
    if None not in (own, channels) and own != channels:
        raise ValueError(
            f"`{name}` must have one entry per channel of the moments, {channels} in its last "
            f"axis; received shape {shape}."
        )


def moments_and_shift(
    x: Tensor, axis: int, mask: Tensor | None, *, ghosts: bool
) -> tuple[Moments, Tensor]:
    """`moments` and their shift, the value close to the mean, which has no gradient."""
    x, axis, mask = arguments.inputs(x, axis, mask)
    if ghosts and axis == 0:
        raise ValueError(
            "With `ghosts=True` the first axis of `x` counts ghost batches, so `axis` must be "
            f"another one; received axis=0 for `x` of shape {tuple(x.shape)}."
        )
    dtype = arguments.wide(x.dtype)
    count = _count(x, axis, mask, dtype, ghosts)
    divisor = at_least(1, count)
    shift = _shift(x, axis, mask, divisor, dtype, ghosts)
    shifted = select(mask, centre(x, axis, shift))
    first = channel_sum(shifted, axis, ghosts) / divisor
    second = channel_sum(keras.ops.square(shifted), axis, ghosts) / divisor
    variance = or_nan(at_least(0, second - keras.ops.square(first)))
    mean, remainder = two_sum(shift, first)
    return Moments(mean, variance, count, remainder), shift


def shift_or_mean(own: Moments, shift: Tensor, merged: Moments) -> Tensor:
    """A value near the mean of all replicas: a replica's shift, or that mean itself.

    A replica without a position of its own has a shift of 0, which may be far from the mean.
    """
    return keras.ops.where(own.count > 0, shift, keras.ops.stop_gradient(merged.mean))


def or_nan(variance: Tensor) -> Tensor:
    """The variance, or NaN where it is so large that a sum may have overflown.

    With an infinite variance `1 / sigma` is 0: the output would be beta, and look sound.
    """
    # A root: TensorFlow's search for NaNs takes a NaN among the graph's constants for an error.
    largest = _LARGEST_VARIANCE[keras.backend.standardize_dtype(variance.dtype)]
    excess = keras.ops.stop_gradient(largest - at_least(largest, variance))
    return variance + keras.ops.sqrt(excess)


def merged(sets: Moments, dtype: Any) -> Moments:
    """The moments of the union of sets of positions, each vector in `dtype`.

    ```
    m = sum m_k      mean = 1/m sum m_k mean_k
    variance = 1/m sum m_k (variance_k + (mean_k - mean)^2)
    ```

    The means enter as deviations from a value near them, so that float32, too, loses no digit of a
    variance that is small beside the mean.

    Args:
        sets: `[K, C]`, float64 or float32. A set may have no position.
        dtype: The dtype of the result.

    Source: Chan, Golub & LeVeque 1983, equations 2.1.
    """
    count = keras.ops.sum(sets.count, axis=0)
    divisor = at_least(1, count)
    near = keras.ops.stop_gradient(_greatest(sets.mean, sets.count > 0))
    deviations = (sets.mean - near) + sets.mean_remainder
    deviation = keras.ops.sum(sets.count * deviations, axis=0) / divisor
    squares = sets.count * (sets.variance + keras.ops.square(deviations - deviation))
    mean, rest = two_sum(near, deviation)
    return rounded(count, mean, rest, keras.ops.sum(squares, axis=0) / divisor, dtype)


def _greatest(values: Tensor, counted: Tensor) -> Tensor:
    """The greatest of the values that count, `[C]` from `[K, C]`, or 0 where none counts."""
    # Not their mean: XLA computes it anew, and rounds it otherwise, wherever it is used.
    least = -arguments.largest(values.dtype)
    found = keras.ops.max(keras.ops.where(counted, values, least), axis=0)
    return keras.ops.where(keras.ops.any(counted, axis=0), found, keras.ops.zeros_like(found))


def rounded(count: Tensor, mean: Tensor, rest: Any, variance: Tensor, dtype: Any) -> Moments:
    """Moments `[C]` in another dtype. The mean is `mean + rest`."""
    near = keras.ops.cast(mean, dtype)
    rest = (mean - keras.ops.cast(near, mean.dtype)) + rest
    variance, count, rest = (keras.ops.cast(vector, dtype) for vector in (variance, count, rest))
    return Moments(near, or_nan(variance), count, rest)


def centre(x: Tensor, axis: int, mean: Tensor) -> Tensor:
    """`x - mean` in the dtype of `mean`, per channel.

    The difference is exact for `x` near `mean` (Sterbenz), where `x * scale - mean * scale`
    cancels.
    """
    # A sum with the bits of the difference: converters fold it into the bias of a dense layer.
    return keras.ops.cast(x, mean.dtype) + spread(-mean, x, axis)


def _count(x: Tensor, axis: int, mask: Tensor | None, dtype: str, ghosts: bool) -> Tensor:
    """The number of positions that count, per channel."""
    shape = keras.ops.shape(x)
    summed = summed_axes(len(shape), axis, ghosts)
    ones = keras.ops.ones((shape[0], shape[axis]) if ghosts else (shape[axis],), dtype)
    if mask is None:
        return math.prod([keras.ops.cast(shape[i], dtype) for i in summed]) * ones
    # Summed at the mask's own size, then multiplied by the positions that it is broadcast over.
    counted = channel_sum(keras.ops.cast(mask, dtype), axis, ghosts)
    own = keras.ops.shape(mask)
    repeats = [
        keras.ops.cast(shape[i], dtype) / at_least(1, keras.ops.cast(own[i], dtype)) for i in summed
    ]
    return counted * math.prod(repeats) * ones


def _shift(
    x: Tensor, axis: int, mask: Tensor | None, divisor: Tensor, dtype: str, ghosts: bool
) -> Tensor:
    """A value near the mean of each channel, without gradient."""
    if mask is not None:
        masked = select(mask, keras.ops.cast(x, dtype))
        return keras.ops.stop_gradient(apart(channel_sum(masked, axis, ghosts) / divisor))
    # About the square root of each axis's length, evenly spaced. With k of n positions sampled the
    # variance loses about log2(n / k) bits, even if all k are outliers. The first row alone (k = 1)
    # would lose log2(n): 17 of float32's 24 bits for a feature map of 32x56x56.
    slices = [slice(None)] * len(x.shape)
    for i in summed_axes(len(x.shape), axis, ghosts):
        length = x.shape[i]
        if isinstance(length, int):
            # No isqrt: PyTorch does not compile it for an unknown length.
            slices[i] = slice(None, None, int(length**0.5) or 1)
    sample = x[tuple(slices)]
    size = at_least(1, _count(sample, axis, None, dtype, ghosts))
    total = channel_sum(keras.ops.cast(sample, dtype), axis, ghosts)
    return keras.ops.stop_gradient(apart(total / size))


def two_sum(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """`a + b` rounded, and the rounding error (Knuth 1969, TwoSum: exact in any order)."""
    total = a + b
    b_rounded = total - a
    return total, (a - (total - b_rounded)) + (b - b_rounded)
