"""Inception-v3.

```
stem         3x3 /2, 3x3, 3x3, pool /2, 1x1, 3x3, pool /2    35x35
mixed0-2     1x1 | 5x5 | two 3x3 | pool                      35x35    256, 288, 288 channels
mixed3       3x3 | two 3x3 | pool, all / 2                   17x17    768
mixed4-7     1x1 | 7x7 | two 7x7 | pool                      17x17    768
mixed8       3x3 | 7x7 and 3x3 | pool, all / 2                8x8    1280
mixed9-10    1x1 | 3x3 | two 3x3 | pool                       8x8    2048
             global average, fully connected
```

Branches lie side by side and their channels are put together. A 7x7 is a 1x7 and a 7x1, and the
last 3x3 of mixed9 and mixed10 is a 1x3 beside a 3x1. A 1x1 convolution begins each branch, except
the first of mixed3, and ends that of the pooling. A normalization follows every convolution and
comes before the ReLU.

The network is that of `keras.applications.InceptionV3`, whose weights have no gamma: it is fixed
to 1, as in the experiments of the Batch Renormalization paper. `norm_options={"scale": False}` does
the same here.

Source: Szegedy et al. 2015b, Rethinking the Inception Architecture for Computer Vision, section 6,
as corrected by the authors' code; Ioffe 2017, Batch Renormalization, section 4.
"""

import functools

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

_STEM = ("1", "2", "3", "4", "5")
_35X35 = ("1x1", "5x5_1", "5x5_2", "3x3dbl_1", "3x3dbl_2", "3x3dbl_3", "pool")
_TO_17X17 = ("3x3", "3x3dbl_1", "3x3dbl_2", "3x3dbl_3")
_17X17 = (
    *("1x1", "7x7_1", "7x7_2", "7x7_3"),
    *("7x7dbl_1", "7x7dbl_2", "7x7dbl_3", "7x7dbl_4", "7x7dbl_5", "pool"),
)
_TO_8X8 = ("3x3_1", "3x3_2", "7x7x3_1", "7x7x3_2", "7x7x3_3", "7x7x3_4")
_8X8 = (
    *("1x1", "3x3_1", "3x3_1x3", "3x3_3x1"),
    *("3x3dbl_1", "3x3dbl_2", "3x3dbl_1x3", "3x3dbl_3x1", "pool"),
)

#: What the names of the convolutions begin with, in the order in which they are made. It is the
#: order of `keras.applications.InceptionV3`, too: there the first is "conv2d" and its normalization
#: "batch_normalization", the k-th thereafter "conv2d_k"; here they are f"{name}_conv" and
#: f"{name}_norm". The auxiliary head is not among them.
CONVOLUTIONS: tuple[str, ...] = tuple(
    f"{block}_{convolution}"
    for block, convolutions in (
        ("stem", _STEM),
        *((f"mixed{i}", _35X35) for i in (0, 1, 2)),
        ("mixed3", _TO_17X17),
        *((f"mixed{i}", _17X17) for i in (4, 5, 6, 7)),
        ("mixed8", _TO_8X8),
        *((f"mixed{i}", _8X8) for i in (9, 10)),
    )
    for convolution in convolutions
)

#: Images of this size have 5x5 maps where the auxiliary head begins, and not 17x17.
_LEAST_WITH_AUXILIARY_HEAD = 107


def inception_v3(
    *,
    input_shape: tuple[int | None, ...],
    norm: Normalizer,
    head: Head,
    name: str,
    auxiliary_head: bool = False,
) -> keras.Model:
    """Builds Inception-v3.

    Args:
        input_shape: Shape of an image, `(H, W, C)` or `(C, H, W)`, of at least 75x75 pixels.
        norm: Makes the normalization layers.
        head: Makes the end of the model.
        name: Name of the model.
        auxiliary_head: Whether there is a second classifier, after mixed7, for the training. Only
            in models with a top.

    Returns:
        A model of images, with the output of `head`; with the auxiliary head the list of that and
        the second classifier's.

    Raises:
        ValueError: If `auxiliary_head` is no bool, or images are too small for it.
    """
    choice("auxiliary_head", auxiliary_head, (True, False))
    auxiliary_head = auxiliary_head and head.include_top
    if auxiliary_head:
        check_auxiliary_size(input_shape, norm=norm, least=_LEAST_WITH_AUXILIARY_HEAD)
    images = keras.Input(input_shape, name="images")
    x = _stem(images, norm)
    for block, pool_filters in enumerate((32, 64, 64)):
        x = _block_35x35(x, pool_filters, norm, f"mixed{block}")
    x = _reduce_to_17x17(x, norm, "mixed3")
    for block, filters in enumerate((128, 160, 160, 192), start=4):
        x = _block_17x17(x, filters, norm, f"mixed{block}")
    middle = x
    x = _reduce_to_8x8(x, norm, "mixed8")
    for block in (9, 10):
        x = _block_8x8(x, norm, f"mixed{block}")
    outputs = head(x)
    if auxiliary_head:
        auxiliary = auxiliary_classifier(middle, norm=norm, head=head)
        outputs = [outputs, auxiliary]
    return keras.Model(images, outputs, name=name)


def _stem(x: Tensor, norm: Normalizer) -> Tensor:
    valid = functools.partial(conv_norm, norm=norm, padding="valid")
    x = valid(x, 32, 3, 2, name="stem_1")
    x = valid(x, 32, 3, name="stem_2")
    x = conv_norm(x, 64, 3, norm=norm, name="stem_3")
    x = pool(x, "max", 3, 2, norm=norm, name="stem_pool1", padding="valid")
    x = valid(x, 80, 1, name="stem_4")
    x = valid(x, 192, 3, name="stem_5")
    return pool(x, "max", 3, 2, norm=norm, name="stem_pool2", padding="valid")


def _block_35x35(x: Tensor, pool_filters: int, norm: Normalizer, name: str) -> Tensor:
    """Figure 5 of the paper, with one 5x5 left."""
    pooled = pool(x, "avg", norm=norm, name=f"{name}_pool")
    branches = [
        tower(x, (64, 1), norm=norm, name=f"{name}_1x1"),
        tower(x, (48, 1), (64, 5), norm=norm, name=f"{name}_5x5"),
        tower(x, (64, 1), (96, 3), (96, 3), norm=norm, name=f"{name}_3x3dbl"),
        tower(pooled, (pool_filters, 1), norm=norm, name=f"{name}_pool"),
    ]
    return concatenate(branches, norm=norm, name=name)


def _reduce_to_17x17(x: Tensor, norm: Normalizer, name: str) -> Tensor:
    """Figure 10 of the paper."""
    halved = functools.partial(tower, norm=norm, strides=2, padding="valid")
    branches = [
        halved(x, (384, 3), name=f"{name}_3x3"),
        halved(x, (64, 1), (96, 3), (96, 3), name=f"{name}_3x3dbl"),
        pool(x, "max", 3, 2, norm=norm, name=f"{name}_pool", padding="valid"),
    ]
    return concatenate(branches, norm=norm, name=name)


def _block_17x17(x: Tensor, filters: int, norm: Normalizer, name: str) -> Tensor:
    """Figure 6 of the paper, with n = 7."""
    row, column = (1, 7), (7, 1)
    once = (filters, 1), (filters, row), (192, column)
    twice = (filters, 1), (filters, column), (filters, row), (filters, column), (192, row)
    pooled = pool(x, "avg", norm=norm, name=f"{name}_pool")
    branches = [
        tower(x, (192, 1), norm=norm, name=f"{name}_1x1"),
        tower(x, *once, norm=norm, name=f"{name}_7x7"),
        tower(x, *twice, norm=norm, name=f"{name}_7x7dbl"),
        tower(pooled, (192, 1), norm=norm, name=f"{name}_pool"),
    ]
    return concatenate(branches, norm=norm, name=name)


def _reduce_to_8x8(x: Tensor, norm: Normalizer, name: str) -> Tensor:
    row, column = (1, 7), (7, 1)
    halved = functools.partial(tower, norm=norm, strides=2, padding="valid")
    branches = [
        halved(x, (192, 1), (320, 3), name=f"{name}_3x3"),
        halved(x, (192, 1), (192, row), (192, column), (192, 3), name=f"{name}_7x7x3"),
        pool(x, "max", 3, 2, norm=norm, name=f"{name}_pool", padding="valid"),
    ]
    return concatenate(branches, norm=norm, name=name)


def _block_8x8(x: Tensor, norm: Normalizer, name: str) -> Tensor:
    """Figure 7 of the paper."""
    pooled = pool(x, "avg", norm=norm, name=f"{name}_pool")
    branches = [
        tower(x, (320, 1), norm=norm, name=f"{name}_1x1"),
        _fork(x, [(384, 1)], norm, f"{name}_3x3"),
        _fork(x, [(448, 1), (384, 3)], norm, f"{name}_3x3dbl"),
        tower(pooled, (192, 1), norm=norm, name=f"{name}_pool"),
    ]
    return concatenate(branches, norm=norm, name=name)


def _fork(x: Tensor, convolutions: list[tuple[int, int]], norm: Normalizer, name: str) -> Tensor:
    """A tower that ends with a 1x3 beside a 3x1."""
    for i, (filters, size) in enumerate(convolutions, start=1):
        x = conv_norm(x, filters, size, norm=norm, name=f"{name}_{i}")
    ends = [
        conv_norm(x, 384, (1, 3), norm=norm, name=f"{name}_1x3"),
        conv_norm(x, 384, (3, 1), norm=norm, name=f"{name}_3x1"),
    ]
    return concatenate(ends, norm=norm, name=name)
