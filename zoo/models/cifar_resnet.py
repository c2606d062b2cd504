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

from typing import Any

import keras

from keras_renorm.typing import Tensor
from zoo.models.classifier import classifier
from zoo.models.normalization import Normalizer

STAGE_FILTERS = (16, 32, 64)


def cifar_resnet(
    *,
    depth: int,
    input_shape: tuple[int, ...],
    num_classes: int,
    norm: Normalizer,
    classifier_activation: Any,
    name: str,
) -> keras.Model:
    """Builds a ResNet of `depth` = 6n+2 weighted layers.

    Args:
        depth: Number of weighted layers, 6n+2 with n of 1 or more.
        input_shape: Shape of an image, `(H, W, C)`.
        num_classes: Number of classes K.
        norm: Makes the normalization layers.
        classifier_activation: Activation of the output; None for logits.
        name: Name of the model.

    Returns:
        A model from images `[B, H, W, C]` to `[B, K]`.

    Raises:
        ValueError: If the shape or the depth is not of that form.
    """
    if len(input_shape) != 3:
        raise ValueError(f"`input_shape` of {name} must be (H, W, C), received {input_shape}.")
    blocks, rest = divmod(depth - 2, 6)
    if blocks < 1 or rest:
        raise ValueError(f"`depth` must be 6n+2 (8, 14, 20, ...), received {depth}.")

    images = keras.Input(input_shape, name="images")
    x = _convolution(images, 16, 1, norm, "stem_conv")
    x = norm(x, "stem_norm")
    x = keras.layers.ReLU(name="stem_relu")(x)
    for stage, filters in enumerate(STAGE_FILTERS, start=1):
        for block in range(1, blocks + 1):
            strides = 2 if stage > 1 and block == 1 else 1
            x = _residual_block(x, filters, strides, norm, f"stage{stage}_block{block}")
    x = keras.layers.GlobalAveragePooling2D(data_format="channels_last", name="pool")(x)
    return keras.Model(images, classifier(x, num_classes, classifier_activation), name=name)


def _residual_block(x: Tensor, filters: int, strides: int, norm: Normalizer, name: str) -> Tensor:
    """Two convolutions beside a shortcut: `relu(shortcut(x) + branch(x))`."""
    branch = _convolution(x, filters, strides, norm, f"{name}_conv1")
    branch = norm(branch, f"{name}_norm1")
    branch = keras.layers.ReLU(name=f"{name}_relu1")(branch)
    branch = _convolution(branch, filters, 1, norm, f"{name}_conv2")
    branch = norm(branch, f"{name}_norm2")
    if strides > 1:
        x = _shortcut(x, filters, strides, f"{name}_shortcut")
    x = keras.layers.Add(name=f"{name}_add")([x, branch])
    return keras.layers.ReLU(name=f"{name}_relu2")(x)


def _convolution(x: Tensor, filters: int, strides: int, norm: Normalizer, name: str) -> Tensor:
    """A 3x3 convolution padded with one pixel on each side."""
    if strides > 1:
        # "same" would pad only bottom and right here, and so look one pixel beside the shortcut.
        x = keras.layers.ZeroPadding2D(1, data_format="channels_last", name=f"{name}_pad")(x)
    return keras.layers.Conv2D(
        filters,
        kernel_size=3,
        strides=strides,
        padding="same" if strides == 1 else "valid",
        data_format="channels_last",
        use_bias=norm.use_bias,
        kernel_initializer="he_normal",
        name=name,
    )(x)


def _shortcut(x: Tensor, filters: int, strides: int, name: str) -> Tensor:
    """Option A: every `strides`-th pixel, and zeros for the channels that are missing."""
    missing = filters - x.shape[-1]
    # Pooling over one pixel subsamples. Padding in the layout "channels_first" pads the last two
    # dimensions, which here are W and C. Layers of Keras's own need no code of ours to be loaded.
    x = keras.layers.AveragePooling2D(
        1, strides, padding="same", data_format="channels_last", name=f"{name}_subsample"
    )(x)
    return keras.layers.ZeroPadding2D(
        ((0, 0), (missing // 2, missing - missing // 2)),
        data_format="channels_first",
        name=f"{name}_channels",
    )(x)
