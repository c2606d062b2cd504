"""The Inception network of the Batch Normalization paper, also called BN-Inception.

```
conv1       7x7 /2, separable, 64; pool /2              56x56
conv2       1x1, 64; 3x3, 192; pool /2                  28x28
3a-3c       1x1 | 3x3 | two 3x3 | pool                  28x28    256, 320 channels
4a-4e       the same; 3c and 4e halve the maps          14x14    576
5a-5b       the same                                     7x7    1024
            global average, fully connected
```

It is GoogLeNet with its 5x5 convolutions replaced by two 3x3, and one module more. Where 3c and 4e
halve the maps there is no 1x1 branch, and the pooling passes all channels on. A normalization
follows every convolution and comes before the nonlinearity; there is no local response
normalization.

The paper counts 13.6 million parameters, and its table has 11.2 million. The difference is one
auxiliary classifier of the kind that the authors published with Inception-v3: on 14x14 maps it has
2.4 million, and the sum is 13.61 million. So the auxiliary head is part of this network unless you
say otherwise. (GoogLeNet's two, with their fully connected layers, would make 17.6 million.) The
paper does not say that it counts the head: this is inferred from the numbers.

Two of the table's numbers contradict each other: with 128 channels from the pooling of 4c and 4d
those modules have 608 channels, and not the 576 of its column of sizes. Here they are 96, as in the
authors' code, which makes it 576.

Source: Ioffe & Szegedy 2015, Batch Normalization, section 4.2 and the table of the appendix.
"""

import functools
from typing import Literal, NamedTuple

import keras

from keras_renorm.typing import Tensor
from zoo.models.arguments import choice
from zoo.models.convolution import conv_norm
from zoo.models.head import Head
from zoo.models.inception_blocks import (
    auxiliary_classifier,
    check_auxiliary_size,
    concatenate,
    pool,
    tower,
)
from zoo.models.normalization import Normalizer


class _Module(NamedTuple):
    """A row of the paper's table: numbers of filters; without a 1x1 branch the maps are halved."""

    conv1x1: int
    reduce3x3: int
    conv3x3: int
    reduce_double3x3: int
    double3x3: int
    pooling: Literal["avg", "max"]
    projection: int


_MODULES = {
    "3a": _Module(64, 64, 64, 64, 96, "avg", 32),
    "3b": _Module(64, 64, 96, 64, 96, "avg", 64),
    "3c": _Module(0, 128, 160, 64, 96, "max", 0),
    "4a": _Module(224, 64, 96, 96, 128, "avg", 128),
    "4b": _Module(192, 96, 128, 96, 128, "avg", 128),
    "4c": _Module(160, 128, 160, 128, 160, "avg", 96),
    "4d": _Module(96, 128, 192, 160, 192, "avg", 96),
    "4e": _Module(0, 128, 192, 192, 256, "max", 0),
    "5a": _Module(352, 192, 320, 160, 224, "avg", 128),
    "5b": _Module(352, 192, 320, 192, 224, "max", 128),
}

#: The last module before the maps are halved to 7x7.
_AUXILIARY_AFTER = "4d"

#: Images of this size have 5x5 maps there, and not 14x14.
_LEAST_WITH_AUXILIARY_HEAD = 65

#: Channels that the separable convolution makes of each colour.
_DEPTH_MULTIPLIER = 8


def inception_bn(
    *,
    input_shape: tuple[int | None, ...],
    norm: Normalizer,
    head: Head,
    name: str,
    auxiliary_head: bool = True,
    activation: str = "relu",
) -> keras.Model:
    """Builds the network of the Batch Normalization paper.

    Args:
        input_shape: Shape of an image, `(H, W, C)` or `(C, H, W)`.
        norm: Makes the normalization layers.
        head: Makes the end of the model.
        name: Name of the model.
        auxiliary_head: Whether there is a second classifier, after 4d, for the training. Only in
            models with a top.
        activation: "relu", or "sigmoid" for the paper's BN-x5-Sigmoid.

    Returns:
        A model of images, with the output of `head`; with the auxiliary head the list of that and
        the second classifier's.

    Raises:
        ValueError: If images are too small for the auxiliary head, or the activation is another.
    """
    choice("activation", activation, ("relu", "sigmoid"))
    choice("auxiliary_head", auxiliary_head, (True, False))
    auxiliary_head = auxiliary_head and head.include_top
    if auxiliary_head:
        check_auxiliary_size(input_shape, norm=norm, least=_LEAST_WITH_AUXILIARY_HEAD)
    images = keras.Input(input_shape, name="images")
    x = _stem(images, norm, activation)
    for module in _MODULES:
        x = _module(x, module, norm, activation)
        if module == _AUXILIARY_AFTER:
            middle = x
    outputs = head(x)
    if auxiliary_head:
        auxiliary = auxiliary_classifier(middle, norm=norm, head=head, activation=activation)
        outputs = [outputs, auxiliary]
    return keras.Model(images, outputs, name=name)


def _stem(x: Tensor, norm: Normalizer, activation: str) -> Tensor:
    # Nothing is between the two parts of the separable convolution, so the first keeps the
    # variance with 1 / fan_in, where a ReLU would need 2 / fan_in; its fan-in is 7 * 7.
    x = keras.layers.DepthwiseConv2D(
        7,
        2,
        padding="same",
        depth_multiplier=_DEPTH_MULTIPLIER,
        data_format=norm.data_format,
        use_bias=False,
        depthwise_initializer=keras.initializers.RandomNormal(stddev=1 / 7),
        name="conv1_depthwise",
    )(x)
    x = conv_norm(x, 64, 1, norm=norm, name="conv1", activation=activation)
    x = pool(x, "max", 3, 2, norm=norm, name="conv1_pool")
    x = tower(x, (64, 1), (192, 3), norm=norm, name="conv2", activation=activation)
    return pool(x, "max", 3, 2, norm=norm, name="conv2_pool")


def _module(x: Tensor, module: str, norm: Normalizer, activation: str) -> Tensor:
    row, name = _MODULES[module], f"inception_{module}"
    strides = 1 if row.conv1x1 else 2
    build = functools.partial(tower, norm=norm, activation=activation)
    once = (row.reduce3x3, 1), (row.conv3x3, 3)
    twice = (row.reduce_double3x3, 1), (row.double3x3, 3), (row.double3x3, 3)
    pooled = pool(x, row.pooling, 3, strides, norm=norm, name=f"{name}_pool")
    branches = [
        build(x, *once, name=f"{name}_3x3", strides=strides),
        build(x, *twice, name=f"{name}_double3x3", strides=strides),
        build(pooled, (row.projection, 1), name=f"{name}_pool") if row.projection else pooled,
    ]
    if row.conv1x1:
        branches.insert(0, build(x, (row.conv1x1, 1), name=f"{name}_1x1"))
    return concatenate(branches, norm=norm, name=name)
