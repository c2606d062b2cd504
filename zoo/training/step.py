"""One training step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf


class StepResult(NamedTuple):
    """What a step tells.

    Attributes:
        objective: Scalar that was minimised: cross-entropy, weight decay and the layers' losses.
        loss: Scalar, mean cross-entropy of the minibatch in nats.
        correct: Scalar int64, number of examples whose most probable label is the right one.
    """

    objective: Any
    loss: Any
    correct: Any


def l2_penalty(variables: list[Any], weight_decay: float) -> Any:
    """Returns weight_decay / 2 * the sum of squares of the kernels among `variables`.

    Kernels are the variables of two or more dimensions: biases, gamma and beta are not decayed.
    The gradient of the penalty is weight_decay * kernel, as in He et al. 2015, section 3.4.
    """
    kernels = [variable for variable in variables if len(variable.shape) >= 2]
    return weight_decay * tf.add_n([tf.nn.l2_loss(kernel.value) for kernel in kernels])


def make_train_step(
    model: keras.Model, optimizer: keras.optimizers.Optimizer, weight_decay: float
) -> Callable[[Any, Any], StepResult]:
    """Returns a compiled function that does one step.

    Args:
        model: From images to logits.
        optimizer: Built for the model's trainable variables.
        weight_decay: See `l2_penalty`.

    Returns:
        A function of (images [N, H, W, C], labels [N]).
    """

    @tf.function
    def train_step(images: Any, labels: Any) -> StepResult:
        with tf.GradientTape() as tape:
            logits = model(images, training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            loss = tf.reduce_mean(losses)
            objective = tf.add_n([loss, *model.losses])
            if weight_decay:
                objective += l2_penalty(model.trainable_variables, weight_decay)
        gradients = tape.gradient(objective, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        return StepResult(objective, loss, count_correct(logits, labels))

    return train_step


def count_correct(scores: Any, labels: Any) -> Any:
    """Returns how many rows of `scores` [N, K] are highest at their label, as int64."""
    hits = tf.argmax(scores, axis=-1) == tf.cast(labels, tf.int64)
    return tf.math.count_nonzero(hits)
