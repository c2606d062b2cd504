"""Population statistics in training: FrozenBN."""

import keras

from keras_renorm.layers import BatchNormalization
from keras_renorm.models import batch_norms
from keras_renorm.statistics import hooks, keras_calls, moving_statistics


def is_frozen(model: keras.layers.Layer) -> bool:
    """Whether `freeze` holds for every batch norm of a model; False where there is none.

    Args:
        model: A model or layer, of this package or of Keras.

    Raises:
        TypeError: If `model` is not a Keras model or layer.
    """
    try:
        found = batch_norms(model)
    except ValueError:  # there is none
        return False
    return all(
        layer.frozen_statistics
        if isinstance(layer, BatchNormalization)
        else (call := keras_calls.found(layer)) is not None and call.frozen
        for layer in found
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
    found = batch_norms(model)
    if affine_trainable is False:
        for layer in found:
            moving_statistics.require_weights(layer)
    for layer in found:
        if isinstance(layer, BatchNormalization):
            layer.frozen_statistics = frozen
        else:
            keras_calls.set_frozen(layer, frozen)
        if layer.trainable and affine_trainable is not None:
            for parameter in (layer.gamma, layer.beta):
                if parameter is not None:
                    parameter.trainable = affine_trainable
    hooks.retrace_training(model)
