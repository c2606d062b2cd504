"""One training step."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from keras_renorm import keras_internals
from keras_renorm.callbacks import CountSteps
from keras_renorm.layers import BatchRenormalization
from zoo.training.averages import Averages
from zoo.training.distribution.replicas import own_rows


class StepResult(NamedTuple):
    """What a step reports.

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


@dataclasses.dataclass(frozen=True)
class Options:
    """What a training step does beside the plain one.

    Attributes:
        weight_decay: See `l2_penalty`.
        auxiliary_weight: Weight of the auxiliary classifier's loss.
        label_smoothing: Share e of a label that is spread over all K classes in the objective. The
            reported loss is without it. (Szegedy et al. 2016, section 7)
        clip_norm: Largest norm of all gradients together; 0 for no limit.
        parts: Number of parts of each replica's rows, at most as many as rows, and of as equal a
            size as they allow. They go through the model one after the other, which takes the
            memory of one, and each is normalized by itself.
        jit: Whether XLA compiles the forward and the backward pass.
    """

    weight_decay: float = 0.0
    auxiliary_weight: float = 0.0
    label_smoothing: float = 0.0
    clip_norm: float = 0.0
    parts: int = 1
    jit: bool = False


def make_train_step(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    options: Options = Options(),
    averages: Averages | None = None,
) -> Callable[..., StepResult]:
    """Returns a compiled function that does one step, under the strategy in whose scope it is made.

    ```
    objective = 1/N sum of the N cross-entropies + l2_penalty + the layers' losses
    ```

    and, if the model has an auxiliary classifier, `auxiliary_weight` times its mean cross-entropy.

    Each of R replicas computes the cross-entropies of its own rows, divides by the N of all of
    them, and takes 1/R of the rest; the optimizer adds up the gradients. So the step is that of
    one replica with the whole minibatch, also where R does not divide N. A replica whose objective
    is not finite has gradients of 0, so that the weights still show the cause.

    Args:
        model: From images to logits, or to a list of logits: the classifier's, the auxiliary one's.
        optimizer: Built for the model's trainable variables.
        options: What else the step does.
        averages: Averages that follow the model's variables.

    Returns:
        A function of (images [N, H, W, C], labels [N], whether this worker was asked to stop, and
        wants a checkpoint: float64 [2]). Every worker must give it the same minibatch.
    """
    strategy = tf.distribute.get_strategy()
    replicas = strategy.num_replicas_in_sync
    passes: Callable[..., Any] = _Passes(model, optimizer, options, replicas).run
    if options.jit:
        passes = tf.function(passes, jit_compile=True, autograph=False)

    def replica_step(images: Any, labels: Any, asked: Any) -> Any:
        examples = labels.shape[0]
        images, labels = own_rows(images, labels)
        gradients, told = _in_parts(passes, images, labels, examples, options.parts)
        finite = tf.math.is_finite(told[0])
        gradients = [tf.where(finite, gradient, 0.0) for gradient in gradients]
        scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
        if replicas > 1 and (options.clip_norm or scaled):
            # The optimizer looks at the gradients before it adds up those of the replicas.
            total = tf.distribute.get_replica_context().all_reduce("SUM", gradients)
            gradients = [gradient / replicas for gradient in total]
        if options.clip_norm:
            limit = optimizer.scale_loss(options.clip_norm) / replicas
            gradients, _ = tf.clip_by_global_norm(gradients, limit)
        optimizer.apply(gradients, model.trainable_variables)
        if counter is not None:
            counter.advance()
        return tf.concat([told, asked], axis=0)

    counter = _step_counter(model) if options.parts > 1 else None

    # Nothing in a step is an `if` or a `for` on tensors: see `zoo.data.pipeline._mapped`.
    @tf.function(autograph=False)
    def train_step(images: Any, labels: Any, asked: Any = (0.0, 0.0)) -> StepResult:
        asked = tf.cast(asked, tf.float64)
        told = strategy.run(replica_step, (images, labels, asked))
        if averages is not None:
            averages.update(optimizer.iterations)
        return StepResult(*tf.unstack(strategy.reduce("SUM", told, axis=None), 5))

    return train_step


def _step_counter(model: keras.Model) -> CountSteps | None:
    """What advances the schedules of limits once a step; None where no norm has one.

    Norms with a counter for each domain go on counting parts.
    """
    counts = (
        isinstance(layer, BatchRenormalization)
        and layer.update_count is not None
        and layer.update_count.shape == ()
        for layer in keras_internals.flattened(model)
    )
    return CountSteps(model) if any(counts) else None


class _Passes:
    """The forward and the backward pass of a replica's rows, or a part of them."""

    def __init__(self, model: Any, optimizer: Any, options: Options, replicas: int) -> None:
        self._model, self._optimizer = model, optimizer
        self._options = options
        self._share = 1.0 / (replicas * options.parts)

    def run(self, images: Any, labels: Any, examples: int) -> tuple[list[Any], Any]:
        """Returns the gradients, and (objective, loss, correct).

        Args:
            images: Tensor `[n, H, W, C]`.
            labels: Tensor `[n]`.
            examples: Number N of all replicas' rows.
        """
        options, variables = self._options, self._model.trainable_variables
        with tf.GradientTape() as tape:
            logits, *auxiliary = tf.nest.flatten(self._model(images, training=True))
            smooth = options.label_smoothing
            loss = cross_entropy(labels, logits) / examples
            objective = smoothed_cross_entropy(labels, logits, smooth) / examples
            for other in auxiliary:
                extra = smoothed_cross_entropy(labels, other, smooth) / examples
                objective += options.auxiliary_weight * extra
            if self._model.losses:
                objective += self._share * tf.add_n(self._model.losses)
            if options.weight_decay:
                objective += self._share * l2_penalty(variables, options.weight_decay)
            scaled = self._optimizer.scale_loss(objective)
        gradients = tape.gradient(scaled, variables, unconnected_gradients="zero")
        told = (objective, loss, count_correct(logits, labels))
        return gradients, tf.stack([tf.cast(value, tf.float64) for value in told])


def _in_parts(
    passes: Callable[..., Any], images: Any, labels: Any, examples: int, parts: int
) -> tuple[list[Any], Any]:
    """Returns the sums, over the parts of a replica's rows, of what `passes` returns."""
    rows = tf.shape(images)[0] if images.shape[0] is None else images.shape[0]
    sums: list[Any] = []
    for number in range(parts):
        part = slice(number * rows // parts, (number + 1) * rows // parts)
        # One part after the other: side by side, the parts would take the memory of all.
        with tf.control_dependencies(sums):
            gradients, told = passes(images[part], labels[part], examples)
        found = [*gradients, told]
        sums = [a + b for a, b in zip(sums, found, strict=True)] if sums else found
    return sums[:-1], sums[-1]


def smoothed_cross_entropy(labels: Any, logits: Any, smoothing: float) -> Any:
    """Returns the sum of the cross-entropies with smoothed labels.

    ```
    -(1 - e) log p(label) - e / K * sum over k of log p(k)
    ```

    Args:
        labels: As in `cross_entropy`.
        logits: Tensor `[N, K]`.
        smoothing: The share e.

    Source: Szegedy et al. 2016, Rethinking the Inception Architecture, section 7.
    """
    loss = cross_entropy(labels, logits)
    if not smoothing:
        return loss
    uniform = -tf.reduce_sum(tf.reduce_mean(tf.nn.log_softmax(logits), axis=-1))
    return (1.0 - smoothing) * loss + smoothing * uniform


def cross_entropy(labels: Any, logits: Any) -> Any:
    """Returns the sum over the rows of `logits` [N, K] of the cross-entropies in nats.

    Labels are numbers of classes [N], or probabilities [N, K] of images that were mixed.
    """
    if len(labels.shape) == 2:
        return tf.reduce_sum(tf.nn.softmax_cross_entropy_with_logits(labels, logits))
    return tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))


def count_correct(scores: Any, labels: Any) -> Any:
    """Returns how many rows of `scores` [N, K] are highest at their label, as int64.

    Where labels are probabilities [N, K], the most probable class is the label.
    """
    if len(labels.shape) == 2:
        labels = tf.argmax(labels, axis=-1)
    hits = tf.argmax(scores, axis=-1) == tf.cast(labels, tf.int64)
    return tf.math.count_nonzero(hits)
