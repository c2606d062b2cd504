"""Multilayer perceptrons: `mlp` as it is asked for, `mlp_sigmoid` as in Batch Norm's paper.

Source: Ioffe & Szegedy 2015, section 4.1.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras

from zoo.models.arguments import positive_integers
from zoo.models.head import Head
from zoo.models.normalization import Normalizer


def mlp(
    *,
    input_shape: tuple[int, ...],
    norm: Normalizer,
    head: Head,
    name: str,
    hidden_units: Sequence[int] = (100, 100, 100),
    activation: str = "relu",
) -> keras.Model:
    """Builds fully connected layers with a normalization before each nonlinearity.

    Args:
        input_shape: Shape of an input without its batch dimension; it is flattened.
        norm: Makes the normalization layers.
        head: Makes the end of the model.
        name: Name of the model.
        hidden_units: Units of each hidden layer.
        activation: The nonlinearity of the hidden layers.

    Returns:
        A model of inputs `[B, *input_shape]`, with the output of `head`.

    Raises:
        TypeError: If `hidden_units` is not a sequence of integers.
        ValueError: If one of them is not positive.
    """
    hidden_units = positive_integers("hidden_units", hidden_units, example="(100, 100, 100)")
    return _build(
        input_shape, norm, head, name, hidden_units, activation, keras.initializers.GlorotUniform
    )


def mlp_sigmoid(
    *, input_shape: tuple[int, ...], norm: Normalizer, head: Head, name: str
) -> keras.Model:
    """Builds the net of the paper's experiment on MNIST: three layers of 100 sigmoid units.

    The paper's weights are "small random Gaussian values" at first, of a deviation that it does not
    give. Here it is 0.1: with images of [0, 1] the inputs of the sigmoids then have a deviation of
    about 1 in the first layer, and without a normalization the net does learn.

    Args:
        input_shape: Shape of an input without its batch dimension; it is flattened.
        norm: Makes the normalization layers.
        head: Makes the end of the model.
        name: Name of the model.

    Returns:
        A model of inputs `[B, *input_shape]`, with the output of `head`.

    Source: Ioffe & Szegedy 2015, section 4.1.
    """
    gaussian = functools.partial(keras.initializers.RandomNormal, stddev=0.1)
    return _build(input_shape, norm, head, name, (100, 100, 100), "sigmoid", gaussian)


def _build(
    input_shape: tuple[int, ...],
    norm: Normalizer,
    head: Head,
    name: str,
    hidden_units: Sequence[int],
    activation: str,
    make_initializer: Callable[[], Any],
) -> keras.Model:
    images = keras.Input(input_shape, name="images")
    x = keras.layers.Flatten(data_format=norm.data_format, name="flatten")(images)
    for layer, units in enumerate(hidden_units, start=1):
        dense = keras.layers.Dense(
            units,
            use_bias=norm.use_bias,
            # One for each layer: one for all would draw the same numbers for equal shapes.
            kernel_initializer=make_initializer(),
            name=f"hidden{layer}_dense",
        )
        x = norm(dense(x), f"hidden{layer}", activation)
    return keras.Model(images, head(x), name=name)
