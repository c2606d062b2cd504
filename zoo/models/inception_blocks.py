"""Parts of the Inception networks: towers of convolutions, poolings, a second classifier."""

import functools
from typing import Literal

import keras

from keras_renorm.typing import Tensor
from zoo.models.convolution import Size, conv_norm
from zoo.models.head import Head
from zoo.models.normalization import Normalizer


def tower(
    x: Tensor,
    *convolutions: tuple[int, Size],
    norm: Normalizer,
    name: str,
    strides: int = 1,
    padding: str = "same",
    activation: str = "relu",
) -> Tensor:
    """Convolutions one after the other, each with its normalization and nonlinearity.

    Args:
        x: Feature maps in the layout `norm.data_format`.
        *convolutions: Number of filters and size of each.
        norm: Makes the normalizations.
        name: What the names of the layers begin with; `_1`, `_2`, ... follows if there are several.
        strides: Step of the last convolution, in both directions.
        padding: "same" or "valid", of the last convolution; the others have "same".
        activation: The nonlinearity.

    Returns:
        Feature maps of the last convolution.

    Example:
        >>> x = tower(x, (64, 1), (96, 3), (96, 3), norm=norm, name="mixed0_3x3dbl")
    """
    last = len(convolutions)
    for i, (filters, size) in enumerate(convolutions, start=1):
        x = conv_norm(
            x,
            filters,
            size,
            strides if i == last else 1,
            norm=norm,
            name=f"{name}_{i}" if last > 1 else name,
            padding=padding if i == last else "same",
            activation=activation,
        )
    return x


def pool(
    x: Tensor,
    kind: Literal["avg", "max"],
    size: int = 3,
    strides: int = 1,
    *,
    norm: Normalizer,
    name: str,
    padding: str = "same",
) -> Tensor:
    """The average or the maximum over a window; positions beyond the border do not count.

    Args:
        x: Feature maps in the layout `norm.data_format`.
        kind: "avg" or "max".
        size: Height and width of the window.
        strides: Step between the positions, in both directions.
        norm: The model's normalizer, which knows the layout.
        name: Name of the layer.
        padding: "same" or "valid".

    Returns:
        Feature maps with as many channels.
    """
    layers = {"avg": keras.layers.AveragePooling2D, "max": keras.layers.MaxPooling2D}
    layer = layers[kind](size, strides, padding, data_format=norm.data_format, name=name)
    return layer(x)


def concatenate(branches: list[Tensor], *, norm: Normalizer, name: str) -> Tensor:
    """The channels of all branches, one after the other.

    Args:
        branches: Feature maps of one height and width.
        norm: The model's normalizer, which knows the layout.
        name: Name of the layer.

    Returns:
        Feature maps with the channels of all.
    """
    return keras.layers.Concatenate(axis=norm.axis, name=name)(branches)


def check_auxiliary_size(
    input_shape: tuple[int | None, ...], *, norm: Normalizer, least: int
) -> None:
    """Refuses images on which an auxiliary classifier cannot work.

    Args:
        input_shape: Shape of an image, in the layout `norm.data_format`.
        norm: The model's normalizer, which knows the layout.
        least: Least height and width whose feature maps are 5x5 where the classifier begins.

    Raises:
        ValueError: If the height or the width is smaller or unknown.
    """
    sizes = input_shape[1:] if norm.data_format == "channels_first" else input_shape[:2]
    if any(size is None or size < least for size in sizes):
        raise ValueError(
            f"The auxiliary head needs images of a known height and width of {least} pixels or "
            f"more, received input_shape={input_shape}. Write auxiliary_head=False for others. "
            "(--config.auxiliary_weight=0 of zoo.train does.)"
        )


def auxiliary_classifier(
    x: Tensor, *, norm: Normalizer, head: Head, activation: str = "relu"
) -> Tensor:
    """A second classifier on feature maps from the middle of the network, used in training only.

    Averages over windows of 5x5 with step 3, a 1x1 convolution to 128 channels, a convolution to
    768 whose window is the whole map, and one number per class. Its loss is added to the model's
    with a weight of 0.3 or 0.4.

    Args:
        x: Feature maps of a known size, at least 5x5.
        norm: Makes the normalizations.
        head: The model's head, which knows the classes.
        activation: The nonlinearity.

    Returns:
        Tensor `[B, K]`.

    Source: Szegedy et al. 2015b, Rethinking the Inception Architecture, Figure 8 and section 4. The
        authors' published code has a convolution over the whole map where the figure has a fully
        connected layer; this follows the code. On 17x17 maps, those of Inception-v3, it is 5x5.
    """
    convolve = functools.partial(conv_norm, norm=norm, activation=activation)
    x = pool(x, "avg", 5, 3, norm=norm, name="auxiliary_pool", padding="valid")
    x = convolve(x, 128, 1, name="auxiliary_1")
    height, width = x.shape[2:] if norm.data_format == "channels_first" else x.shape[1:3]
    x = convolve(x, 768, (height, width), name="auxiliary_2", padding="valid")
    x = keras.layers.Flatten(data_format=norm.data_format, name="auxiliary_flatten")(x)
    return head.classify(x, prefix="auxiliary_")
