"""The masks that Keras attaches to tensors."""

import keras

from keras_renorm.typing import Tensor


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
