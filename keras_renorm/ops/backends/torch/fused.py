"""Batch Renormalization by PyTorch's fused batch norm, whose gradient is PyTorch's, too.

The kernel normalises with the moments that it finds, while r and d depend on them. So they are
found first, without a gradient, and gamma r and gamma d + beta are its scale and offset. It is
given x - shift, with the mean of a few rows as shift, as under TensorFlow
(`backends.tensorflow.fused`) and for the same reason: where the channels come last, its sums are
chains of float32 additions. So the output is off by 2e-5 deviations for 1e5 positions and 1.4e-4
for 4e5, and at mean 1e6 by ten times that; the moments, whose sums are other ones, by 5e-7.

What is kept for the gradient is x - shift in float32 or wider; with a ReLU also the output.
"""

import math

import torch

from keras_renorm.ops.backends.kernels import PlainOutput
from keras_renorm.ops.backends.torch import derivatives
from keras_renorm.ops.maths import correction
from keras_renorm.ops.maths.correction import Correction
from keras_renorm.ops.maths.moments import Moments, or_nan, two_sum
from keras_renorm.ops.maths.operands import Arguments, Constants, Settings

_POSITIONS = (0, 2, 3)

# The rows of which the shift is the mean, about and at most, along each of two axes.
_SAMPLE = 256


def fits(x: torch.Tensor, mask: torch.Tensor | None, settings: Settings) -> bool:
    """Whether `train` can take this input.

    That is with nothing masked, no ghosts, and two positions or more, for without a variance the
    kernel refuses.
    """
    whole = mask is None and settings.ghost_size is None
    return whole and math.prod(x.shape) > x.shape[settings.axis] > 0


def shifted(x: torch.Tensor, axis: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`x - shift` as images, and the shift, which is near the mean and has no gradient.

    Args:
        x: [..., C, ...].
        axis: The axis of the channels, counted from the front.

    Returns:
        [N, C, H, W] of type float32 or wider, the channels last in memory if that is their axis;
        and [C].
    """
    outer, channels, inner = _sizes(x, axis)
    if inner == 1:
        images = x.reshape(1, outer, 1, channels).permute(0, 3, 1, 2)
    else:
        images = x.reshape(outer, channels, inner, 1)
    wide = torch.promote_types(x.dtype, torch.float32)
    rows, columns = (images.shape[i] // _SAMPLE + 1 for i in (0, 2))
    shift = images.detach()[::rows, :, ::columns].mean(_POSITIONS, dtype=wide)
    return images - shift.reshape(-1, 1, 1), shift


def moments(images: torch.Tensor, shift: torch.Tensor) -> Moments:
    """The moments of `x`, without a gradient: those of `keras_renorm.ops.maths.moments`.

    Args:
        images: `x - shift`, of `shifted`.
        shift: The shift.
    """
    images = images.detach()
    first = images.mean(_POSITIONS)
    variance = images.square().mean(_POSITIONS) - first.square()
    mean, remainder = two_sum(shift, first)
    count = torch.full_like(mean, images.numel() // images.shape[1])
    return Moments(mean, or_nan(variance.clamp(min=0)), count, remainder)


def normalize(
    images: torch.Tensor, scale: torch.Tensor, offset: torch.Tensor, *, epsilon: float
) -> torch.Tensor:
    """`(images - mean) / sqrt(variance + epsilon) * scale + offset`, by moments of their own.

    Args:
        images: [N, C, H, W].
        scale: [C].
        offset: [C].
        epsilon: Added to the variance.
    """
    return torch.nn.functional.batch_norm(
        images, None, None, scale, offset, training=True, momentum=0.0, eps=epsilon
    )


def restored(images: torch.Tensor, x: torch.Tensor, axis: int) -> torch.Tensor:
    """Images that `shifted` made of `x`, in its shape and type."""
    if _sizes(x, axis)[2] == 1:
        images = images.permute(0, 2, 3, 1)
    return images.reshape(x.shape).to(x.dtype)


def _sizes(x: torch.Tensor, axis: int) -> tuple[int, int, int]:
    """The number of positions before the channels' axis, of channels, and of positions after."""
    return math.prod(x.shape[:axis]), x.shape[axis], math.prod(x.shape[axis + 1 :])


def train(
    arguments: Arguments, constants: Constants, settings: Settings, plain: PlainOutput
) -> tuple[torch.Tensor, Moments]:
    """The output and the moments, with all of PyTorch's derivatives.

    Args:
        arguments: The operands that have a gradient.
        constants: Those that have none, without a mask.
        settings: The rest.
        plain: Not needed: the kernel has further derivatives.
    """
    x = arguments.x
    images, shift = shifted(x, settings.axis)
    batch = moments(images, shift)
    found = Correction(*map(derivatives.pinned, correction.of_step(batch, constants, settings)))
    scale, offset = correction.scale_and_offset(found, arguments, found.r)
    y = normalize(images, scale, offset, epsilon=settings.epsilon)
    y = restored(y, x, settings.axis)
    return torch.relu(y) if settings.relu else y, batch
