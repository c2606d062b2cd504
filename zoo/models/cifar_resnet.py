"""The ResNets for small images: 6n+2 weighted layers, as He et al. built them for CIFAR-10.

```
stem        3x3, 16                                       32x32
stage 1     n blocks of two 3x3, 16 filters               32x32
stage 2     n blocks of two 3x3, 32 filters, first / 2    16x16
stage 3     n blocks of two 3x3, 64 filters, first / 2     8x8
            global average, fully connected
```

A normalization follows every convolution and comes before the ReLU. Shortcuts have no parameters
(option A of the paper): where a stage begins they take every other pixel and pad the channels with
zeros. Weights are initialized after He et al.

Source: He et al. 2015, Deep Residual Learning for Image Recognition, section 4.2.
"""

import keras

from keras_renorm.typing import Tensor
from zoo.models.convolution import conv_norm
from zoo.models.head import Head
from zoo.models.normalization import Normalizer
from zoo.models.residual import Block, end_branch, residual_blocks

STAGE_FILTERS = (16, 32, 64)


def cifar_resnet(
    *,
    depth: int,
    input_shape: tuple[int, ...],
    norm: Normalizer,
    head: Head,
    name: str,
    stochastic_depth_rate: float = 0.0,
) -> keras.Model:
    """Builds a ResNet of `depth` = 6n+2 weighted layers.

    Args:
        depth: Number of weighted layers, 6n+2 with n of 1 or more.
        input_shape: Shape of an image, `(H, W, C)` or `(C, H, W)`.
        norm: Makes the normalization layers.
        head: Makes the end of the model.
        name: Name of the model.
        stochastic_depth_rate: Share of the examples that skip the last branch in training; see
            `residual_blocks`.

    Returns:
        A model of images, with the output of `head`.

    Raises:
        ValueError: If the depth is not of that form.
    """
    blocks, rest = divmod(depth - 2, 6)
    if blocks < 1 or rest:
        raise ValueError(f"`depth` must be 6n+2 (8, 14, 20, ...), received {depth}.")

    images = keras.Input(input_shape, name="images")
    x = conv_norm(images, STAGE_FILTERS[0], 3, norm=norm, name="stem")
    for block in residual_blocks([blocks] * len(STAGE_FILTERS), stochastic_depth_rate):
        x = _residual_block(x, block, norm, f"stage{block.stage}_block{block.number}")
    return keras.Model(images, head(x), name=name)


def _residual_block(x: Tensor, block: Block, norm: Normalizer, name: str) -> Tensor:
    """Two convolutions beside a shortcut: `relu(shortcut(x) + branch(x))`."""
    filters = STAGE_FILTERS[block.stage - 1]
    strides = 2 if block.stage > 1 and block.number == 1 else 1
    branch = conv_norm(x, filters, 3, strides, norm=norm, name=f"{name}_1", padding="centered")
    branch = conv_norm(branch, filters, 3, norm=norm, name=f"{name}_2", activation=None)
    branch = end_branch(branch, block, norm, name)
    if strides > 1:
        x = _shortcut(x, filters, strides, norm, f"{name}_shortcut")
    x = keras.layers.Add(name=f"{name}_add")([x, branch])
    return keras.layers.ReLU(name=f"{name}_out")(x)


def _shortcut(x: Tensor, filters: int, strides: int, norm: Normalizer, name: str) -> Tensor:
    """Option A: every `strides`-th pixel, and zeros for the channels that are missing."""
    missing = filters - x.shape[norm.axis]
    channels = missing // 2, missing - missing // 2
    # Pooling over one pixel subsamples. Layers of Keras's own need no code of ours to be loaded.
    x = keras.layers.AveragePooling2D(
        1, strides, padding="same", data_format=norm.data_format, name=f"{name}_subsample"
    )(x)
    # Padding pads the two dimensions that it takes for the positions: in "channels_first" the last
    # two, which are W and C where C is last; in "channels_last" those before it, here C and H.
    first = norm.data_format == "channels_first"
    return keras.layers.ZeroPadding2D(
        (channels, (0, 0)) if first else ((0, 0), channels),
        data_format="channels_last" if first else "channels_first",
        name=f"{name}_channels",
    )(x)
