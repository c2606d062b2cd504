"""Residual nets: their blocks one after the other, and what stands at the end of each branch."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import keras

from keras_renorm.typing import Tensor
from zoo.models.arguments import fraction
from zoo.models.normalization import Normalizer


class Block(NamedTuple):
    """The place of a residual block in its net.

    Attributes:
        stage: Number of its stage.
        number: Its number in the stage, from 1.
        depth: Number of blocks of the net.
        drop_rate: Share of the examples that skip its branch, in training.
    """

    stage: int
    number: int
    depth: int
    drop_rate: float


def residual_blocks(
    counts: Sequence[int], stochastic_depth_rate: float, first_stage: int = 1
) -> Iterator[Block]:
    """Yields the blocks of a net in their order.

    The rate of stochastic depth rises linearly: block l of L has l / L of the last block's.

    Args:
        counts: Number of blocks of each stage.
        stochastic_depth_rate: Share of the examples that skip the last block's branch.
        first_stage: Number of the first stage.

    Raises:
        TypeError: If the rate is not a number.
        ValueError: If the rate is not in [0, 1).

    Source: Huang et al. 2016, Deep Networks with Stochastic Depth, equation 4.
    """
    rate, depth, before = fraction("stochastic_depth_rate", stochastic_depth_rate), sum(counts), 0
    for stage, count in enumerate(counts, start=first_stage):
        for number in range(1, count + 1):
            yield Block(stage, number, depth, rate * (before + number) / depth)
        before += count


def end_branch(x: Tensor, block: Block, norm: Normalizer, name: str) -> Tensor:
    """What a block adds to its shortcut: the branch, scaled or dropped where the model asks for it.

    ```
    kept / (1 - drop_rate) * scale * x
    ```

    In training, `kept` is drawn for each example: 0 with the probability `drop_rate`, else 1. In
    inference `kept / (1 - drop_rate)` is 1. Huang et al. draw once for a minibatch, and multiply in
    inference, by 1 - drop_rate, what is divided here in training; so the means are the same.

    The layers are `{name}_skip_init` and `{name}_stochastic_depth`. The second is a Dropout, so
    that loading the model needs no code of ours. The checkpoints of `zoo.train` hold its random
    state. A `.keras` file does not, as of every Dropout.

    Args:
        x: Feature maps `[B, H, W, C]` or `[B, C, H, W]`.
        block: The block.
        norm: The model's normalizer, which scales branches with "skip_init".
        name: What the names of the layers begin with.

    Returns:
        Tensor of the same shape; `x` itself if there is nothing to do.
    """
    x = norm.scale_branch(x, name, block.depth)
    if not block.drop_rate:
        return x
    by_example = (None, 1, 1, 1)
    return keras.layers.Dropout(
        block.drop_rate, noise_shape=by_example, name=f"{name}_stochastic_depth"
    )(x)
