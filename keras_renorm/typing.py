"""Names for the types that annotations in this package use."""

from typing import Any, TypeAlias

import keras

#: A layer or a model of Keras.
Layer: TypeAlias = keras.layers.Layer

#: A tensor of the Keras backend in use, or anything that `keras.ops.convert_to_tensor` takes.
Tensor: TypeAlias = Any
