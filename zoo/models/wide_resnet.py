"""Wide ResNets for small images: `wide_resnet_D_W`, D = 6n+4 convolutions deep, W times as wide.

```
stem        3x3, 16                                        32x32
stage 1     n blocks of two 3x3, 16 W filters              32x32
stage 2     n blocks of two 3x3, 32 W filters, first / 2   16x16
stage 3     n blocks of two 3x3, 64 W filters, first / 2    8x8
            normalization, ReLU, global average, fully connected
```

A block normalizes first and convolves then. Nothing stands on the path from one sum to the next,
except where a stage begins: there it is a 1x1 convolution of the normalized input. No convolution
has a bias where the model normalizes, as in the authors' code.

With `norm="skip_init"` these are the nets in which De & Smith train 1000 layers without a
normalization: biases, a learnable scale at the end of each branch, dropout before the classifier.
Their D-2 are `wide_resnet_16_2`, `wide_resnet_100_2` and `wide_resnet_1000_2`.

Sources: Zagoruyko & Komodakis 2016, Wide Residual Networks, table 1; De & Smith 2020, Batch
Normalization Biases Residual Blocks Towards the Identity Function in Deep Networks, section 4.
"""

import sys

import keras

from keras_renorm.typing import Tensor
from zoo.models.cifar_resnet import STAGE_FILTERS
from zoo.models.convolution import conv_norm, convolution
from zoo.models.head import Head
from zoo.models.normalization import Normalizer
from zoo.models.residual import Block, end_branch, residual_blocks

# ResNet-1001 is the deepest of the papers. Beyond these a model would build until memory ends.
_GREATEST_DEPTH = 4000
_MOST_WEIGHTS = 2**31


def wide_resnet(
    *,
    depth: int,
    width: int,
    input_shape: tuple[int | None, ...],
    norm: Normalizer,
    head: Head,
    name: str,
    stochastic_depth_rate: float = 0.0,
) -> keras.Model:
    """Builds a wide ResNet.

    Args:
        depth: Number of convolutions, those of the three shortcuts included: 6n+4, n of 1 or more.
        width: How many times as many filters there are as in a ResNet for small images.
        input_shape: Shape of an image, `(H, W, C)` or `(C, H, W)`.
        norm: Makes the normalization layers.
        head: Makes the end of the model.
        name: Name of the model.
        stochastic_depth_rate: Share of the examples that skip the last branch in training; see
            `residual_blocks`.

    Returns:
        A model of images, with the output of `head`. Python's limit of recursion is raised for
        nets of many blocks; a process that loads such a model must do the same.

    Raises:
        ValueError: If the depth is not of that form, or the model would be too large to build.
    """
    blocks = _blocks_per_stage(depth, width)
    images = keras.Input(input_shape, name="images")
    x = convolution(images, 16, 3, norm=norm, name="stem_conv", use_bias=norm.use_bias)
    for block in residual_blocks([blocks] * len(STAGE_FILTERS), stochastic_depth_rate):
        x = _residual_block(x, width, block, norm, f"stage{block.stage}_block{block.number}")
    x = norm(x, "post", "relu")
    # Keras follows a graph by recursion, one level per sum: here, when it copies and when it loads
    # the model. So the limit, 1,000 by default, stays where it is put.
    sys.setrecursionlimit(max(sys.getrecursionlimit(), 3 * blocks + 1_000))
    return keras.Model(images, head(x), name=name)


def _blocks_per_stage(depth: int, width: int) -> int:
    blocks, rest = divmod(depth - 4, 6)
    if blocks < 1 or rest:
        # The nearest valid depth; the smaller one if two are equally near.
        valid = 6 * max(1, (depth - 4 + 2) // 6) + 4
        raise ValueError(
            f"The depth D of wide_resnet_D_W must be 6n+4 (10, 16, 22, 28, ...), received {depth}. "
            f"The nearest is wide_resnet_{valid}_{width}."
        )
    # Two 3x3 convolutions a block, of 16, 32 and 64 times the width.
    weights = 2 * blocks * 9 * sum((width * filters) ** 2 for filters in STAGE_FILTERS)
    if depth > _GREATEST_DEPTH or weights > _MOST_WEIGHTS:
        raise ValueError(
            f"wide_resnet_{depth}_{width} has about {weights:.1e} weights: a depth may be at most "
            f"{_GREATEST_DEPTH}, and the weights {_MOST_WEIGHTS:.1e}, which is 9 GB. Choose a "
            "smaller depth or width."
        )
    return blocks


def _residual_block(x: Tensor, width: int, block: Block, norm: Normalizer, name: str) -> Tensor:
    """Two convolutions of the normalized input, added to the input itself."""
    filters = width * STAGE_FILTERS[block.stage - 1]
    strides = 2 if block.stage > 1 and block.number == 1 else 1
    active = norm(x, f"{name}_preact", "relu")
    branch = conv_norm(active, filters, 3, strides, norm=norm, name=f"{name}_1", padding="centered")
    branch = convolution(
        branch, filters, 3, norm=norm, name=f"{name}_2_conv", use_bias=norm.use_bias
    )
    branch = end_branch(branch, block, norm, name)
    if strides > 1 or x.shape[norm.axis] != filters:
        x = convolution(
            active, filters, 1, strides, norm=norm, name=f"{name}_0_conv", use_bias=norm.use_bias
        )
    return keras.layers.Add(name=f"{name}_out")([x, branch])
