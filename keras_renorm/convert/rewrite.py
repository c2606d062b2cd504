"""The rule of a conversion: what happens to each layer of a model."""

from keras_renorm.convert.counterparts import hand_over_norm
from keras_renorm.typing import Layer


class Rewrite:
    """What happens to each layer of a model. This base class changes nothing.

    A method may get the same layer more than once. It may also get a copy without weights, made
    from a configuration.
    """

    def replace(self, layer: Layer) -> Layer | None:
        """A new layer without weights in the place of `layer`; None keeps `layer`."""
        return None

    def follow(self, layer: Layer) -> Layer | None:
        """The layer that follows a replaced or removed layer, or None.

        It is a new layer without weights, or the activation of `layer`, which is then copied. If
        its name is taken, it gets a number.
        """
        return None

    def removes(self, layer: Layer) -> bool:
        """Whether to leave `layer` out. Its input then goes to what follows."""
        return False

    def transfer(self, old: Layer, new: Layer) -> None:
        """Gives a layer from `replace` its weights.

        Norms get them by name, because Keras's layers with `renorm=True` have more.
        """
        hand_over_norm(old, new)

    def trainable(self, layer: Layer) -> bool:
        """The `trainable` of what replaces `layer`."""
        return layer.trainable
