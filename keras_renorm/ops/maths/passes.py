"""The passes over a tensor in plain `keras.ops`: every dtype, rank, backend and device.

They fulfil `keras_renorm.ops.backends.interface.Passes`. What a step of training does between them,
with vectors of one entry per channel, is in `keras_renorm.ops.steps.pass_by_pass`.
"""

import keras

from keras_renorm.ops.maths import moments as batch_moments
from keras_renorm.ops.maths.masks import select
from keras_renorm.ops.maths.moments import Moments, centre
from keras_renorm.ops.maths.operands import Affine, Line, Settings, Sums
from keras_renorm.ops.maths.sums import channel_sum, spread
from keras_renorm.typing import Tensor


def moments(x: Tensor, mask: Tensor | None, settings: Settings) -> Moments:
    """The moments of the positions that count, `[C]`, or `[G, C]` of ghost batches."""
    return batch_moments.moments(x, settings.axis, mask, ghosts=settings.ghosts)


def normalize(x: Tensor, affine: Affine, settings: Settings) -> Tensor:
    """`y = (x - mean) * scale + offset`, or its positive part, in the dtype of `x`."""
    y = _affine(_centred(x, affine, settings), affine.scale, affine.offset, settings.axis)
    return keras.ops.cast(keras.ops.relu(y) if settings.relu else y, x.dtype)


def gradient_sums(
    dy: Tensor, x: Tensor, affine: Affine, mask: Tensor | None, settings: Settings
) -> Sums:
    """`sum dy` and `sum dy * (x - mean)` over the positions that count."""
    centred = _centred(x, affine, settings)
    dy = _received(dy, centred, affine, mask, settings)
    ghosts = len(affine.mean.shape) == 2
    products = dy * select(mask, centred)
    axis = settings.axis
    return Sums(channel_sum(dy, axis, ghosts), channel_sum(products, axis, ghosts))


def input_gradient(
    dy: Tensor,
    x: Tensor,
    affine: Affine,
    line: Line,
    mask: Tensor | None,
    settings: Settings,
) -> Tensor:
    """`dx = scale * dy - bias - (x - mean) * slope`, and 0 at masked positions."""
    centred = _centred(x, affine, settings)
    dy = _received(dy, centred, affine, mask, settings)
    axis = settings.axis
    dx = spread(affine.scale, x, axis) * dy - _affine(centred, line.slope, line.bias, axis)
    return keras.ops.cast(select(mask, dx), x.dtype)


def _centred(x: Tensor, affine: Affine, settings: Settings) -> Tensor:
    return centre(x, settings.axis, affine.mean, affine.mean_remainder)


def _affine(centred: Tensor, scale: Tensor, offset: Tensor, axis: int) -> Tensor:
    return centred * spread(scale, centred, axis) + spread(offset, centred, axis)


def _received(
    dy: Tensor, centred: Tensor, affine: Affine, mask: Tensor | None, settings: Settings
) -> Tensor:
    """`dy` where the position counts and, with a ReLU, let it through; 0 elsewhere."""
    dy = select(mask, keras.ops.cast(dy, centred.dtype))
    if not settings.relu:
        return dy
    return select(_affine(centred, affine.scale, affine.offset, settings.axis) > 0, dy)
