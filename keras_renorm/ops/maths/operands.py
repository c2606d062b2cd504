"""The operands of a step of training or inference, as named tuples that travel whole.

C is the number of channels. Per-channel operands have shape `[C]`. They are float64 where `x` is
float64, and float32 otherwise. Where the first axis of `x` counts G ghost batches, the operands of
a minibatch have shape `[G, C]`.
"""

from typing import NamedTuple

from keras_renorm.typing import Tensor


class Arguments(NamedTuple):
    """The operands that have a gradient. The gradient has the same form.

    Attributes:
        x: The input, `[..., C, ...]`.
        gamma: Scale, `[C]`.
        beta: Offset, `[C]`.
    """

    x: Tensor
    gamma: Tensor
    beta: Tensor


class Constants(NamedTuple):
    """The operands of a training step that have no gradient.

    Attributes:
        moving_mean: `[C]`, before the update.
        moving_variance: `[C]`, before the update.
        r_max: Scalar. A value below 1 counts as 1.
        d_max: Scalar. A value below 0 counts as 0.
        mask: None, or booleans of the rank of `x` that broadcast against `x` and say which
            positions count.
    """

    moving_mean: Tensor
    moving_variance: Tensor
    r_max: Tensor
    d_max: Tensor
    mask: Tensor | None = None


class Affine(NamedTuple):
    """The map `y = ((x - mean) - mean_remainder) * scale + offset` of each channel.

    Attributes:
        mean: `[C]`, a value at or near the mean: the rounded mean, or the shift of its sums.
        mean_remainder: `[C]`, the exact mean minus `mean`; None is 0.
        scale: `[C]`.
        offset: `[C]`.
    """

    mean: Tensor
    mean_remainder: Tensor | None
    scale: Tensor
    offset: Tensor


class Sums(NamedTuple):
    """Two sums over the positions that count, per channel.

    Attributes:
        dy: Sum of the output's gradient, `[C]`.
        dy_centred: Sum of the output's gradient times `x - mean`, `[C]`.
    """

    dy: Tensor
    dy_centred: Tensor


class Line(NamedTuple):
    """What the gradient of `x` subtracts from `scale * dy`: `bias + (x - mean) * slope`.

    Attributes:
        bias: `[C]`.
        slope: `[C]`.
    """

    bias: Tensor
    slope: Tensor


class Settings(NamedTuple):
    """The numbers and switches of a step, known before it runs.

    Attributes:
        axis: The axis of the channels, counted from the front.
        epsilon: Added to the variances.
        relu: Whether to take the positive part of the output.
        ghost_size: Rows of the batch in one ghost batch; None for no ghost batches.
        ghosts: Whether the first axis of the input counts ghost batches.
        momentum: Weight of the old moving statistics in the new ones.
        by_stddev: Whether the moving average is of sigma instead of the variance.
    """

    axis: int
    epsilon: float = 0.0
    relu: bool = False
    ghost_size: int | None = None
    ghosts: bool = False
    momentum: float = 1.0
    by_stddev: bool = False
