"""The native library's calls as functions of PyTorch tensors, on the CPU.

They fulfil `StepCalls`, `InferencePasses` and `Passes` in `keras_renorm.ops.backends.kernels`.
`keras_renorm.ops.backends.torch.derivatives` differentiates them.
"""

from typing import Any

import torch

from keras_renorm.ops.backends.kernels import Forward
from keras_renorm.ops.backends.torch.operators import ELEMENTS, register
from keras_renorm.ops.maths.moments import Moments, rounded
from keras_renorm.ops.maths.operands import Affine, Arguments, Constants, Line, Settings, Sums
from keras_renorm.ops.native import layout


def takes(x: torch.Tensor) -> bool:
    """Whether the kernels take this input."""
    return x.device.type == "cpu" and x.dtype in ELEMENTS


def forward(arguments: Arguments, constants: Constants, settings: Settings) -> Forward:
    """See `keras_renorm.ops.backends.kernels.StepCalls`."""
    return Forward(*_call("forward", *arguments, *constants, **layout.attributes(settings)))


def backward(
    dy: torch.Tensor,
    x: torch.Tensor,
    statistics: torch.Tensor,
    mask: torch.Tensor | None,
    settings: Settings,
) -> Arguments:
    """See `keras_renorm.ops.backends.kernels.StepCalls`."""
    found = _call(
        "backward",
        dy,
        x,
        statistics,
        mask,
        axis=settings.axis,
        relu=settings.relu,
        ghost_size=settings.ghost_size or 0,
    )
    return Arguments(*found)


def moments(
    x: torch.Tensor, mask: torch.Tensor | None, settings: Settings
) -> tuple[Moments, torch.Tensor]:
    """See `keras_renorm.ops.backends.kernels.Passes`."""
    found = _call("moments", x, mask, axis=settings.axis)
    count, mean, variance, rest = found.unbind()
    batch = rounded(count, mean, rest, variance, torch.promote_types(x.dtype, torch.float32))
    return batch, batch.mean


def normalize(x: torch.Tensor, affine: Affine, settings: Settings) -> torch.Tensor:
    """See `keras_renorm.ops.backends.kernels.InferencePasses`."""
    y: torch.Tensor = _call(
        "normalize", x, torch.stack(affine), axis=settings.axis, relu=settings.relu
    )
    return y


def gradient_sums(
    dy: torch.Tensor,
    x: torch.Tensor,
    affine: Affine,
    mask: torch.Tensor | None,
    settings: Settings,
) -> Sums:
    """See `keras_renorm.ops.backends.kernels.InferencePasses`."""
    operands = dy, x, torch.stack(affine), mask
    sums = _call("gradient_sums", *operands, axis=settings.axis, relu=settings.relu)
    return Sums(*sums.to(affine.mean.dtype).unbind())


def input_gradient(
    dy: torch.Tensor,
    x: torch.Tensor,
    affine: Affine,
    line: Line,
    mask: torch.Tensor | None,
    settings: Settings,
) -> torch.Tensor:
    """See `keras_renorm.ops.backends.kernels.Passes`."""
    operands = dy, x, torch.stack((*affine, *line)), mask
    dx: torch.Tensor = _call("input_gradient", *operands, axis=settings.axis, relu=settings.relu)
    return dx


def relu_gradient(dy: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """`dy` where the output `y` of a ReLU is positive or NaN, and 0 elsewhere."""
    return torch.ops.aten.threshold_backward.default(dy, y, 0)


def _call(name: str, *operands: torch.Tensor | None, **attributes: Any) -> Any:
    """Makes a call of the library."""
    register()
    return getattr(torch.ops.keras_renorm, name).default(*operands, **attributes)
