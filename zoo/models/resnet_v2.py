"""The pre-activation ResNets for ImageNet: 50, 101 and 152 weighted layers.

```
conv1       7x7, 64, / 2; then maximum over 3x3, / 2    112x112, then 56x56
conv2       bottlenecks of  64 filters, last / 2        28x28
conv3       bottlenecks of 128 filters, last / 2        14x14
conv4       bottlenecks of 256 filters, last / 2         7x7
conv5       bottlenecks of 512 filters                   7x7
            normalization, ReLU, global average, fully connected
```

A bottleneck normalizes first and convolves then: 1x1, 3x3, 1x1 with four times the filters. Nothing
stands on the path from one sum to the next, except at the beginning of a stage, where a 1x1
convolution of the normalized input widens it, and at the end of one, which takes every other pixel.

These are the nets of `keras.applications`, whose weights give the same output here, with
`norm_options={"epsilon": 1.001e-5}`: the stride comes at the end of a stage, and the convolutions
that no normalization follows, `conv1_conv`, `..._0_conv` and `..._3_conv`, have a bias.

Source: He et al. 2016, Identity Mappings in Deep Residual Networks, figure 4e and appendix.
"""

import keras

from keras_renorm.typing import Tensor
from zoo.models.convolution import conv_norm, convolution, max_pool
from zoo.models.head import Head
from zoo.models.normalization import Normalizer
from zoo.models.residual import Block, end_branch, residual_blocks
from zoo.models.resnet import BLOCKS


def resnet_v2(
    *,
    depth: int,
    input_shape: tuple[int | None, ...],
    norm: Normalizer,
    head: Head,
    name: str,
    stochastic_depth_rate: float = 0.0,
) -> keras.Model:
    """Builds a pre-activation ResNet of `depth` weighted layers.

    Args:
        depth: Number of weighted layers, 50, 101 or 152.
        input_shape: Shape of an image, `(H, W, C)` or `(C, H, W)`.
        norm: Makes the normalization layers.
        head: Makes the end of the model.
        name: Name of the model.
        stochastic_depth_rate: Share of the examples that skip the last branch in training; see
            `residual_blocks`.

    Returns:
        A model of images, with the output of `head`.
    """
    counts = BLOCKS[depth]
    images = keras.Input(input_shape, name="images")
    x = convolution(images, 64, 7, 2, norm=norm, name="conv1_conv", padding="centered")
    x = max_pool(x, 3, 2, norm=norm, name="pool1")
    for block in residual_blocks(counts, stochastic_depth_rate, first_stage=2):
        last = block.number == counts[block.stage - 2]
        strides = 2 if block.stage < 5 and last else 1
        x = _bottleneck(x, strides, block, norm, f"conv{block.stage}_block{block.number}")
    x = norm(x, "post", "relu")
    return keras.Model(images, head(x), name=name)


def _bottleneck(x: Tensor, strides: int, block: Block, norm: Normalizer, name: str) -> Tensor:
    """Three convolutions of the normalized input, added to the input itself."""
    filters = 64 * 2 ** (block.stage - 2)
    active = norm(x, f"{name}_preact", "relu")
    branch = conv_norm(active, filters, 1, norm=norm, name=f"{name}_1")
    branch = conv_norm(branch, filters, 3, strides, norm=norm, name=f"{name}_2", padding="centered")
    branch = convolution(branch, 4 * filters, 1, norm=norm, name=f"{name}_3_conv")
    branch = end_branch(branch, block, norm, name)
    if x.shape[norm.axis] != 4 * filters:
        x = convolution(active, 4 * filters, 1, norm=norm, name=f"{name}_0_conv")
    elif strides > 1:
        # Pooling over one pixel subsamples.
        x = keras.layers.MaxPooling2D(
            1, strides, data_format=norm.data_format, name=f"{name}_subsample"
        )(x)
    return keras.layers.Add(name=f"{name}_out")([x, branch])
