"""Statistics of a trained model, computed anew from images of your own."""

import dataclasses
import functools
from pathlib import Path
from typing import Literal

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console

from keras_renorm import statistics as population
from zoo.data import pipeline
from zoo.data.sources import Source, Streamed
from zoo.errors import UserError, as_user_errors
from zoo.trained import images
from zoo.trained.card import Card, write_card
from zoo.trained.opening import Trained, open_trained, say_notes
from zoo.training import pictures
from zoo.training.cli import terminal
from zoo.training.norms import PRECISE_SAMPLES
from zoo.training.storage import files, places
from zoo.training.storage.writing import writing
from zoo.weights.record import Preprocessing


def recalibrate(
    model: str,
    names: list[str],
    output: str,
    console: Console,
    *,
    num_samples: int | None = None,
    batch_size: int = 100,
    pixels: Preprocessing | None = None,
) -> population.PreciseReport:
    """Writes a model whose population statistics are those of given images.

    Args:
        model: A working directory, a .keras file or the name of a checkpoint.
        names: Image files, and folders of them at any depth; labels are not needed.
        output: .keras file to write; it must not exist.
        console: Where to report to.
        num_samples: Number of images, spread evenly over their paths; all by default.
        batch_size: Images at a time.
        pixels: What a .keras file takes, if it does not say so.

    Returns:
        What was done.

    Raises:
        UserError: If something does not exist, or the model has no such statistics.
    """
    path = places.new_path(output, ".keras")
    say = functools.partial(terminal.say, console)
    trained = open_trained(model, pixels=pixels)
    found = images.find_files(names, trained)
    for bad, problem in found.problems.items():
        say(f"warning: {bad!r} left out: it {problem}")
    say_notes(trained, console)
    samples = len(found.source) if num_samples is None else num_samples
    source = _spread(found.source, samples)
    report = set_precise_statistics(trained, source, batch_size, samples, console)
    with writing(path):
        save(trained.model, trained.card, path)
    say(f"{path}: statistics of {report.examples} images in {len(report.layers)} layers")
    return report


def _spread(source: Streamed, count: int) -> Streamed:
    """Returns fewer images, from everywhere: the first may be of one class, or of one scene."""
    if count >= len(source):
        return source
    places = np.arange(count) * len(source) // count
    return dataclasses.replace(
        source, length=count, fetch=lambda indices: source.fetch(tf.gather(places, indices))
    )


def save(model: keras.Model, card: Card, path: Path) -> None:
    """Writes a model with its card."""
    with files.replacing(path, existing=False) as temporary:
        model.save(temporary)
        write_card(temporary, card)


def set_precise_statistics(
    trained: Trained, source: Source, batch_size: int, samples: int | None, console: Console
) -> population.PreciseReport:
    """Gives a model the statistics of the first of some images.

    Args:
        trained: The model.
        source: The images.
        batch_size: Images at a time.
        samples: Number of images. By default 2,000, or all if there are fewer.
        console: Where to show a bar, if it is a terminal.

    Raises:
        UserError: If there are fewer images, or the model has no batch norm.
    """
    if samples is None:
        samples = min(PRECISE_SAMPLES, len(source))
    if samples > len(source):
        raise UserError(
            f"--num_samples must be at most the {len(source)} images of {source.name}, "
            f"{source.split}; received {samples}."
        )
    batches = pipeline.evaluation_batches(source, batch_size, trained.card.preparation)
    verbose: Literal[0, 1] = 1 if console.is_terminal else 0
    with as_user_errors(ValueError), pictures.reading_errors_named():
        return population.precise(trained.model, batches, num_samples=samples, verbose=verbose)
