"""Classifies image files with a trained model."""

import csv
import functools
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from zoo.errors import UserError
from zoo.trained import images
from zoo.trained.opening import open_trained, say_notes
from zoo.training.cli import terminal
from zoo.training.storage import files, places
from zoo.training.storage.writing import writing
from zoo.weights.record import Preprocessing

#: What can be written; the suffix of the file chooses.
FORMATS = (".json", ".csv")


def predict(
    model: str,
    names: list[str],
    console: Console,
    *,
    top: int = 5,
    output: str | None = None,
    batch_size: int = 32,
    pixels: Preprocessing | None = None,
) -> list[dict[str, Any]]:
    """Classifies image files.

    Args:
        model: A working directory, a .keras file or the name of a checkpoint.
        names: Files, and folders of them at any depth.
        console: Where to print a table.
        top: How many classes to name for each image.
        output: File to write, .json or .csv; it must not exist.
        batch_size: Images at a time.
        pixels: What a .keras file takes, if it does not say so.

    Returns:
        For each file its path and `classes`, the most probable first, each with a probability; or
        its `problem`, if it is no image that can be read.

    Raises:
        UserError: If something does not exist.
    """
    path = None if output is None else _new_file(output)
    say = functools.partial(terminal.say, console)
    trained = open_trained(model, pixels=pixels)
    found = images.find_files(names, trained)
    say_notes(trained, console)
    with terminal.patience(console, "classifying"):
        probabilities, _ = images.probabilities(trained, found.source, batch_size)
    classes = trained.card.class_names
    predictions: list[dict[str, Any]] = []
    for name, row in zip(found.paths, probabilities, strict=True):
        order = np.argsort(-row, kind="stable")[:top]
        best = [{"name": classes[i], "probability": float(row[i])} for i in order]
        predictions.append({"path": name, "classes": best})
    predictions += [{"path": bad, "problem": why} for bad, why in found.problems.items()]
    _print(predictions, console)
    if path is not None:
        text = _as_json(predictions) if path.suffix == ".json" else _as_csv(predictions)
        with writing(path):
            files.write_text(path, text, existing=False)
        say(f"written to {path}")
    return predictions


def _new_file(output: str) -> Path:
    suffix = Path(output).suffix
    if suffix not in FORMATS:
        raise UserError(f"--output must end in {' or '.join(FORMATS)}, received {output}.")
    return places.new_path(output, suffix)


def _shown(path: str) -> str:
    """A path as it may be printed and written, whatever bytes it has."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _print(predictions: list[dict[str, Any]], console: Console) -> None:
    table = Table(Column("file", overflow="fold"), "class", "probability", "then")
    for one in predictions:
        if "problem" in one:
            table.add_row(Text(_shown(one["path"])), Text(f"it {one['problem']}"), "", "")
            continue
        first, *others = one["classes"]
        then = ", ".join(f"{c['name']} {100 * c['probability']:.1f} %" for c in others[:2])
        share = f"{100 * first['probability']:.1f} %"
        table.add_row(Text(_shown(one["path"])), Text(first["name"]), share, Text(then))
    terminal.show(console, table)


def _as_json(predictions: list[dict[str, Any]]) -> str:
    shown = [{**one, "path": _shown(one["path"])} for one in predictions]
    return json.dumps(shown, indent=2, ensure_ascii=False) + "\n"


def _as_csv(predictions: list[dict[str, Any]]) -> str:
    """A line for each file and class: path, rank, class, probability, problem."""
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(["path", "rank", "class", "probability", "problem"])
    for one in predictions:
        path = _shown(one["path"])
        for rank, found in enumerate(one.get("classes", []), start=1):
            writer.writerow([path, rank, found["name"], f"{found['probability']:.6g}", ""])
        if "problem" in one:
            writer.writerow([path, "", "", "", one["problem"]])
    return lines.getvalue()
