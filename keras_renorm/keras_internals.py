"""What the package uses of Keras beyond Keras's public names: one function for each such name.

Each was looked up in Keras 3.6, 3.8, 3.10, 3.12, 3.14 and 3.15: "all" means all of these. Nothing
else in the package touches a private name of Keras, nor asks for what Keras does on one backend
only.
"""

from typing import TypeAlias

import keras

from keras_renorm.typing import Tensor

Layer: TypeAlias = keras.layers.Layer


def own_weight_count(layer: Layer) -> int:
    """How many weights a layer has itself, without those of layers in it.

    `Layer._trainable_variables` and `Layer._non_trainable_variables`, in all.
    """
    return len(layer._trainable_variables) + len(layer._non_trainable_variables)


def attached_mask(x: Tensor) -> Tensor | None:
    """The mask that Keras attached to a tensor, or None.

    Keras hands it over itself only to a layer with a single tensor argument. It is an attribute of
    the tensor, but under JAX, where traced tensors take none, Keras keeps it elsewhere.
    """
    if keras.backend.backend() != "jax":
        return getattr(x, "_keras_mask", None)
    reader = _Reader()
    reader(x)
    return reader.found[0]


class _Reader(keras.layers.Layer):
    """A layer of one tensor, to which Keras hands that tensor's mask."""

    def __init__(self) -> None:
        super().__init__(autocast=False)
        self.supports_masking = True
        self.built = True
        self.found: tuple[Tensor | None, ...] = ()

    def call(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        self.found = (mask,)
        return inputs
