"""The passes over a tensor in plain `keras.ops`: every dtype, rank, backend and device.

What a step of training does between these passes, with vectors of one entry per channel, is in
`keras_renorm.ops.steps.pass_by_pass`. `mean` and `mean_remainder` are those of `Moments`. Every
vector is `[C]`; where the first axis of `x` counts ghost batches, `[G, C]`.
"""

import keras

from keras_renorm.ops.maths.moments import centre, moments, select
from keras_renorm.ops.maths.sums import channel_sum, spread
from keras_renorm.typing import Tensor

__all__ = ["gradient_sums", "input_gradient", "moments", "normalize"]


def normalize(
    x: Tensor,
    mean: Tensor,
    mean_remainder: Tensor | None,
    scale: Tensor,
    offset: Tensor,
    *,
    axis: int,
    relu: bool = False,
) -> Tensor:
    """`y = (x - mean) * scale + offset`, or its positive part.

    Args:
        x: Tensor `[..., C, ...]`.
        mean: `[C]`.
        mean_remainder: `[C]`, or None for 0.
        scale: `[C]`.
        offset: `[C]`.
        axis: The axis of the channels.
        relu: Whether to take the positive part.

    Returns:
        Tensor of the dtype and shape of `x`.
    """
    y = _affine(centre(x, axis, mean, mean_remainder), scale, offset, axis)
    return keras.ops.cast(keras.ops.relu(y) if relu else y, x.dtype)


def gradient_sums(
    dy: Tensor,
    x: Tensor,
    mean: Tensor,
    mean_remainder: Tensor,
    scale: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    *,
    axis: int,
    relu: bool = False,
) -> tuple[Tensor, Tensor]:
    """`sum dy` and `sum dy * (x - mean)` over the positions that count.

    Args:
        dy: Gradient of the output of `normalize`.
        x: Its input, as are the following.
        mean: `[C]`.
        mean_remainder: `[C]`.
        scale: `[C]`; read with `relu` only.
        offset: `[C]`; read with `relu` only.
        mask: None, or booleans that broadcast against `x`.
        axis: The axis of the channels.
        relu: Whether `normalize` took the positive part; its mask is computed again from `x`.

    Returns:
        Two vectors `[C]`.
    """
    centred = centre(x, axis, mean, mean_remainder)
    dy = _received(dy, centred, scale, offset, mask, axis, relu)
    ghosts = len(mean.shape) == 2
    products = dy * select(mask, centred)
    return channel_sum(dy, axis, ghosts), channel_sum(products, axis, ghosts)


def input_gradient(
    dy: Tensor,
    x: Tensor,
    mean: Tensor,
    mean_remainder: Tensor,
    scale: Tensor,
    offset: Tensor,
    bias: Tensor,
    slope: Tensor,
    mask: Tensor | None,
    *,
    axis: int,
    relu: bool = False,
) -> Tensor:
    """`dx = scale * dy - bias - (x - mean) * slope`, and 0 at masked positions.

    Args:
        dy: Gradient of the output of `normalize`.
        x: Its input, as are the following.
        mean: `[C]`.
        mean_remainder: `[C]`.
        scale: `[C]`.
        offset: `[C]`; read with `relu` only.
        bias: `[C]`.
        slope: `[C]`.
        mask: None, or booleans that broadcast against `x`.
        axis: The axis of the channels.
        relu: As in `gradient_sums`.

    Returns:
        Tensor of the dtype and shape of `x`.
    """
    centred = centre(x, axis, mean, mean_remainder)
    dy = _received(dy, centred, scale, offset, mask, axis, relu)
    dx = spread(scale, x, axis) * dy - _affine(centred, slope, bias, axis)
    return keras.ops.cast(select(mask, dx), x.dtype)


def _affine(centred: Tensor, scale: Tensor, offset: Tensor, axis: int) -> Tensor:
    return centred * spread(scale, centred, axis) + spread(offset, centred, axis)


def _received(
    dy: Tensor,
    centred: Tensor,
    scale: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    axis: int,
    relu: bool,
) -> Tensor:
    """`dy` where the position counts and, with `relu`, let it through; 0 elsewhere."""
    dy = select(mask, keras.ops.cast(dy, centred.dtype))
    return select(_affine(centred, scale, offset, axis) > 0, dy) if relu else dy
