"""Minibatch statistics at inference."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras

from keras_renorm.layers import BatchNormalization
from keras_renorm.layers.statistics_in_use import batch_at_inference
from keras_renorm.models import batch_norms, watched
from keras_renorm.statistics import hooks, keras_calls


@contextlib.contextmanager
def batch_statistics(model: keras.layers.Layer) -> Iterator[None]:
    """In the context, every batch norm normalises with the moments of the minibatch.

    ```
    y = gamma * (x - mu_B) / sqrt(var_B + epsilon) + beta
    ```

    Use it to see how much of a bad result at inference is due to the population statistics. It is
    also the better inference where the examples of a minibatch belong together, such as the regions
    of one image. The output of an example then depends on its neighbours in the minibatch.

    The context computes what training computes, without the updates. Moving statistics and counters
    stay as they are, dropout stays off, and Batch Renormalization takes no correction (r = 1,
    d = 0).

    The context acts on `model(x)`, `model.predict` and `model.evaluate`, on frozen layers
    (`trainable=False` or `freeze`), on models in the model and on Keras's own batch norms. It does
    not act on a `tf.function` of your own that was traced before. Other threads may use the model
    at the same time and see nothing of it, except while several replicas of a `tf.distribute`
    strategy run.

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
    layers = batch_norms(model)  # first, because it checks the model
    with hooks.fresh_functions(model), uses_minibatch(layers):
        yield


@contextlib.contextmanager
def uses_minibatch(layers: list[Any]) -> Iterator[None]:
    """In the context, `layers` use the moments of the minibatch and update nothing."""
    theirs = [layer for layer in layers if not isinstance(layer, BatchNormalization)]
    with batch_at_inference(layers), watched(dict.fromkeys(theirs, keras_calls.by_minibatch)):
        yield
