"""Evaluates trained models on labelled images: how often they are right, what they confuse."""

import contextlib
import functools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console

from keras_renorm import statistics as population
from zoo.data.sources import EVALUATION, Source
from zoo.errors import UserError, as_user_errors
from zoo.trained import images
from zoo.trained.opening import Trained, open_trained, open_workdir, refuse_pixels, say_notes
from zoo.trained.recalibrating import set_precise_statistics
from zoo.trained.reports import print_report, report
from zoo.trained.scores import Scores
from zoo.trained.views import views
from zoo.training import pictures
from zoo.training.cli import terminal
from zoo.training.storage import files, places
from zoo.training.storage.writing import writing
from zoo.weights.record import Preprocessing


def evaluate(
    console: Console,
    *,
    workdir: str | None = None,
    model: Sequence[str] = (),
    weights: str = "raw",
    dataset: str | None = None,
    split: str | None = None,
    data_dir: str | None = None,
    skip_bad_files: bool = False,
    batch_size: int | None = None,
    statistics: str = "moving",
    num_samples: int | None = None,
    crops: int = 1,
    pixels: Preprocessing | None = None,
    output: str | None = None,
) -> dict[str, Any]:
    """Evaluates a model, or the average of several, prints tables and writes the report.

    The probabilities of a class are averaged over the crops of an image and over the models, as in
    the ensembles of Ioffe & Szegedy 2015, section 4.2.3: p = sum p_mc / (M C).

    The normalization layers use the statistics that you choose: the moving averages of training,
    those of a pass over training images with the final weights, or each minibatch's own, as in
    training. The last normalizes `virtual_batch_size` images together if the run did so.

    Args:
        console: Where to print the tables.
        workdir: Working directory of a finished run.
        model: Working directories, .keras files or names of checkpoints, instead of `workdir`.
        weights: For a working directory: "raw", or "averaged", those of `average_decay`.
        dataset: Name of the data set; the run's own by default, or the first model's.
        split: Split of the data set; by default the run's for evaluation.
        data_dir: Where the data set is; the run's by default.
        skip_bad_files: Whether to leave out unusable files, even if the run did not.
        batch_size: Examples at a time; the run's by default.
        statistics: "moving", "precise" or "minibatch".
        num_samples: With "precise", the number of training images. By default 2,000, or all.
        crops: How many parts of an image to look at; see `zoo.trained.views.views`.
        pixels: What a .keras file takes, if it does not say so.
        output: JSON file to write; by default `evaluation.json` of a working directory, which is
            replaced, and no file for other models.

    Returns:
        The report, as it is written.

    Raises:
        UserError: When there is no such model or data set, or they do not fit.
    """
    if (workdir is None) == (not model):
        raise UserError(
            "Say what to evaluate: --workdir=DIR, or --model=FILE or NAME; one of them."
        )
    averaged, say = weights == "averaged", functools.partial(terminal.say, console)
    if workdir is not None:
        refuse_pixels(pixels, workdir)
        models = [open_workdir(workdir, averaged=averaged)]
    else:
        models = [open_trained(name, averaged=averaged, pixels=pixels) for name in model]
    path = _output(output, models)
    first = _first_named(models)
    source = images.open_for(
        first,
        say,
        dataset=dataset,
        split=split,
        data_dir=data_dir,
        skip_bad_files=skip_bad_files,
    )
    _check_together(models, source)
    for one in models:
        say_notes(one, console)
    _warn_of_names(first, source, console)
    if dataset is None and split in (None, EVALUATION):
        for one in models:
            _warn_of_images(one, source, console)
    size = batch_size or first.config["eval_batch_size"]
    counts: set[int] = set()
    if statistics == "precise":
        for one in models:
            train = images.open_for(
                one,
                say,
                dataset=source.name,
                split="train",
                data_dir=data_dir,
                skip_bad_files=skip_bad_files,
            )
            done = set_precise_statistics(one, train, size, num_samples, console)
            counts.add(done.examples)
    if statistics == "minibatch":
        _warn_of_last_batch(len(source), size, console)
    begin = time.perf_counter()
    with terminal.patience(console, "evaluating"):
        scores, members = _scores(models, source, size, crops, own=statistics == "minibatch")
    found = report(source, scores, members) | {
        "seconds": time.perf_counter() - begin,
        "statistics": statistics,
        "num_samples": max(counts, default=None),
        "batch_size": size,
        "crops": crops,
    }
    # Shown in any case, since it took so long.
    print_report(found, members, console)
    _write(found, path, console, existing=output is None)
    return found


def _first_named(models: Sequence[Trained]) -> Trained:
    """Returns the first model that knows the names of its classes; the first, if none does."""
    return next((one for one in models if not one.card.numbered), models[0])


def _check_together(models: Sequence[Trained], source: Source) -> None:
    """Raises a `UserError` for models that do not know the same classes."""
    first = _first_named(models)
    for other in models:
        images.check_fit(other, source)
        if first.card.numbered or other.card.numbered:
            continue
        names = zip(first.card.class_names, other.card.class_names, strict=True)
        for number, (here, there) in enumerate(names):
            if here != there:
                raise UserError(
                    "Models that are averaged must know the same classes in the same order: class "
                    f"{number} is {here!r} of {first.name} and {there!r} of {other.name}."
                )


def _output(output: str | None, models: Sequence[Trained]) -> Path | None:
    """Returns the file to write: only that of a working directory may exist."""
    if output is None:
        workdir = models[0].workdir
        return workdir.evaluation if workdir and len(models) == 1 else None
    return places.new_path(output, ".json")


def _write(
    found: Mapping[str, Any], path: Path | None, console: Console, *, existing: bool
) -> None:
    if path is None:
        return
    with writing(path):
        files.write_json(path, found, existing=existing)
    terminal.say(console, f"written to {path}")


def _scores(
    models: Sequence[Trained], source: Source, batch_size: int, crops: int, *, own: bool
) -> tuple[Scores, list[tuple[Trained, Scores]]]:
    """Returns the scores of the mean probabilities, and each model with those of its own."""
    members: list[tuple[Trained, Scores]] = []
    total: Any = np.float32(0)
    for trained in models:
        with contextlib.ExitStack() as stack:
            if own:
                stack.enter_context(as_user_errors(ValueError))
                stack.enter_context(population.batch_statistics(trained.model))
            looks = views(trained.card.preparation, crops, trained.classifier.input_shape[1:])
            found, labels = images.probabilities(trained, source, batch_size, looks)
        members.append((trained, _scored(found, labels)))
        total = total + found
    return _scored(total / len(models), labels), members


def _scored(probabilities: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> Scores:
    scores = Scores(probabilities.shape[1])
    scores.add(probabilities, labels)
    return scores


def _warn_of_names(trained: Trained, source: Source, console: Console) -> None:
    """Warns if the set names its classes otherwise than the model."""
    names = zip(trained.card.class_names, source.class_names, strict=True)
    if trained.card.numbered:
        return
    for number, (ours, theirs) in enumerate(names):
        if ours != theirs:
            terminal.say(
                console,
                f"warning: class {number} is {ours!r} of the model and {theirs!r} of "
                f"{source.name}: classes are compared by their numbers.",
            )
            return


def _warn_of_images(trained: Trained, source: Source, console: Console) -> None:
    """Warns if these are not the images that a model's run was evaluated on."""
    workdir = trained.workdir
    if workdir is None:
        known, says = pictures.is_evaluated_on(trained.card, source), "its card"
    else:
        known, says = pictures.is_described(workdir.data, source), str(workdir.data)
    if not known:
        terminal.say(
            console,
            f"warning: the run of {trained.name} was evaluated on other images than these "
            f"{len(source)}, as {says} says: it may have been trained on some of them. Put the "
            "images back, evaluate models of other seeds each by itself, or evaluate new images "
            "alone by --dataset=folder --data_dir=DIR --split=all.",
        )


def _warn_of_last_batch(examples: int, batch_size: int, console: Console) -> None:
    """Warns if the last minibatch is smaller than the others and so has other statistics."""
    if examples > batch_size and (rest := examples % batch_size):
        terminal.say(
            console,
            f"warning: the last minibatch has {rest} of the {examples} images, and the statistics "
            f"of those alone: choose a --batch_size that divides {examples}.",
        )
