"""What is measured of a run: in its records, and of its trained model.

Accuracies are shares of 1. A run that diverged has the accuracy of a guess, and no other number.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_renorm import diagnostics, statistics
from zoo.data import datasets, pipeline
from zoo.data.dataset import Dataset
from zoo.evidence import dealing, domains, moving_averages  # noqa: F401  # layers of saved models
from zoo.evidence.corruptions import CORRUPTIONS
from zoo.evidence.page import NUMBERS
from zoo.trained.opening import load_model
from zoo.training import builders, evaluation
from zoo.training.norms import PRECISE_SAMPLES
from zoo.training.records.metrics import Record
from zoo.training.storage.workdir import Workdir

#: Number of corrupted images for adapted statistics.
ADAPTED_SAMPLES = 1000
#: Minibatches over which the gap between training and inference is averaged.
GAP_MINIBATCHES = 8


def of_records(records: Sequence[Record]) -> dict[str, float]:
    """Returns what the records say.

    Args:
        records: The records of the whole run.

    Returns:
        `accuracy`, of the test images at the end; `best_accuracy`, at any evaluation; and
        `training_accuracy`, of the minibatches since the record before the last.
    """
    tests = [record for record in records if record.split == "test"]
    training = [record for record in records if record.split == "train"]
    return {
        "accuracy": tests[-1].accuracy,
        "best_accuracy": max(record.accuracy for record in tests),
        "training_accuracy": training[-1].accuracy,
    }


def of_model(
    workdir: Workdir, config: Mapping[str, Any], measures: Sequence[str]
) -> dict[str, float]:
    """Returns what is measured of a finished run's model.

    Args:
        workdir: The run's.
        config: The run's.
        measures: Names of `MEASURES`.
    """
    if not measures:
        return {}
    test = datasets.load(config["dataset"], "test", config["data_dir"])
    found = {}
    for name in measures:
        # Each begins with the model as it was saved.
        found[name] = MEASURES[name](load_model(workdir), config, test)
    return found


def of_diverged(config: Mapping[str, Any], measures: Sequence[str]) -> dict[str, float]:
    """Returns the numbers of a run whose loss was not finite: accuracies of a guess alone.

    A guess has no kernel norm and no gap, and the run ended before it had one.
    """
    chance = 1 / datasets.load(config["dataset"], "test", config["data_dir"]).num_classes
    accuracies = [name for name in measures if name not in NUMBERS]
    names = ("accuracy", "best_accuracy", "training_accuracy", *accuracies)
    return dict.fromkeys(names, chance) | {"diverged": 1.0}


def _precise(
    model: keras.Model,
    config: Mapping[str, Any],
    test: Dataset,
    samples: int = PRECISE_SAMPLES,
    batch_size: int = PRECISE_SAMPLES,
) -> float:
    """Test accuracy with the statistics of training images, computed anew."""
    images = datasets.load(config["dataset"], "train", config["data_dir"])
    batches = pipeline.evaluation_batches(images, batch_size)
    statistics.precise(model, batches, num_samples=samples, verbose=0)
    return evaluation.Evaluator(model, test, config["eval_batch_size"])().accuracy


def _minibatch(model: keras.Model, config: Mapping[str, Any], test: Dataset) -> float:
    """Test accuracy with each minibatch's own statistics, in minibatches drawn as in training."""
    correct = total = 0
    with statistics.batch_statistics(model):
        for images, labels in _test_minibatches(config, test):
            found = tf.argmax(model(images, training=False), axis=-1)
            correct += int(tf.reduce_sum(tf.cast(found == labels, tf.int32)))
            total += len(labels)
    return correct / total


def _gap(model: keras.Model, config: Mapping[str, Any], test: Dataset) -> float:
    """Mean gap of the output between training and inference, over minibatches as in training."""
    batches = itertools.islice(_test_minibatches(config, test), GAP_MINIBATCHES)
    gaps = [diagnostics.train_inference_gap(model, images).output for images, _ in batches]
    return fmean(gaps)


def _kernel_norm(model: keras.Model, config: Mapping[str, Any], test: Dataset) -> float:
    """The Euclidean norm of all kernels but the classifier's."""
    del config, test
    hidden = [layer for layer in model.layers if layer.name != "logits"]
    kernels = [layer.kernel for layer in hidden if hasattr(layer, "kernel")]
    return float(np.sqrt(sum(np.sum(np.square(kernel)) for kernel in kernels)))


def _test_minibatches(config: Mapping[str, Any], test: Dataset) -> Iterator[Any]:
    """Minibatches of test images, about as many images as there are, drawn as in training."""
    steps = max(len(test) // config["batch_size"], 1)
    return builders.build_batches({**config, "augment": False, "num_steps": steps}, test, 0)


def _corrupted(
    kind: str, adapted: bool, model: keras.Model, config: Mapping[str, Any], test: Dataset
) -> float:
    """Test accuracy on corrupted images; if adapted, with the statistics of others like them."""
    corrupt = CORRUPTIONS[kind]
    if adapted:
        others = datasets.load(config["dataset"], "train", config["data_dir"])
        images = corrupt(_pixels(others.images[:ADAPTED_SAMPLES]))
        statistics.precise(model, images, num_samples=len(images), verbose=0)
    found = model.predict(corrupt(_pixels(test.images)), batch_size=500, verbose=0)
    return float(np.mean(found.argmax(axis=-1) == test.labels))


def _pixels(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Images as the model takes them."""
    return images.astype(np.float32) / np.float32(255)


#: What can be measured of a model: its name, and how.
MEASURES: dict[str, Callable[..., float]] = {
    "precise": _precise,
    "precise_100": functools.partial(_precise, samples=100, batch_size=100),
    "precise_by_2": functools.partial(_precise, samples=400, batch_size=2),
    "minibatch": _minibatch,
    "gap": _gap,
    "kernel_norm": _kernel_norm,
}
MEASURES |= {
    f"{kind}{'_adapted' * adapted}": functools.partial(_corrupted, kind, adapted)
    for kind in CORRUPTIONS
    for adapted in (False, True)
}
