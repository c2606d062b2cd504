"""Minibatch statistics at inference."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras

from keras_renorm import ops
from keras_renorm.layers import BatchNormalization
from keras_renorm.statistics import hooks, norms
from keras_renorm.typing import Tensor

_Hook = tuple[Any, str, Callable[..., Any]]


@contextlib.contextmanager
def batch_statistics(model: keras.layers.Layer) -> Iterator[None]:
    """In the context, every batch norm normalises with the moments of the minibatch.

    ```
    y = gamma * (x - mu_B) / sqrt(var_B + epsilon) + beta
    ```

    That is what training computes, without its updates: moving statistics and counters stay as
    they are, dropout stays off, and Batch Renormalization takes no correction (r = 1, d = 0). It
    shows how much of a bad result at inference is due to the population statistics, and it is the
    better inference where the examples of a minibatch belong together (the regions of one image).
    The output of an example depends on the other examples of its minibatch.

    It holds for `model(x)`, `model.predict` and `model.evaluate`, for frozen layers
    (`trainable=False` or `freeze`), for models in the model and for Keras's own batch norms. It
    does not hold in a `tf.function` of your own that was traced before.

    Args:
        model: A model or layer that holds batch norms.

    Raises:
        TypeError: If `model` is not a Keras model or layer.
        ValueError: If it holds no batch norm.

    Example:
        >>> with keras_renorm.statistics.batch_statistics(model):
        ...     logits = model.predict(images, batch_size=32)

    Source: Wu & Johnson 2021, section 4.
    """
    with hooks.fresh_functions(model), uses_minibatch(norms.find(model)):
        yield


def uses_minibatch(layers: list[Any]) -> contextlib.AbstractContextManager[None]:
    """The context in which `layers` use the moments of the minibatch, and update nothing."""
    return hooks.replaced(hook for layer in layers for hook in _minibatch_hooks(layer))


def _minibatch_hooks(layer: Any) -> list[_Hook]:
    if not isinstance(layer, BatchNormalization):
        return [(layer, "call", _keras_minibatch_call(layer))]
    return [
        (layer, "_uses_minibatch", lambda training: True),
        (layer, "_limits", dict),
        (layer, "_update", lambda *args, **kwargs: None),
    ]


def _keras_minibatch_call(layer: Any) -> Callable[..., Any]:
    """The call of a Keras batch norm with plain minibatch moments, whatever its `renorm` is."""

    def call(inputs: Tensor, training: bool | None = None, mask: Tensor | None = None) -> Tensor:
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

    return call
