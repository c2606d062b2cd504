"""The passes over a tensor in plain `keras.ops`: every dtype, rank, backend and device.

The functions fulfil `keras_renorm.ops.backends.kernels.Passes`, except for the gradient of a ReLU:
`relu_gradient` takes it first, in a pass of its own. Between them a training step works on vectors
of one entry per channel: see `keras_renorm.ops.steps.pass_by_pass`.
"""

import operator
from collections.abc import Callable

import keras

from keras_renorm.ops.maths import moments as batch_moments
from keras_renorm.ops.maths.masks import select
from keras_renorm.ops.maths.moments import Moments, centre
from keras_renorm.ops.maths.operands import Affine, Line, Settings, Sums
from keras_renorm.ops.maths.sums import channel_sum, spread
from keras_renorm.typing import Tensor


def moments(x: Tensor, mask: Tensor | None, settings: Settings) -> tuple[Moments, Tensor]:
    """The moments of the positions that count, `[C]` or `[G, C]` for ghosts, and their shift.

    `x - shift` is summed already, so an output that is centred at the shift spares a pass.
    """
    return batch_moments.moments_and_shift(x, settings.axis, mask, ghosts=settings.ghosts)


def normalize(x: Tensor, affine: Affine, settings: Settings) -> Tensor:
    """`y = (x - mean) * scale + offset`, or its positive part, in the dtype of `x`."""
    return normalize_by(operator.mul, x, affine, settings)


def normalize_by(
    product: Callable[[Tensor, Tensor], Tensor], x: Tensor, affine: Affine, settings: Settings
) -> Tensor:
    """`normalize`, where `product` multiplies `x - mean` by the scale."""
    axis = settings.axis
    offset = spread(_at_centre(affine, affine.scale, affine.offset), x, axis)
    y = product(centre(x, axis, affine.mean), spread(affine.scale, x, axis)) + offset
    y = keras.ops.cast(y, x.dtype)
    return keras.ops.relu(y) if settings.relu else y


def relu_gradient(dy: Tensor, y: Tensor) -> Tensor:
    """`dy` where the output `y` of a ReLU is positive, and 0 elsewhere, even where `dy` is NaN.

    A `y` of less than 2^-25 is 0 in float16, so its gradient is 0. The native passes find `y` from
    `x` again, in float32, and let that gradient through. Here it would take one more pass over `x`.
    """
    # Not the gradient of TensorFlow's ReLU: outside XLA it multiplies, and 0 * inf is NaN. Not
    # `select`, either: its zeros are one more tensor.
    return keras.ops.where(y > 0, dy, 0)


def gradient_sums(
    dy: Tensor, x: Tensor, affine: Affine, mask: Tensor | None, settings: Settings
) -> Sums:
    """`sum dy` and `sum dy * (x - mean)` over the positions that count."""
    axis, ghosts = settings.axis, len(affine.mean.shape) == 2
    centred = centre(x, axis, affine.mean)
    dy = keras.ops.cast(select(mask, dy), centred.dtype)
    first = channel_sum(dy, axis, ghosts)
    second = channel_sum(dy * select(mask, centred), axis, ghosts)
    return Sums(first, _at_centre(affine, first, second))


def input_gradient(
    dy: Tensor,
    x: Tensor,
    affine: Affine,
    line: Line,
    mask: Tensor | None,
    settings: Settings,
) -> Tensor:
    """`dx = scale * dy - bias - (x - mean) * slope`, and 0 at masked positions."""
    axis = settings.axis
    centred = centre(x, axis, affine.mean)
    dy = keras.ops.cast(dy, centred.dtype)
    bias = spread(_at_centre(affine, line.slope, line.bias), x, axis)
    dx = spread(affine.scale, x, axis) * dy - centred * spread(line.slope, x, axis) - bias
    return keras.ops.cast(select(mask, dx), x.dtype)


def _at_centre(affine: Affine, slope: Tensor, at_mean: Tensor) -> Tensor:
    """The value at `affine.mean` of a line that is `at_mean` at the mean itself, per channel.

    So the passes over a tensor need no remainder.
    """
    remainder = affine.mean_remainder
    return at_mean if remainder is None else at_mean - remainder * slope
