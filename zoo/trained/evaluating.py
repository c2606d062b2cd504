"""A trained model on labelled images: how often it is right, and what it takes for what."""

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table
from rich.text import Text

from keras_renorm import statistics as population
from zoo.data.sources import Source
from zoo.errors import UserError, as_user_errors
from zoo.trained import images
from zoo.trained.opening import Trained, open_trained, open_workdir
from zoo.trained.recalibrating import set_precise_statistics
from zoo.trained.scores import Scores
from zoo.training import pictures
from zoo.training.cli import terminal
from zoo.training.storage import files

#: A table with more classes than that is left to the JSON file.
_MOST_ROWS = 40


def evaluate(
    console: Console,
    *,
    workdir: str | None = None,
    model: str | None = None,
    dataset: str | None = None,
    split: str | None = None,
    data_dir: str | None = None,
    batch_size: int | None = None,
    statistics: str = "moving",
    num_samples: int = 2000,
    output: str | None = None,
) -> dict[str, Any]:
    """Evaluates a model, prints tables and writes the report.

    Which statistics the normalization layers use is a choice of its own: the moving averages of
    training; those of a pass over training images with the final weights; or each minibatch's own,
    as in training, of which `virtual_batch_size` images are normalized together if the run did so.

    Args:
        console: Where to print the tables.
        workdir: Working directory of a finished run.
        model: Instead of it a working directory, a .keras file or the name of a checkpoint.
        dataset: Name of the data set; the run's own by default.
        split: Split of the data set; by default the run's for evaluation.
        data_dir: Where the data set is; the run's by default.
        batch_size: Examples at a time; the run's by default.
        statistics: "moving", "precise" or "minibatch".
        num_samples: With "precise", from how many training images.
        output: JSON file to write; by default `evaluation.json` of a working directory, which is
            replaced, and none of another model.

    Returns:
        The report, as it is written.

    Raises:
        UserError: When there is no such model or data set, or the two do not fit.
    """
    if (workdir is None) == (model is None):
        raise UserError(
            "Say what to evaluate: --workdir=DIR, or --model=FILE or NAME; one of them."
        )
    trained = open_trained(model) if model is not None else open_workdir(str(workdir))
    path = _output(output, trained)

    def say(text: str) -> None:
        terminal.say(console, text)

    source = images.open_for(trained, say, dataset=dataset, split=split, data_dir=data_dir)
    size = batch_size or trained.config["eval_batch_size"]
    if statistics == "precise":
        train = pictures.open_split(
            {**trained.config, "dataset": source.name, "data_dir": data_dir or _data_dir(trained)},
            "train",
            console,
        )
        set_precise_statistics(trained, train, size, num_samples, console)
    begin = time.perf_counter()
    with contextlib.ExitStack() as stack:
        if statistics == "minibatch":
            stack.enter_context(as_user_errors(ValueError))
            stack.enter_context(population.batch_statistics(trained.model))
            _warn_of_last_batch(len(source), size, console)
        scores = _scores(trained, source, size)
    report = _report(trained, source, scores, time.perf_counter() - begin)
    report |= {
        "statistics": statistics,
        "num_samples": num_samples if statistics == "precise" else None,
        "batch_size": size,
    }
    # What took so long is shown in any case.
    _print_report(report, trained, console)
    _write(report, path, console)
    return report


def _data_dir(trained: Trained) -> str | None:
    found: str | None = trained.config["data_dir"]
    return found


def _output(output: str | None, trained: Trained) -> Path | None:
    """Returns the file to write: only that of a working directory may be there."""
    if output is None:
        return trained.workdir.evaluation if trained.workdir else None
    path = Path(output).expanduser()
    if path.exists():
        raise UserError(f"{path} exists already and is not overwritten: choose another --output.")
    if not path.parent.is_dir():
        raise UserError(f"There is no folder {path.parent} to write {path.name} to.")
    return path


def _write(report: Mapping[str, Any], path: Path | None, console: Console) -> None:
    if path is None:
        return
    try:
        files.write_json(path, report)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}.") from error
    terminal.say(console, f"written to {path}")


def _scores(trained: Trained, source: Source, batch_size: int) -> Scores:
    model = trained.classifier
    predict = tf.function(lambda x: model(x, training=False), reduce_retracing=True)
    scores = Scores(source.num_classes)
    with pictures.reading_errors_named():
        for x, labels in images.batches(trained, source, batch_size):
            scores.add(np.asarray(predict(x), np.float32), labels.numpy())
    return scores


def _report(trained: Trained, source: Source, scores: Scores, seconds: float) -> dict[str, Any]:
    names = trained.card.class_names
    return {
        "accuracy": scores.accuracy,
        "top5_accuracy": scores.top5_accuracy,
        "loss": scores.loss,
        "num_examples": scores.num_examples,
        "seconds": seconds,
        "dataset": source.name,
        "split": source.split,
        "model": trained.card.model,
        "norm": trained.card.norm,
        "steps": trained.config["num_steps"] if trained.workdir else None,
        "model_file": trained.file.name if trained.file else trained.name,
        "model_sha256": files.sha256(trained.file) if trained.file else None,
        "classes": [
            {"name": name, **found} for name, found in zip(names, scores.per_class(), strict=True)
        ],
        "confusion": scores.confusion.tolist(),
        "most_confused": [
            {"class": names[i], "taken_for": names[j], "examples": n}
            for i, j, n in scores.most_confused()
        ],
    }


def _warn_of_last_batch(examples: int, batch_size: int, console: Console) -> None:
    """Says when the last minibatch is smaller than the others and so has other statistics."""
    if examples > batch_size and (rest := examples % batch_size):
        terminal.say(
            console,
            f"warning: the last minibatch has {rest} of the {examples} images, and the statistics "
            f"of those alone: choose a --batch_size that divides {examples}.",
        )


def _print_report(report: Mapping[str, Any], trained: Trained, console: Console) -> None:
    """Prints an evaluation as tables."""
    at_a_time = min(report["batch_size"], report["num_examples"])
    statistics = {
        "moving": "moving",
        "precise": f"precise, of {report['num_samples']} training images",
        "minibatch": f"minibatch, of {at_a_time} images at a time",
    }
    after = f" after {report['steps']} steps" if report["steps"] else ""
    terminal.print_table(
        console,
        f"{report['model']} with norm={report['norm'] or 'its own'}{after}",
        [
            ("statistics", statistics[report["statistics"]]),
            ("accuracy", f"{100 * report['accuracy']:.2f} %"),
            ("top 5", f"{100 * report['top5_accuracy']:.2f} %"),
            ("loss", f"{report['loss']:.4f}"),
            ("examples", f"{report['num_examples']} of {report['dataset']}, {report['split']}"),
            ("time", terminal.duration(report["seconds"])),
            ("model", str(trained.file or trained.name)),
        ],
    )
    if len(report["classes"]) <= _MOST_ROWS:
        console.print(_class_table(report))
    for mistake in report["most_confused"]:
        terminal.say(
            console,
            f"{mistake['class']} taken for {mistake['taken_for']}: {mistake['examples']} times",
        )


def _class_table(report: Mapping[str, Any]) -> Table:
    """A line for each class: its examples, what was found of it, and what of it is right."""
    table = Table("class", "examples", "recall", "precision")
    for found in report["classes"]:
        shares = [found[key] for key in ("recall", "precision")]
        words = ["-" if share is None else f"{100 * share:.1f} %" for share in shares]
        table.add_row(Text(found["name"]), str(found["examples"]), *words)
    return table
