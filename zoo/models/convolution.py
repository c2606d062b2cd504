"""Convolutions and poolings that the families of this package share."""

import keras

from keras_renorm.typing import Tensor
from zoo.models.normalization import Normalizer

Size = int | tuple[int, int]


def convolution(
    x: Tensor,
    filters: int,
    kernel_size: Size,
    strides: int = 1,
    *,
    norm: Normalizer,
    name: str,
    padding: str = "same",
    use_bias: bool = True,
) -> Tensor:
    """A convolution in the model's layout, initialized after He et al. 2015.

    With "centered" padding a filter of odd size k has (k-1)/2 zeros on each side, as in the papers
    on residual nets. At stride s it stands on pixels 0, s, 2s, ..., where a shortcut takes its
    pixels, too. "same" does so at stride 1 only; at stride 2 it pads images of even size by less at
    top and left. Where the two differ, the zeros are a layer of their own, `..._pad` for a
    convolution `..._conv`.

    Args:
        x: Feature maps in the layout `norm.data_format`.
        filters: Number of filters.
        kernel_size: Height and width of a filter.
        strides: Step between the positions, in both directions.
        norm: The model's normalizer, which knows the layout.
        name: Name of the layer.
        padding: "same", "valid" or "centered".
        use_bias: Whether there is a bias.

    Returns:
        Feature maps with `filters` channels.
    """
    if padding == "centered":
        padding = "same" if strides == 1 else "valid"
        if strides > 1 and kernel_size != 1:
            x = pad(x, kernel_size, norm=norm, name=f"{name.removesuffix('_conv')}_pad")
    return keras.layers.Conv2D(
        filters,
        kernel_size,
        strides=strides,
        padding=padding,
        data_format=norm.data_format,
        use_bias=use_bias,
        kernel_initializer="he_normal",
        name=name,
    )(x)


def conv_norm(
    x: Tensor,
    filters: int,
    kernel_size: Size,
    strides: int = 1,
    *,
    norm: Normalizer,
    name: str,
    padding: str = "same",
    activation: str | None = "relu",
) -> Tensor:
    """A convolution, its normalization and the nonlinearity.

    The layers are `{name}_conv`, `{name}_norm` and, where the normalization does not compute it
    itself, `{name}_activation`. The convolution has a bias only if no normalization follows.

    Args:
        x: Feature maps in the layout `norm.data_format`.
        filters: Number of filters.
        kernel_size: Height and width of a filter.
        strides: Step between the positions, in both directions.
        norm: Makes the normalization.
        name: What the names of the layers begin with.
        padding: "same", "valid" or "centered", see `convolution`.
        activation: The nonlinearity; None for none.

    Returns:
        Feature maps with `filters` channels.
    """
    x = convolution(
        x,
        filters,
        kernel_size,
        strides,
        norm=norm,
        name=f"{name}_conv",
        padding=padding,
        use_bias=norm.use_bias,
    )
    return norm(x, name, activation)


def max_pool(x: Tensor, size: int, strides: int, *, norm: Normalizer, name: str) -> Tensor:
    """The maximum over windows that are centered like a `convolution`'s.

    Zeros stand around the image, as in `keras.applications`; after a ReLU they change nothing. The
    layers are `{name}_pad` and `{name}_pool`.

    Args:
        x: Feature maps in the layout `norm.data_format`.
        size: Height and width of a window.
        strides: Step between the windows, in both directions.
        norm: The model's normalizer, which knows the layout.
        name: What the names of the layers begin with.

    Returns:
        Feature maps with as many channels.
    """
    x = pad(x, size, norm=norm, name=f"{name}_pad")
    layer = keras.layers.MaxPooling2D(
        size, strides, data_format=norm.data_format, name=f"{name}_pool"
    )
    return layer(x)


def pad(x: Tensor, size: Size, *, norm: Normalizer, name: str) -> Tensor:
    """Zeros around the image, so that the first window is centered on its first pixel.

    Args:
        x: Feature maps in the layout `norm.data_format`.
        size: Height and width of a window, odd.
        norm: The model's normalizer, which knows the layout.
        name: Name of the layer.

    Returns:
        Feature maps with as many channels.
    """
    height, width = (size, size) if isinstance(size, int) else size
    return keras.layers.ZeroPadding2D(
        (height // 2, width // 2), data_format=norm.data_format, name=name
    )(x)
