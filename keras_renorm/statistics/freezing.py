"""Population statistics in training: FrozenBN."""

import keras

from keras_renorm.layers import BatchNormalization
from keras_renorm.models import batch_norms
from keras_renorm.ops import arguments
from keras_renorm.statistics import hooks, keras_calls, moving_statistics


def is_frozen(model: keras.layers.Layer) -> bool:
    """Whether every batch norm of a model is frozen; False for a model without batch norms.

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
        else keras_calls.is_frozen(layer)
        for layer in found
    )


def freeze(model: keras.layers.Layer, *, affine_trainable: bool = True) -> None:
    """Makes every batch norm normalise with its moving statistics in training, and keep them.

    ```
    y = gamma * (x - moving_mean) / sqrt(moving_variance + epsilon) + beta
    ```

    Use it for the last part of a training, so that the weights adapt to what inference computes,
    and for fine-tuning on minibatches that are too small. The gradient does not pass through the
    statistics. Call `precise` first for statistics of the present weights.

    `layer.trainable = False` freezes gamma and beta as well. `freeze` leaves them free by default.
    It acts on `fit`, even while `fit` runs, and on layers called with `training=True`. It does not
    act on a `tf.function` of your own that was traced before. If `fit` runs on another model that
    holds `model`, freeze that other model.

    A layer of this package keeps the setting as its attribute `frozen_statistics`, also in files of
    the model. For a Keras batch norm files do not keep the setting: freeze the loaded model again.
    No file keeps `affine_trainable`.

    Args:
        model: A model or layer that holds batch norms.
        affine_trainable: False stops the training of gamma and beta; True leaves it as it is.
            Compile the model again after False, as after any change of what is trained.

    Raises:
        TypeError: If `model` is not a Keras model or layer, or `affine_trainable` no truth value.
        ValueError: If it holds no batch norm, or one without weights when `affine_trainable` is
            False.

    Example:
        >>> model.fit(x, y, epochs=80)
        >>> keras_renorm.statistics.freeze(model)
        >>> model.fit(x, y, epochs=20)

    Source: Wu & Johnson 2021, section 4.
    """
    trains_on = arguments.flag("affine_trainable", affine_trainable)
    _set_frozen(model, True, None if trains_on else False)


def unfreeze(model: keras.layers.Layer) -> None:
    """Undoes `freeze`: training uses minibatch statistics again, and trains gamma and beta.

    If gamma and beta were not trained before, compile the model again.

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
