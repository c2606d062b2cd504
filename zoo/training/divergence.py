"""Where numbers that are not finite come from."""

from typing import Any

import keras
import tensorflow as tf

from zoo.training.distribution.replicas import own_rows


def first_not_finite(model: keras.Model, images: Any) -> str | None:
    """Returns the name of the first layer whose output is not finite, as in training.

    The moving statistics of the model change. A collective: all workers must call it together.

    Args:
        model: A functional model. Its layers are looked at in the order of their calls.
        images: Tensor `[N, H, W, C]`, the minibatch of all replicas.

    Returns:
        The layer's name, or None where all outputs are finite.
    """
    layers = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    every_output = keras.Model(model.inputs, [layer.output for layer in layers])
    strategy = tf.distribute.get_strategy()

    @tf.function
    def bad() -> Any:
        def of_replica() -> Any:
            outputs = every_output(*own_rows(images), training=True)
            return tf.stack([_not_finite(tf.nest.flatten(output)) for output in outputs])

        return strategy.reduce("SUM", strategy.run(of_replica), axis=None)

    found = bad().numpy()
    return next((layer.name for layer, count in zip(layers, found, strict=True) if count), None)


def all_finite(variables: list[Any]) -> bool:
    """Returns whether floating-point variables hold finite numbers only."""
    return not int(tf.add_n([_not_finite([v.value]) for v in variables]))


def _not_finite(tensors: list[Any]) -> Any:
    """Returns how many numbers are not finite, as int64."""
    return tf.add_n([tf.math.count_nonzero(~tf.math.is_finite(tensor)) for tensor in tensors])
