"""Accuracy and loss of a model on a data set, during training and after it."""

import contextlib
import dataclasses
import time
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console

from keras_renorm import statistics as population
from zoo.data import datasets, pipeline
from zoo.errors import UserError, as_user_errors
from zoo.training import builders
from zoo.training import step as steps
from zoo.training.cli import terminal
from zoo.training.distribution.replicas import own_rows
from zoo.training.storage import files
from zoo.training.storage.workdir import Workdir

_NEEDED = ("model", "norm", "dataset", "data_dir", "eval_batch_size", "num_steps")


@dataclasses.dataclass(frozen=True)
class Result:
    """What an evaluation found.

    Attributes:
        accuracy: Fraction of the examples whose most probable label is the right one.
        loss: Mean cross-entropy in nats.
        num_examples: How many examples there were.
        seconds: Time that it took.
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
    """

    def __init__(self, model: keras.Model, dataset: datasets.Dataset, batch_size: int) -> None:
        self._dataset = dataset
        self._batches = pipeline.evaluation_batches(dataset, batch_size)
        self._sums = _make_sums(builders.classifier_of(model))

    def __call__(self, stop: Callable[[], bool] = lambda: False) -> Result:
        """Returns accuracy and loss with the model's present weights.

        Args:
            stop: Asked before each batch whether this worker would rather stop.

        Raises:
            InterruptedEvaluationError: On every worker, when one of them would rather stop.
        """
        start = time.perf_counter()
        loss = correct = 0.0
        for images, labels in self._batches:
            asked = tf.constant(float(stop()), tf.float64)
            batch_loss, batch_correct, ended = self._sums(images, labels, asked).numpy()
            loss += float(batch_loss)
            correct += float(batch_correct)
            if ended:
                raise InterruptedEvaluationError
        examples = len(self._dataset.labels)
        return Result(correct / examples, loss / examples, examples, time.perf_counter() - start)


def _make_sums(model: keras.Model) -> Callable[[Any, Any, Any], Any]:
    """Returns a compiled function of a batch: summed cross-entropy, number of right answers.

    Its third argument and result say how many replicas' workers would rather stop.
    """
    strategy = tf.distribute.get_strategy()

    def replica_sums(images: Any, labels: Any, stop: Any) -> Any:
        images, labels = own_rows(images, labels)
        probabilities = tf.cast(model(images, training=False), tf.float32)
        # The least normal float32 bounds the loss of a probability that was rounded to 0 by 87.3.
        chosen = tf.gather(probabilities, labels, axis=-1, batch_dims=1)
        losses = -tf.math.log(tf.maximum(chosen, np.finfo(np.float32).tiny))
        loss = tf.reduce_sum(tf.cast(losses, tf.float64))
        correct = tf.cast(steps.count_correct(probabilities, labels), tf.float64)
        return tf.stack([loss, correct, stop])

    # One trace serves the last batch too, which is usually smaller.
    @tf.function(reduce_retracing=True)
    def sums(images: Any, labels: Any, stop: Any) -> Any:
        return strategy.reduce("SUM", strategy.run(replica_sums, (images, labels, stop)), axis=None)

    return sums


def evaluate_workdir(
    path: str,
    console: Console,
    *,
    dataset: str | None = None,
    split: str = "test",
    data_dir: str | None = None,
    batch_size: int | None = None,
    statistics: str = "moving",
    num_samples: int = 2000,
) -> Result:
    """Evaluates the model of a finished run, prints a table and writes `evaluation.json`.

    Which statistics the normalization layers use is a choice of its own: the moving averages of
    training; those of a pass over training images with the final weights; or each minibatch's own,
    as in training, of which `virtual_batch_size` images are normalized together if the run did so.

    Args:
        path: Working directory of the run.
        console: Where to print the table.
        dataset: Name of the data set; the run's own by default.
        split: Split of the data set.
        data_dir: Where TensorFlow Datasets keeps its sets; the run's by default.
        batch_size: Examples at a time; the run's by default.
        statistics: "moving", "precise" or "minibatch".
        num_samples: With "precise", from how many images of the run's training split.

    Returns:
        What was found.

    Raises:
        UserError: When there is no finished run, no such data set, or the two do not fit.
    """
    workdir = Workdir(path)
    config = workdir.read_config(*_NEEDED)
    model = load_model(workdir)
    dataset = config["dataset"] if dataset is None else dataset
    data = datasets.load(dataset, split, data_dir or config["data_dir"])
    _check_fit(builders.classifier_of(model), data)
    batch_size = batch_size or config["eval_batch_size"]
    if statistics == "precise":
        images = datasets.load(config["dataset"], "train", data_dir or config["data_dir"])
        _set_precise_statistics(model, images, batch_size, num_samples, console)
    with contextlib.ExitStack() as stack:
        if statistics == "minibatch":
            stack.enter_context(as_user_errors(ValueError))
            stack.enter_context(population.batch_statistics(model))
            _warn_of_last_batch(len(data), batch_size, console)
        result = Evaluator(model, data, batch_size)()
    report = {
        **dataclasses.asdict(result),
        "statistics": statistics,
        "num_samples": num_samples if statistics == "precise" else None,
        "batch_size": batch_size,
        "dataset": data.name,
        "split": data.split,
        "model": config["model"],
        "norm": config["norm"],
        "steps": config["num_steps"],
        "model_file": workdir.model.name,
        "model_sha256": files.sha256(workdir.model),
    }
    # What took so long is shown in any case.
    _print_report(report, workdir, console)
    try:
        files.write_json(workdir.evaluation, report)
    except OSError as error:
        raise UserError(f"{workdir.evaluation} cannot be written: {error.strerror}.") from error
    terminal.say(console, f"written to {workdir.evaluation}")
    return result


def _warn_of_last_batch(examples: int, batch_size: int, console: Console) -> None:
    """Says when the last minibatch is smaller than the others and so has other statistics."""
    if examples > batch_size and (rest := examples % batch_size):
        terminal.say(
            console,
            f"warning: the last minibatch has {rest} of the {examples} images, and the statistics "
            f"of those alone: choose a --batch_size that divides {examples}.",
        )


def _set_precise_statistics(
    model: keras.Model, data: datasets.Dataset, batch_size: int, samples: int, console: Console
) -> None:
    """Gives the model the statistics of the first of the images."""
    if samples > len(data):
        raise UserError(
            f"--num_samples must be at most the {len(data)} images of {data.name}, {data.split}; "
            f"received {samples}."
        )
    batches = pipeline.evaluation_batches(data, batch_size)
    verbose: Literal[0, 1] = 1 if console.is_terminal else 0
    with as_user_errors(ValueError):
        population.precise(model, batches, num_samples=samples, verbose=verbose)


def load_model(workdir: Workdir) -> keras.Model:
    """Returns the model of a finished run.

    Raises:
        UserError: When the run is not finished or its model cannot be read.
    """
    if not workdir.model.exists():
        raise UserError(
            f"{workdir.path} holds an unfinished run: it has no {workdir.model.name} yet. The "
            "zoo.train command that began it resumes it."
        )
    if workdir.model.is_dir():
        raise UserError(f"{workdir.model} is a folder, not a model.")
    # Of another file Keras says that it is not found.
    if not workdir.finished:
        raise UserError(f"{workdir.model} is damaged: it is not a whole .keras file.")
    try:
        return keras.saving.load_model(workdir.model, compile=False)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        # Below its first line Keras prints the whole config of the model.
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{workdir.model} cannot be read: {reason}") from error


def _check_fit(model: keras.Model, data: datasets.Dataset) -> None:
    """Raises a `UserError` when the model is for other images or classes than the data's."""
    model_shapes = (tuple(model.input_shape[1:]), model.output_shape[-1])
    data_shapes = (tuple(data.input_shape), data.num_classes)
    if model_shapes != data_shapes:
        raise UserError(
            f"The model takes images of shape {model_shapes[0]} and knows {model_shapes[1]} "
            f"classes; {data.name} has {data_shapes[0]} and {data_shapes[1]}."
        )


def _print_report(report: Mapping[str, Any], workdir: Workdir, console: Console) -> None:
    """Prints an evaluation as a table."""
    at_a_time = min(report["batch_size"], report["num_examples"])
    statistics = {
        "moving": "moving",
        "precise": f"precise, of {report['num_samples']} training images",
        "minibatch": f"minibatch, of {at_a_time} images at a time",
    }
    terminal.print_table(
        console,
        f"{report['model']} with norm={report['norm']} after {report['steps']} steps",
        [
            ("statistics", statistics[report["statistics"]]),
            ("accuracy", f"{100 * report['accuracy']:.2f} %"),
            ("loss", f"{report['loss']:.4f}"),
            ("examples", f"{report['num_examples']} of {report['dataset']}, {report['split']}"),
            ("time", terminal.duration(report["seconds"])),
            ("model", str(workdir.model)),
        ],
    )
