"""Finds where numbers that are not finite come from, and says so."""

from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from zoo.errors import DivergedError
from zoo.training.distribution.replicas import own_rows
from zoo.training.setup import Setup


def diverged(
    setup: Setup, step: int, loss: float, saved: Path | None, images: Any = None
) -> DivergedError:
    """Returns the error for a loss that is not finite. All workers must call it together.

    Args:
        setup: The run's.
        step: The step after which the loss was found.
        loss: The loss.
        saved: The newest checkpoint, if there is one.
        images: The minibatch, if the loss is a training step's.
    """
    with setup.workers.strategy.scope():
        layer = None if images is None else first_not_finite(setup.model, images)
    where = f" The first layer whose output is not finite is {layer}." if layer else ""
    return DivergedError(
        f"The loss is {loss} at step {step} (learning rate {setup.rate(step):.4g}): training has "
        f"diverged and was stopped.{where} Try a lower --config.learning_rate or a longer "
        "--config.warmup_steps in another --workdir. "
        f"The newest checkpoint is {saved or 'none: it was too early for one'}."
    )


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
    """Returns how many numbers are not finite, as int64. Whole numbers and booleans all are."""
    floating = [tensor for tensor in tensors if tensor.dtype.is_floating]
    counts = [tf.math.count_nonzero(~tf.math.is_finite(tensor)) for tensor in floating]
    return tf.add_n([tf.zeros([], tf.int64), *counts])
