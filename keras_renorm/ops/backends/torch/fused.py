"""Batch Renormalization by PyTorch's fused batch norm, with PyTorch's own gradient.

The kernel normalises with the moments that it finds, but r and d depend on the moments. So these
are found first, without a gradient, and gamma r and gamma d + beta are the kernel's scale and
offset. The kernel gets x - shift, where shift is the mean of a few rows, for the same reason as
under TensorFlow (`backends.tensorflow.fused`). Where the channels come last, its sums are chains of
float32 additions. So the output is off by 2e-5 deviations for 1e5 positions and 1.4e-4 for 4e5, and
at mean 1e6 by ten times that. The moments, from other sums, are off by 5e-7.

The gradient keeps x - shift in float32 or wider, and with a ReLU also the output.
"""

import math

import torch

from keras_renorm.ops.backends.kernels import PlainOutput
from keras_renorm.ops.backends.torch import derivatives
from keras_renorm.ops.maths import correction
from keras_renorm.ops.maths.correction import Correction
from keras_renorm.ops.maths.moments import Moments, or_nan, two_sum
from keras_renorm.ops.maths.operands import Arguments, Constants, Settings

# The shift is the mean of at most so many rows along each of two axes.
_SAMPLE = 256


def fits(x: torch.Tensor, mask: torch.Tensor | None, settings: Settings) -> bool:
    """Whether `train` takes this input: nothing masked, no ghosts, and two positions or more.

    The kernel refuses a single position, which has no variance.
    """
    whole = mask is None and settings.ghost_size is None
    return whole and math.prod(x.shape) > x.shape[settings.axis] > 0


def shifted(x: torch.Tensor, axis: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`x - shift` as images, and the shift, which is near the mean and has no gradient.

    Args:
        x: [..., C, ...].
        axis: The axis of the channels, counted from the front.

    Returns:
        [N, C, H, 1] with the channels last in memory, if all axes of `x` after them have size 1,
        and else [N, C, H]: with the channels before H in memory PyTorch's gradient mistakes the
        order of [1, C, H, 1]. In float32 or wider. And [C].
    """
    outer, channels, inner = _sizes(x, axis)
    if inner == 1:
        images = x.reshape(1, outer, 1, channels).permute(0, 3, 1, 2)
    else:
        images = x.reshape(outer, channels, inner)
    wide = torch.promote_types(x.dtype, torch.float32)
    rows, columns = (images.shape[i] // _SAMPLE + 1 for i in (0, 2))
    shift = images.detach()[::rows, :, ::columns].mean(_positions(images), dtype=wide)
    return images - shift.reshape(-1, *[1] * (images.ndim - 2)), shift


def _positions(images: torch.Tensor) -> list[int]:
    """All axes but the channels'."""
    return [0, *range(2, images.ndim)]


def moments(images: torch.Tensor, shift: torch.Tensor) -> Moments:
    """The moments of `x`, as `keras_renorm.ops.maths.moments` gives them, without a gradient.

    Args:
        images: `x - shift`, from `shifted`.
        shift: The shift.
    """
    images = images.detach()
    first = images.mean(_positions(images))
    variance = images.square().mean(_positions(images)) - first.square()
    mean, remainder = two_sum(shift, first)
    count = torch.full_like(mean, images.numel() // images.shape[1])
    return Moments(mean, or_nan(variance.clamp(min=0)), count, remainder)


def restored(images: torch.Tensor, x: torch.Tensor, axis: int) -> torch.Tensor:
    """Images like those from `shifted`, in the shape and type of `x`."""
    if _sizes(x, axis)[2] == 1:
        images = images.permute(0, 2, 3, 1)
    return images.reshape(x.shape).to(x.dtype)


def _sizes(x: torch.Tensor, axis: int) -> tuple[int, int, int]:
    """The numbers of positions before the channels' axis, of channels, and of positions after."""
    return math.prod(x.shape[:axis]), x.shape[axis], math.prod(x.shape[axis + 1 :])


def train(
    arguments: Arguments, constants: Constants, settings: Settings, plain: PlainOutput
) -> tuple[torch.Tensor, Moments]:
    """The output and the moments, with all of PyTorch's derivatives.

    Args:
        arguments: The operands that have a gradient.
        constants: The operands that have no gradient, without a mask.
        settings: The axis, epsilon and ReLU are used.
        plain: Not used: the kernel has further derivatives.
    """
    x = arguments.x
    images, shift = shifted(x, settings.axis)
    batch = moments(images, shift)
    found = Correction(*map(derivatives.pinned, correction.of_step(batch, constants, settings)))
    scale, offset = correction.scale_and_offset(found, arguments, found.r)
    y = torch.nn.functional.batch_norm(
        images, None, None, scale, offset, training=True, momentum=0.0, eps=settings.epsilon
    )
    y = restored(y, x, settings.axis)
    return torch.relu(y) if settings.relu else y, batch
