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
    return Forward(*_call("forward", settings, *arguments, *constants))


def backward(
    dy: torch.Tensor,
    x: torch.Tensor,
    statistics: torch.Tensor,
    mask: torch.Tensor | None,
    settings: Settings,
) -> Arguments:
    """See `keras_renorm.ops.backends.kernels.StepCalls`."""
    return Arguments(*_call("backward", settings, dy, x, statistics, mask))


def moments(
    x: torch.Tensor, mask: torch.Tensor | None, settings: Settings
) -> tuple[Moments, torch.Tensor]:
    """See `keras_renorm.ops.backends.kernels.Passes`."""
    count, mean, variance, rest = _call("moments", settings, x, mask).unbind()
    batch = rounded(count, mean, rest, variance, torch.promote_types(x.dtype, torch.float32))
    return batch, batch.mean


def normalize(x: torch.Tensor, affine: Affine, settings: Settings) -> torch.Tensor:
    """See `keras_renorm.ops.backends.kernels.InferencePasses`."""
    return _call("normalize", settings, x, torch.stack(affine))


def gradient_sums(
    dy: torch.Tensor,
    x: torch.Tensor,
    affine: Affine,
    mask: torch.Tensor | None,
    settings: Settings,
) -> Sums:
    """See `keras_renorm.ops.backends.kernels.InferencePasses`."""
    sums = _call("gradient_sums", settings, dy, x, torch.stack(affine), mask)
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
    return _call("input_gradient", settings, dy, x, torch.stack((*affine, *line)), mask)


def relu_gradient(dy: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """`dy` where the output `y` of a ReLU is positive or NaN, and 0 elsewhere."""
    return torch.ops.aten.threshold_backward.default(dy, y, 0)


def _call(name: str, settings: Settings, *operands: torch.Tensor | None) -> Any:
    """Makes a call of the library."""
    register()
    call = getattr(torch.ops.keras_renorm, name).default
    return call(*operands, **layout.attributes(settings))
