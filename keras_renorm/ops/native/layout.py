"""What the library's calls take and return, as handlers.cc and kernels.h have it."""

from typing import Any, NamedTuple

from keras_renorm.ops.maths.operands import Settings
from keras_renorm.typing import Tensor


class Statistics(NamedTuple):
    """The rows of the packed statistics, each `[G, C]`, in their order.

    Attributes:
        mean: Mean of the minibatch, rounded.
        mean_remainder: What rounding took from `mean`. The exact mean is the sum of both.
        variance: Biased variance of the minibatch.
        count: Number of the positions that counted.
        r: The paper's r, clipped.
        d: The paper's d, clipped.
        scale: gamma r / sigma_B.
        offset: gamma d + beta.
        inverse: 1 / sigma_B, with sigma_B = sqrt(variance + epsilon).
    """

    mean: Tensor
    mean_remainder: Tensor
    variance: Tensor
    count: Tensor
    r: Tensor
    d: Tensor
    scale: Tensor
    offset: Tensor
    inverse: Tensor


STATISTICS = len(Statistics._fields)
"""The number of rows of the packed statistics."""


def forward_shapes(ghosts: Any, channels: Any) -> tuple[tuple[Any, ...], ...]:
    """The shapes of what the forward call returns after the output."""
    return (STATISTICS, ghosts, channels), (channels,), (channels,), ()


def attributes(settings: Settings) -> dict[str, bool | int | float]:
    """The attributes of a call. All calls of XLA and TensorFlow take all of them."""
    return {
        "axis": settings.axis,
        "ghost_size": settings.ghost_size or 0,
        "relu": settings.relu,
        "epsilon": float(settings.epsilon),
        "momentum": float(settings.momentum),
        "by_stddev": settings.by_stddev,
    }
