"""The ResNets for ImageNet: 18, 34, 50, 101 and 152 weighted layers.

```
conv1       7x7, 64, / 2; then maximum over 3x3, / 2    112x112, then 56x56
conv2       blocks of  64 filters                       56x56
conv3       blocks of 128 filters, first / 2            28x28
conv4       blocks of 256 filters, first / 2            14x14
conv5       blocks of 512 filters, first / 2             7x7
            global average, fully connected
```

A block of the nets with 18 and 34 layers has two 3x3 convolutions. From 50 on it is a bottleneck of
1x1, 3x3 and 1x1, whose last has four times the filters. A normalization follows every convolution
and comes before the ReLU. Where the size or the channels change, the shortcut is a 1x1 convolution
(option B of the paper).

The first 1x1 convolution of a bottleneck has its stride, as in the paper and in
`keras.applications`; in torchvision the 3x3 has it. Weights of `keras.applications` give the same
output here, with `norm_options={"epsilon": 1.001e-5}`.

Source: He et al. 2015, Deep Residual Learning for Image Recognition, table 1.
"""

import keras

from keras_renorm.typing import Tensor
from zoo.models.convolution import conv_norm, max_pool
from zoo.models.head import Head
from zoo.models.normalization import Normalizer
from zoo.models.residual import end_branch, residual_blocks

#: Blocks of each stage, conv2 to conv5.
BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


def resnet(
    *,
    depth: int,
    input_shape: tuple[int | None, ...],
    norm: Normalizer,
    head: Head,
    name: str,
    stochastic_depth_rate: float = 0.0,
) -> keras.Model:
    """Builds a ResNet of `depth` weighted layers.

    Args:
        depth: Number of weighted layers, a key of `BLOCKS`.
        input_shape: Shape of an image, `(H, W, C)` or `(C, H, W)`.
        norm: Makes the normalization layers.
        head: Makes the end of the model.
        name: Name of the model.
        stochastic_depth_rate: Share of the examples that skip the last branch in training; see
            `residual_blocks`.

    Returns:
        A model of images, with the output of `head`.
    """
    branch_of = _two_layers if depth < 50 else _bottleneck

    images = keras.Input(input_shape, name="images")
    x = conv_norm(images, 64, 7, 2, norm=norm, name="conv1", padding="centered")
    x = max_pool(x, 3, 2, norm=norm, name="pool1")
    for block in residual_blocks(BLOCKS[depth], stochastic_depth_rate, first_stage=2):
        filters = 64 * 2 ** (block.stage - 2)
        strides = 2 if block.stage > 2 and block.number == 1 else 1
        block_name = f"conv{block.stage}_block{block.number}"
        branch = branch_of(x, filters, strides, norm, block_name)
        branch = end_branch(branch, block, norm, block_name)
        x = _shortcut(x, branch, strides, norm, block_name)
        x = keras.layers.Add(name=f"{block_name}_add")([x, branch])
        x = keras.layers.ReLU(name=f"{block_name}_out")(x)
    return keras.Model(images, head(x), name=name)


def _two_layers(x: Tensor, filters: int, strides: int, norm: Normalizer, name: str) -> Tensor:
    x = conv_norm(x, filters, 3, strides, norm=norm, name=f"{name}_1", padding="centered")
    return conv_norm(x, filters, 3, norm=norm, name=f"{name}_2", activation=None)


def _bottleneck(x: Tensor, filters: int, strides: int, norm: Normalizer, name: str) -> Tensor:
    x = conv_norm(x, filters, 1, strides, norm=norm, name=f"{name}_1")
    x = conv_norm(x, filters, 3, norm=norm, name=f"{name}_2")
    return conv_norm(x, 4 * filters, 1, norm=norm, name=f"{name}_3", activation=None)


def _shortcut(x: Tensor, branch: Tensor, strides: int, norm: Normalizer, name: str) -> Tensor:
    """Option B: `x` itself, and a 1x1 convolution of it where the branch has another shape."""
    filters = branch.shape[norm.axis]
    if strides == 1 and x.shape[norm.axis] == filters:
        return x
    return conv_norm(x, filters, 1, strides, norm=norm, name=f"{name}_0", activation=None)
