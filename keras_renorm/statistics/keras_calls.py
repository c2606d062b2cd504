"""Calls of Keras's batch norms with frozen or with minibatch statistics."""

from collections.abc import Callable
from typing import Any

import keras

from keras_renorm import ops
from keras_renorm.layers.statistics_in_use import uses_batch_at_inference
from keras_renorm.models import watching
from keras_renorm.typing import Tensor


class KerasCall:
    """The call of a Keras batch norm, with the statistics that were chosen.

    The object stands in the layer's dictionary. Keras's tracking of attributes does not see it
    there, and the layer's configuration does not hold it.

    Args:
        layer: The layer.

    Attributes:
        frozen: Whether training, too, uses and keeps the moving statistics.
        own: The function that stood there before, or None.
    """

    def __init__(self, layer: Any) -> None:
        self._layer = layer
        self.frozen = False
        self.own: Callable[..., Tensor] | None = watching.underneath(layer, "call")

    def __call__(
        self, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """The layer's output; see `keras.layers.BatchNormalization`."""
        layer = self._layer
        if uses_batch_at_inference(layer):
            return _by_minibatch(layer, inputs, mask)
        call = self.own or type(layer).call.__get__(layer)
        return call(inputs, training=False if self.frozen else training, mask=mask)


def _by_minibatch(layer: Any, inputs: Tensor, mask: Tensor | None) -> Tensor:
    """Normalises by plain minibatch moments, whatever the layer's `renorm` is."""
    outputs, _ = ops.batch_renormalization(
        inputs,
        layer.moving_mean,
        layer.moving_variance,
        layer.gamma,
        layer.beta,
        epsilon=layer.epsilon,
        axis=layer.axis,
        mask=None if mask is None else keras.ops.expand_dims(mask, -1),
        synchronized=layer.synchronized,
    )
    return outputs


def found(layer: Any) -> KerasCall | None:
    """The `KerasCall` of a layer, if it has one."""
    call = watching.underneath(layer, "call")
    return call if isinstance(call, KerasCall) else None


def set_frozen(layer: Any, frozen: bool) -> None:
    """Sets whether a layer uses and keeps its moving statistics in training."""
    with watching.lock:
        installed(layer).frozen = frozen
        release(layer)


def installed(layer: Any) -> KerasCall:
    """The `KerasCall` of a layer; a layer without one gets one."""
    with watching.lock:
        call = found(layer)
        if call is None:
            call = KerasCall(layer)
            watching.put_underneath(layer, "call", call)
        return call


def release(layer: Any) -> None:
    """Removes the `KerasCall` of a layer, unless it is still needed."""
    with watching.lock:
        call = found(layer)
        if call is None or call.frozen or uses_batch_at_inference(layer, in_any_thread=True):
            return
        watching.put_underneath(layer, "call", call.own)
