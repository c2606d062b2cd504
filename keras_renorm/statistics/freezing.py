"""Population statistics in training: FrozenBN."""

from typing import Any

import keras

from keras_renorm.layers import BatchNormalization
from keras_renorm.statistics import hooks, norms
from keras_renorm.typing import Tensor


class _FrozenCall:
    """The call of a Keras batch norm, always at inference."""

    def __init__(self, layer: Any) -> None:
        self._layer = layer

    def __call__(
        self, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None
    ) -> Tensor:
        return type(self._layer).call(self._layer, inputs, training=False, mask=mask)


def is_frozen(layer: keras.layers.Layer) -> bool:
    """Whether `freeze` holds for a batch norm.

    Args:
        layer: A batch norm, of this package or of Keras.
    """
    return bool(getattr(layer, "frozen_statistics", False)) or isinstance(
        vars(layer).get("call"), _FrozenCall
    )


def freeze(model: keras.layers.Layer, *, affine_trainable: bool = True) -> None:
    """Has every batch norm normalise with its moving statistics in training, and keep them.

    ```
    y = gamma * (x - moving_mean) / sqrt(moving_variance + epsilon) + beta
    ```

    For the last part of a training, so that the weights adapt to what inference computes, and for
    fine-tuning on minibatches that are too small. The gradient does not go through the statistics.
    `precise` before it gives statistics of the weights of now.

    `layer.trainable = False` freezes gamma and beta with the statistics; this need not. The
    freezing holds for `fit`, also for one that is running, and for layers called with
    `training=True`. It does not hold in a `tf.function` of your own that was traced before, nor in
    the compiled `fit` of another model that holds `model`: give that one.

    With a layer of this package it is its attribute `frozen_statistics`, kept in files of the
    model. With a Keras batch norm it is not kept in files: freeze the loaded model again. That
    gamma and beta are not trained is kept in no file.

    Args:
        model: A model or layer that holds batch norms.
        affine_trainable: False has gamma and beta not trained; True leaves that as it is. A
            compiled model must be compiled again after a change of it, as after any change of
            what is trained.

    Raises:
        TypeError: If `model` is not a Keras model or layer.
        ValueError: If it holds no batch norm, or one without weights when `affine_trainable` is
            False.

    Example:
        >>> model.fit(x, y, epochs=80)
        >>> keras_renorm.statistics.freeze(model)
        >>> model.fit(x, y, epochs=20)

    Source: Wu & Johnson 2021, section 4.
    """
    _set_frozen(model, True, None if affine_trainable else False)


def unfreeze(model: keras.layers.Layer) -> None:
    """Takes back `freeze`: minibatch statistics in training, gamma and beta trained.

    Where they were not, a compiled model must be compiled again.

    Args:
        model: As for `freeze`.

    Raises:
        TypeError: As `freeze`.
        ValueError: As `freeze`.
    """
    _set_frozen(model, False, True)


def _set_frozen(model: keras.layers.Layer, frozen: bool, affine_trainable: bool | None) -> None:
    found = norms.find(model)
    if affine_trainable is False:
        for layer in found:
            norms.require_weights(layer)
    for layer in found:
        if isinstance(layer, BatchNormalization):
            layer.frozen_statistics = frozen
        elif frozen:
            vars(layer)["call"] = _FrozenCall(layer)
        elif is_frozen(layer):
            del vars(layer)["call"]
        if layer.trainable and affine_trainable is not None:
            for parameter in (layer.gamma, layer.beta):
                if parameter is not None:
                    parameter.trainable = affine_trainable
    hooks.retrace_training(model)
