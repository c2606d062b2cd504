"""The multilayer perceptron of the Batch Normalization paper, with ReLU unless told otherwise."""

from collections.abc import Sequence
from typing import Any

import keras

from zoo.models.arguments import positive_integers
from zoo.models.classifier import classifier
from zoo.models.normalization import Normalizer


def mlp(
    *,
    input_shape: tuple[int, ...],
    num_classes: int,
    norm: Normalizer,
    classifier_activation: Any,
    name: str,
    hidden_units: Sequence[int] = (100, 100, 100),
    activation: Any = "relu",
) -> keras.Model:
    """Builds fully connected layers with a normalization before each nonlinearity.

    Args:
        input_shape: Shape of an input without its batch dimension; it is flattened.
        num_classes: Number of classes K.
        norm: Makes the normalization layers.
        classifier_activation: Activation of the output; None for logits.
        name: Name of the model.
        hidden_units: Units of each hidden layer.
        activation: The nonlinearity of the hidden layers.

    Returns:
        A model from `[B, *input_shape]` to `[B, K]`.

    Raises:
        TypeError: If `hidden_units` is not a sequence of integers.
        ValueError: If one of them is not positive.

    Source: Ioffe & Szegedy 2015, section 4.1 (three hidden layers of 100 sigmoid units).
    """
    hidden_units = positive_integers("hidden_units", hidden_units, example="(100, 100, 100)")
    images = keras.Input(input_shape, name="images")
    x = keras.layers.Flatten(data_format="channels_last", name="flatten")(images)
    for layer, units in enumerate(hidden_units, start=1):
        x = keras.layers.Dense(units, use_bias=norm.use_bias, name=f"hidden{layer}_dense")(x)
        x = norm(x, f"hidden{layer}_norm")
        x = keras.layers.Activation(activation, name=f"hidden{layer}_activation")(x)
    return keras.Model(images, classifier(x, num_classes, classifier_activation), name=name)
