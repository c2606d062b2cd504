"""One training step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from zoo.training.distribution.replicas import own_rows


class StepResult(NamedTuple):
    """What a step tells.

    All are float64 scalars, and the same on every worker.

    Attributes:
        objective: What was minimised: cross-entropy, weight decay and the layers' losses.
        loss: Mean cross-entropy of the minibatch in nats.
        correct: Number of examples whose most probable label is the right one.
        stop: Above 0 when a worker was asked to stop.
        save: Above 0 when a worker wants a checkpoint now.
    """

    objective: Any
    loss: Any
    correct: Any
    stop: Any
    save: Any


def l2_penalty(variables: list[Any], weight_decay: float) -> Any:
    """Returns weight_decay / 2 * the sum of squares of the kernels among `variables`.

    Kernels are the variables of two or more dimensions: biases, gamma and beta are not decayed.
    The gradient of the penalty is weight_decay * kernel, as in He et al. 2015, section 3.4.
    """
    kernels = [variable for variable in variables if len(variable.shape) >= 2]
    return weight_decay * tf.add_n([tf.nn.l2_loss(kernel.value) for kernel in kernels])


def make_train_step(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    weight_decay: float,
    auxiliary_weight: float = 0.0,
) -> Callable[..., StepResult]:
    """Returns a compiled function that does one step, under the strategy in whose scope it is made.

    ```
    objective = 1/N sum of the N cross-entropies + l2_penalty + the layers' losses
    ```

    and, if the model has an auxiliary classifier, `auxiliary_weight` times its mean cross-entropy.

    Each of R replicas computes the cross-entropies of its own rows, divides by the N of all of
    them, and takes 1/R of the rest; the optimizer adds up the gradients. So the step is that of
    one replica with the whole minibatch, also where R does not divide N.

    Args:
        model: From images to logits, or to a list of logits: the classifier's, the auxiliary one's.
        optimizer: Built for the model's trainable variables.
        weight_decay: See `l2_penalty`.
        auxiliary_weight: Weight of the auxiliary classifier's loss.

    Returns:
        A function of (images [N, H, W, C], labels [N], whether this worker was asked to stop, and
        wants a checkpoint: float64 [2]). Every worker must give it the same minibatch.
    """
    strategy = tf.distribute.get_strategy()
    replicas = strategy.num_replicas_in_sync

    def replica_step(images: Any, labels: Any, asked: Any) -> Any:
        examples = labels.shape[0]
        images, labels = own_rows(images, labels)
        with tf.GradientTape() as tape:
            logits, *auxiliary = tf.nest.flatten(model(images, training=True))
            loss = cross_entropy(labels, logits) / examples
            extra = (auxiliary_weight / examples * cross_entropy(labels, z) for z in auxiliary)
            objective = tf.add_n([loss, *extra, *(own / replicas for own in model.losses)])
            if weight_decay:
                objective += l2_penalty(model.trainable_variables, weight_decay) / replicas
        gradients = tape.gradient(objective, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        told = [objective, loss, count_correct(logits, labels), *tf.unstack(asked)]
        return tf.stack([tf.cast(value, tf.float64) for value in told])

    @tf.function
    def train_step(images: Any, labels: Any, asked: Any = (0.0, 0.0)) -> StepResult:
        told = strategy.run(replica_step, (images, labels, asked))
        return StepResult(*tf.unstack(strategy.reduce("SUM", told, axis=None)))

    return train_step


def cross_entropy(labels: Any, logits: Any) -> Any:
    """Returns the sum over the rows of `logits` [N, K] of the cross-entropies in nats."""
    return tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))


def count_correct(scores: Any, labels: Any) -> Any:
    """Returns how many rows of `scores` [N, K] are highest at their label, as int64."""
    hits = tf.argmax(scores, axis=-1) == tf.cast(labels, tf.int64)
    return tf.math.count_nonzero(hits)
