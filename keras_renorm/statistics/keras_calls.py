"""Calls of Keras's batch norms with frozen or with minibatch statistics."""

import inspect
import sys
from collections.abc import Callable
from typing import Any

import keras

from keras_renorm import ops
from keras_renorm.models import LayerCall, watching
from keras_renorm.typing import Tensor


class FrozenCall:
    """The call of a Keras batch norm that uses and keeps its moving statistics in training, too.

    The object stands in the layer's dictionary. Keras's tracking of attributes does not see it
    there, and the layer's configuration does not hold it.

    Args:
        layer: The layer.

    Attributes:
        own: The function that stood there before, or None.
    """

    def __init__(self, layer: Any) -> None:
        self._layer = layer
        self.own: Callable[..., Tensor] | None = watching.underneath(layer, "call")
        # A subclass may have other arguments, or hand on what it does not name.
        parameters = inspect.signature(self._call).parameters
        kinds = {parameter.kind for parameter in parameters.values()}
        named = "training" in parameters
        place = list(parameters).index("training") if named else 1
        by_place = named or inspect.Parameter.VAR_POSITIONAL in kinds
        self._place = place if by_place else sys.maxsize
        self._by_name = named or inspect.Parameter.VAR_KEYWORD in kinds

    @property
    def _call(self) -> Callable[..., Tensor]:
        return self.own or type(self._layer).call.__get__(self._layer)

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """The layer's output, as with `training=False`; the arguments are those of its `call`."""
        if len(args) > self._place:
            args = (*args[: self._place], False, *args[self._place + 1 :])
        elif self._by_name:
            kwargs = kwargs | {"training": False}
        return self._call(*args, **kwargs)


def is_frozen(layer: Any) -> bool:
    """Whether a layer uses and keeps its moving statistics in training."""
    return isinstance(watching.underneath(layer, "call"), FrozenCall)


def set_frozen(layer: Any, frozen: bool) -> None:
    """Sets whether a layer uses and keeps its moving statistics in training."""
    with watching.lock:
        if frozen != is_frozen(layer):
            call = FrozenCall(layer) if frozen else watching.underneath(layer, "call").own
            watching.put_underneath(layer, "call", call)


def by_minibatch(call: LayerCall) -> Tensor:
    """A call by plain minibatch moments in the place of a layer's own, whatever its `renorm` is."""
    return _by_minibatch(call.layer, *call.args, **call.kwargs)


def _by_minibatch(
    layer: Any, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None
) -> Tensor:
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
