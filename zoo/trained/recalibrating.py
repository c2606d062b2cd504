"""Statistics of a trained model, computed anew from images that one has."""

from pathlib import Path
from typing import Literal

import keras
from rich.console import Console

from keras_renorm import statistics as population
from zoo.data import pipeline
from zoo.data.sources import Source
from zoo.errors import UserError, as_user_errors
from zoo.trained import images
from zoo.trained.card import write_card
from zoo.trained.opening import Trained, open_trained
from zoo.training import pictures
from zoo.training.cli import terminal
from zoo.training.storage import files


def recalibrate(
    model: str,
    names: list[str],
    output: str,
    console: Console,
    *,
    num_samples: int | None = None,
    batch_size: int = 100,
) -> population.PreciseReport:
    """Writes a model whose population statistics are those of given images.

    Args:
        model: A working directory, a .keras file or the name of a checkpoint.
        names: Image files, and folders of them at any depth; labels are not needed.
        output: .keras file to write; it must not exist.
        console: Where to report to.
        num_samples: Of how many images, the first in the order of their paths; of all by default.
        batch_size: Images at a time.

    Returns:
        What was done.

    Raises:
        UserError: If something does not exist, or the model has no such statistics.
    """
    path = new_file(output, ".keras")
    trained = open_trained(model)
    found = images.find_files(names, trained)
    for bad, problem in found.problems.items():
        terminal.say(console, f"warning: {bad!r} left out: it {problem}")
    samples = len(found.source) if num_samples is None else num_samples
    report = set_precise_statistics(trained, found.source, batch_size, samples, console)
    save(trained, trained.model, path)
    terminal.say(
        console,
        f"{path}: statistics of {report.examples} images in {len(report.layers)} layers",
    )
    return report


def new_file(output: str, suffix: str) -> Path:
    """Returns the path of a file to write.

    Raises:
        UserError: If it exists, has no folder, or another suffix.
    """
    path = Path(output).expanduser()
    if not path.name.endswith(suffix):
        raise UserError(f"--output must end in {suffix}, received {output}.")
    if path.exists():
        raise UserError(f"{path} exists already and is not overwritten: choose another --output.")
    if not path.parent.is_dir():
        raise UserError(f"There is no folder {path.parent} to write {path.name} to.")
    return path


def save(trained: Trained, model: keras.Model, path: Path) -> None:
    """Writes a model with the card of the one that it was made of."""
    with files.replacing(path) as temporary:
        model.save(temporary)
        write_card(temporary, trained.card)


def set_precise_statistics(
    trained: Trained, source: Source, batch_size: int, samples: int, console: Console
) -> population.PreciseReport:
    """Gives a model the statistics of the first of some images.

    Args:
        trained: The model.
        source: The images.
        batch_size: Images at a time.
        samples: Number of images.
        console: Where to show a bar, if it is a terminal.

    Raises:
        UserError: If there are fewer images, or the model has no batch norm.
    """
    if samples > len(source):
        raise UserError(
            f"--num_samples must be at most the {len(source)} images of {source.name}, "
            f"{source.split}; received {samples}."
        )
    batches = pipeline.evaluation_batches(source, batch_size, trained.card.preparation)
    verbose: Literal[0, 1] = 1 if console.is_terminal else 0
    with as_user_errors(ValueError), pictures.reading_errors_named():
        return population.precise(trained.model, batches, num_samples=samples, verbose=verbose)
