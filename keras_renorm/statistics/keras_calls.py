"""The calls of Keras's batch norms, which know no statistics but those that Keras gives them."""

from collections.abc import Callable
from typing import Any

import keras

from keras_renorm import ops
from keras_renorm.layers.statistics_in_use import uses_batch_at_inference
from keras_renorm.models import watching
from keras_renorm.typing import Tensor


class KerasCall:
    """The call of a Keras batch norm, with the statistics that it is told to use.

    It stands in the layer's dictionary, which Keras's tracking of attributes does not see and a
    configuration does not hold.

    Args:
        layer: The layer.

    Attributes:
        frozen: Whether it uses and keeps the moving statistics in training, too.
        own: What stood there before, or None.
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
    """The output by plain minibatch moments, whatever the layer's `renorm` is."""
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
    """Has a layer use and keep its moving statistics in training, or no longer."""
    with watching.lock:
        installed(layer).frozen = frozen
        release(layer)


def installed(layer: Any) -> KerasCall:
    """The `KerasCall` of a layer, which gets one if it has none."""
    with watching.lock:
        call = found(layer)
        if call is None:
            call = KerasCall(layer)
            watching.put_underneath(layer, "call", call)
        return call


def release(layer: Any) -> None:
    """Takes the `KerasCall` of a layer back, unless it is of use."""
    with watching.lock:
        call = found(layer)
        if call is None or call.frozen or uses_batch_at_inference(layer, in_any_thread=True):
            return
        watching.put_underneath(layer, "call", call.own)
