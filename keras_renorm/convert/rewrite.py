"""What a conversion does with the layers of a model."""

from typing import TypeAlias

import keras

Layer: TypeAlias = keras.layers.Layer


class Rewrite:
    """What a conversion does with the layers of a model. As it stands: nothing.

    A layer may be asked about more than once, and also be a copy without weights, from a
    configuration.
    """

    def replace(self, layer: Layer) -> Layer | None:
        """A new layer, without weights, for the place of `layer`; None to keep that."""
        return None

    def follow(self, layer: Layer) -> Layer | None:
        """What is put after a layer that is replaced or left out; None for nothing.

        It is a new layer, without weights; or the layer that is the activation of `layer`, of which
        a copy is put there. Where its name is taken, it gets a number.
        """
        return None

    def removes(self, layer: Layer) -> bool:
        """Whether `layer` is left out; what came in goes out, or into what follows."""
        return False

    def transfer(self, old: Layer, new: Layer) -> None:
        """Gives a layer from `replace` the weights that it is to have."""
        raise NotImplementedError

    def trainable(self, layer: Layer) -> bool:
        """The `trainable` of what replaces `layer`."""
        return layer.trainable
