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


def results(
    name: str, x: tuple[Any, Any], wide: Any, double: Any, ghosts: Any, channels: Any
) -> list[tuple[Any, Any]]:
    """The type and the shape of each result of a call.

    `x` itself stands where a result is like the input.

    Args:
        name: The call's name.
        x: The type and the shape of the input.
        wide: The type of per-channel operands.
        double: The type float64.
        ghosts: The number of ghost batches, 1 for none.
        channels: The number of channels.
    """
    vector = wide, (channels,)
    found = {
        "forward": [x, (wide, (STATISTICS, ghosts, channels)), vector, vector, (wide, ())],
        "backward": [x, vector, vector],
        "moments": [(double, (4, channels))],
        "gradient_sums": [(double, (2, channels))],
    }
    return found.get(name, [x])


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
