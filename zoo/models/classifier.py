"""The end of every model."""

from typing import Any

import keras

from keras_renorm.typing import Tensor


def classifier(features: Tensor, num_classes: int, activation: Any) -> Tensor:
    """Maps features to one number per class.

    Both layers compute in the type of their variables: under a mixed policy that is float32,
    because a softmax in float16 loses the small probabilities.

    Args:
        features: Tensor `[B, F]`.
        num_classes: Number of classes K.
        activation: Activation of the output, such as "softmax"; None for logits.

    Returns:
        Tensor `[B, K]`.
    """
    dtype = keras.config.dtype_policy().variable_dtype
    logits = keras.layers.Dense(
        num_classes, kernel_initializer="he_normal", dtype=dtype, name="logits"
    )(features)
    if activation is None:
        return logits
    return keras.layers.Activation(activation, dtype=dtype, name="predictions")(logits)
