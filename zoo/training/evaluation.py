"""Accuracy and loss of a model on a data set, during training."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from zoo.data import pipeline
from zoo.data.preparation import Preparation
from zoo.data.sources import Source
from zoo.training import builders, pictures
from zoo.training import step as steps
from zoo.training.distribution.replicas import own_rows

_AS_STORED = Preparation()


@dataclasses.dataclass(frozen=True)
class Result:
    """What an evaluation found.

    Attributes:
        accuracy: Fraction of the examples whose most probable label is the right one.
        loss: Mean cross-entropy in nats.
        num_examples: How many examples there were.
        seconds: Time that the evaluation took.
    """

    accuracy: float
    loss: float
    num_examples: int
    seconds: float


class InterruptedEvaluationError(Exception):
    """An evaluation was asked to stop before its end."""


class Evaluator:
    """Evaluates a model in inference mode on one data set, as often as needed.

    Under a strategy, make it in its scope; the replicas share each batch.

    Args:
        model: From images to probabilities; an auxiliary classifier is left out.
        dataset: The examples; all of them are used, each once.
        batch_size: Examples at a time: affects memory and speed, not the result, unless the model
            normalizes with each minibatch's statistics.
        preparation: What the model takes.
        part: Which part of each batch this worker makes.
    """

    def __init__(
        self,
        model: keras.Model,
        dataset: Source,
        batch_size: int,
        preparation: Preparation = _AS_STORED,
        part: pipeline.Part = (0, 1),
    ) -> None:
        self._dataset = dataset
        self._batches = pipeline.evaluation_batches(dataset, batch_size, preparation, part)
        self._sums = _make_sums(builders.classifier_of(model))

    def __call__(self, stop: Callable[[], bool] = lambda: False) -> Result:
        """Returns accuracy and loss with the model's present weights.

        Args:
            stop: Called before each batch; True asks to stop.

        Raises:
            InterruptedEvaluationError: On every worker, when one of them asks to stop.
            UserError: When an image cannot be read any more.
        """
        start = time.perf_counter()
        loss = correct = 0.0
        for images, labels in pictures.read(self._batches):
            asked = tf.constant(float(stop()), tf.float64)
            batch_loss, batch_correct, ended = self._sums(images, labels, asked).numpy()
            loss += float(batch_loss)
            correct += float(batch_correct)
            if ended:
                raise InterruptedEvaluationError
        examples = len(self._dataset)
        return Result(correct / examples, loss / examples, examples, time.perf_counter() - start)


def _make_sums(model: keras.Model) -> Callable[[Any, Any, Any], Any]:
    """Returns a compiled function of a batch: summed cross-entropy, number of right answers.

    The third argument asks to stop where it is 1. The third result counts the replicas that ask.
    """
    strategy = tf.distribute.get_strategy()

    def replica_sums(images: Any, labels: Any, stop: Any) -> Any:
        images, labels = own_rows(images, labels)
        probabilities = tf.cast(model(images, training=False), tf.float32)
        # A probability rounded to 0 costs at most 87.3 nats: the least normal float32 bounds it.
        chosen = tf.gather(probabilities, labels, axis=-1, batch_dims=1)
        losses = -tf.math.log(tf.maximum(chosen, np.finfo(np.float32).tiny))
        loss = tf.reduce_sum(tf.cast(losses, tf.float64))
        correct = tf.cast(steps.count_correct(probabilities, labels), tf.float64)
        return tf.stack([loss, correct, stop])

    # One trace serves the last batch too, which is usually smaller.
    @tf.function(autograph=False, reduce_retracing=True)
    def sums(images: Any, labels: Any, stop: Any) -> Any:
        return strategy.reduce("SUM", strategy.run(replica_sums, (images, labels, stop)), axis=None)

    return sums
