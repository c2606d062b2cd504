"""An Inception network for small images: `small_inception_W`, W filters in the first convolution.

```
conv1       3x3, W                                         32x32     96 channels
1a-1b       1x1 | 3x3                                      32x32     64, 80
1c          3x3 / 2 | maximum / 2                          16x16    160
2a-2d       1x1 | 3x3                                      16x16    160, 160, 160, 144
2e          3x3 / 2 | maximum / 2                           8x8     240
3a-3b       1x1 | 3x3                                       8x8     336
            global average, fully connected
```

The channels are those of W = 96, the network of the paper, with 1,649,402 numbers to train. Any
other W that 6 divides scales all of them. A normalization follows every convolution and comes
before the ReLU.

The paper trains on the middle 28x28 pixels of an image, so its maps have 28, 14 and 7.

The paper counts the same numbers with and without Batch Norm, because its norms have no gamma and
take the place of the biases. The norms here have a gamma, which is 1,712 numbers more.

Source: Zhang et al. 2017, Understanding Deep Learning Requires Rethinking Generalization, figure 3
and table 1.
"""

from fractions import Fraction
from typing import NamedTuple

import keras

from keras_renorm.typing import Tensor
from zoo.models.convolution import conv_norm
from zoo.models.head import Head
from zoo.models.inception_blocks import concatenate, pool
from zoo.models.normalization import Normalizer


class _Module(NamedTuple):
    """Numbers of filters at W = 96; without a 1x1 branch the maps are halved."""

    conv1x1: int
    conv3x3: int


_MODULES = {
    "1a": _Module(32, 32),
    "1b": _Module(32, 48),
    "1c": _Module(0, 80),
    "2a": _Module(112, 48),
    "2b": _Module(96, 64),
    "2c": _Module(80, 80),
    "2d": _Module(48, 96),
    "2e": _Module(0, 96),
    "3a": _Module(176, 160),
    "3b": _Module(176, 160),
}

_PAPERS_WIDTH = 96

#: The filters of all modules are multiples of 16, and 16 / 96 is 1 / 6.
_WIDTH_STEP = 6

# 64 times the paper's. Beyond this a model would build until memory ends.
_GREATEST_WIDTH = 6144


def small_inception(
    *,
    width: int,
    input_shape: tuple[int | None, ...],
    norm: Normalizer,
    head: Head,
    name: str,
) -> keras.Model:
    """Builds an Inception network for small images.

    Args:
        width: Number of filters of the first convolution, a multiple of 6; 96 in the paper.
        input_shape: Shape of an image, `(H, W, C)` or `(C, H, W)`.
        norm: Makes the normalization layers.
        head: Makes the end of the model.
        name: Name of the model.

    Returns:
        A model of images, with the output of `head`.

    Raises:
        ValueError: If the width is no multiple of 6, or too great to build.
    """
    scale = _scale(width)
    images = keras.Input(input_shape, name="images")
    x = conv_norm(images, width, 3, norm=norm, name="conv1")
    for module, row in _MODULES.items():
        filters = _Module(*(int(scale * number) for number in row))
        x = _module(x, filters, norm, f"inception_{module}")
    return keras.Model(images, head(x), name=name)


def _scale(width: int) -> Fraction:
    if width % _WIDTH_STEP or not 0 < width <= _GREATEST_WIDTH:
        nearest = min(max(round(width / _WIDTH_STEP), 1) * _WIDTH_STEP, _GREATEST_WIDTH)
        raise ValueError(
            f"The width W of small_inception_W must be a multiple of {_WIDTH_STEP} up to "
            f"{_GREATEST_WIDTH}, received {width}. The nearest is small_inception_{nearest}."
        )
    return Fraction(width, _PAPERS_WIDTH)


def _module(x: Tensor, filters: _Module, norm: Normalizer, name: str) -> Tensor:
    strides = 1 if filters.conv1x1 else 2
    if filters.conv1x1:
        other = conv_norm(x, filters.conv1x1, 1, norm=norm, name=f"{name}_1x1")
    else:
        other = pool(x, "max", 3, strides, norm=norm, name=f"{name}_pool")
    wide = conv_norm(x, filters.conv3x3, 3, strides, norm=norm, name=f"{name}_3x3")
    return concatenate([other, wide], norm=norm, name=name)
