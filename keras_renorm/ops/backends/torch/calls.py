"""The native library's calls as functions of PyTorch tensors, on the CPU.

They fulfil `StepCalls`, `InferencePasses` and `Passes` in `keras_renorm.ops.backends.kernels`.
`keras_renorm.ops.backends.torch.derivatives` differentiates them.
"""

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
    register()
    found = torch.ops.keras_renorm.forward.default(
        *arguments,
        *constants,
        **layout.attributes(settings),
    )
    return Forward(*found)


def backward(
    dy: torch.Tensor,
    x: torch.Tensor,
    statistics: torch.Tensor,
    mask: torch.Tensor | None,
    settings: Settings,
) -> Arguments:
    """See `keras_renorm.ops.backends.kernels.StepCalls`."""
    register()
    found = torch.ops.keras_renorm.backward.default(
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
    register()
    found: torch.Tensor = torch.ops.keras_renorm.moments.default(x, mask, axis=settings.axis)
    count, mean, variance, rest = found.unbind()
    batch = rounded(count, mean, rest, variance, torch.promote_types(x.dtype, torch.float32))
    return batch, batch.mean


def normalize(x: torch.Tensor, affine: Affine, settings: Settings) -> torch.Tensor:
    """See `keras_renorm.ops.backends.kernels.InferencePasses`."""
    register()
    y: torch.Tensor = torch.ops.keras_renorm.normalize.default(
        x, torch.stack(affine), axis=settings.axis, relu=settings.relu
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
    register()
    sums: torch.Tensor = torch.ops.keras_renorm.gradient_sums.default(
        dy, x, torch.stack(affine), mask, axis=settings.axis, relu=settings.relu
    )
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
    register()
    dx: torch.Tensor = torch.ops.keras_renorm.input_gradient.default(
        dy, x, torch.stack((*affine, *line)), mask, axis=settings.axis, relu=settings.relu
    )
    return dx


def relu_gradient(dy: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """`dy` where the output `y` of a ReLU is positive or NaN, and 0 elsewhere."""
    return torch.ops.aten.threshold_backward.default(dy, y, 0)
