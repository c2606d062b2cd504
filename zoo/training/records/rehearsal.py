"""What `--dry_run` tells: how large a model is, what a step takes, how long a run will be."""

import math
import resource
import sys
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
from rich.console import Console

from zoo.training.cli import terminal
from zoo.training.divergence import diverged
from zoo.training.setup import Setup


class Measured(NamedTuple):
    """What two real steps took.

    Attributes:
        first: Seconds of the first step, in which it is built.
        second: Seconds of the second.
        evaluation: Seconds that an evaluation will take.
        state_bytes: Bytes of all variables: of the model, the optimizer and the averages.
    """

    first: float
    second: float
    evaluation: float
    state_bytes: int


def rehearse(setup: Setup) -> None:
    """Does two steps and an evaluation, and prints what a run takes.

    Raises:
        DivergedError: When the loss of a step is not finite.
    """
    seconds = []
    for step, (images, labels) in zip((1, 2), setup.batches(0), strict=False):
        begin = time.perf_counter()
        loss = float(setup.step(images, labels).objective)
        seconds.append(time.perf_counter() - begin)
        if not math.isfinite(loss):
            raise diverged(setup, step, loss, None, images)
    evaluation = sum(evaluate().seconds for evaluate in setup.evaluators.values())
    size = sum(math.prod(v.shape) * v.dtype.size for v in setup.variables)
    measured = Measured(seconds[0], seconds[-1], evaluation, size)
    print_rehearsal(setup.config, setup.model, measured, setup.console)


def multiply_adds(model: keras.Model) -> int:
    """Returns the multiplications with a weight that one example takes in inference.

    Dense and convolutional layers count: each element of a kernel, depthwise or not, is used once
    at each position of the output.
    """
    return sum(_of_layer(layer) for layer in model.layers)


def _of_layer(layer: keras.layers.Layer) -> int:
    """Returns the multiply-adds of a layer, 0 for one without kernels."""
    kernels = [w for w in layer.weights if w.name in ("kernel", "depthwise_kernel")]
    if not kernels or _outputs(layer)[0].shape is None:
        return 0
    shape = list(_outputs(layer)[0].shape[1:])
    channels = 1 if getattr(layer, "data_format", "") == "channels_first" else len(shape)
    del shape[channels - 1]
    return sum(int(np.prod(kernel.shape)) for kernel in kernels) * int(np.prod(shape))


def activation_bytes(model: keras.Model, batch_size: int) -> int:
    """Returns the bytes of all layers' outputs for a minibatch, most of which training keeps."""
    outputs = [output for layer in model.layers for output in _outputs(layer)]
    return batch_size * sum(
        int(np.prod(output.shape[1:])) * np.dtype(_known(output.dtype)).itemsize
        for output in outputs
    )


def _outputs(layer: keras.layers.Layer) -> list[Any]:
    return layer.output if isinstance(layer.output, list) else [layer.output]


def _known(dtype: str) -> str:
    """Returns a NumPy type of the same size."""
    return "float16" if dtype == "bfloat16" else dtype


def print_rehearsal(
    config: Mapping[str, Any], model: keras.Model, measured: Measured, console: Console
) -> None:
    """Prints the model's layers, and what a run of it takes.

    Args:
        config: The run's, with times in steps.
        model: The model.
        measured: What two steps took.
        console: Where to print.
    """
    model.summary(print_fn=lambda line: terminal.say(console, line), line_length=100)
    trained = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    every = sum(int(np.prod(v.shape)) for v in model.weights)
    evaluations = -(-config["num_steps"] // config["eval_every_steps"])
    seconds = measured.first + measured.second * (config["num_steps"] - 1)
    seconds += evaluations * measured.evaluation
    batch_size = config["batch_size"]
    activations = _megabytes(activation_bytes(model, batch_size))
    speed = f"{batch_size / measured.second:,.0f} images/s"
    terminal.print_table(
        console,
        f"{config['model']} with norm={config['norm']}: dry run, nothing was written",
        [
            ("parameters", f"{every:,}, of which {trained:,} are trained"),
            ("multiply-adds", f"{multiply_adds(model):,} for an image, in inference"),
            ("memory of variables", _megabytes(measured.state_bytes)),
            ("memory of activations", f"at most {activations} for {batch_size} images"),
            ("largest memory so far", _megabytes(_peak_bytes())),
            ("first step", f"{measured.first:.2f} s"),
            ("second step", f"{measured.second:.3f} s, {speed}"),
            ("an evaluation", f"{measured.evaluation:.1f} s"),
            ("the whole run", f"about {terminal.duration(seconds)} at this speed"),
        ],
    )


def _peak_bytes() -> int:
    """Returns the most memory that this process has had; Linux counts in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _megabytes(number: float) -> str:
    return f"{number / 1e6:,.1f} MB"
