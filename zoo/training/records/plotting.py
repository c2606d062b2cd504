"""Curves of one or several runs as a picture."""

import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoo.errors import UserError
from zoo.training.config import differences
from zoo.training.keys import KEYS
from zoo.training.records import metrics
from zoo.training.storage import files
from zoo.training.storage.workdir import Workdir

_FORMATS = (".pdf", ".png", ".svg")

# Keys that say nothing about the curves.
_BOOKKEEPING = {name for name, key in KEYS.items() if key.free}

# The figure is as wide as this many columns of the legend's text.
_LEGEND_WIDTH = 80

# Inches: the figure's sides without the legend, and what a line and an entry of the legend add.
_SIDE, _LINE, _ENTRY = 7.0, 0.17, 0.07

# A run has diverged if its loss is this many times that of the others.
_DIVERGED = 10


def plot_workdirs(paths: Sequence[str], output: Path, *, overwrite: bool = False) -> list[str]:
    """Draws test accuracy and test loss against steps, a line for each run.

    Args:
        paths: Working directories of the runs, finished or not.
        output: The picture's file; its suffix is the format.
        overwrite: Whether to replace a file that exists.

    Returns:
        The `paths` that are not in the picture because they hold no evaluation.

    Raises:
        UserError: When a folder is no run, none holds an evaluation, or the picture cannot be
            written.
    """
    _check_output(output, overwrite)
    configs = [Workdir(path).read_config() for path in paths]
    curves = metrics.read_evaluations(*(Workdir(path).metrics for path in paths))
    drawn = [i for i, records in enumerate(curves) if records]
    labels = legend([paths[i] for i in drawn], [configs[i] for i in drawn])
    figure = _draw(labels, [curves[i] for i in drawn])
    try:
        with files.replacing(output) as temporary:
            figure.savefig(temporary, dpi=150, bbox_inches="tight")
    except OSError as error:
        raise UserError(f"--output={output} cannot be written: {error.strerror}.") from error
    return [path for path, records in zip(paths, curves, strict=True) if not records]


def legend(paths: Sequence[str], configs: Sequence[dict[str, Any]]) -> list[str]:
    """Returns a name for each run: the keys and values in which its config differs from others.

    Keys that say nothing about the curves are left out. Runs that no other key tells apart are
    named by their folders.

    Args:
        paths: The runs' folders.
        configs: The runs' configs.

    Returns:
        A name for each run; no two are equal unless their folders are.
    """
    different = {key for config in configs for key in differences(configs[0], config)}
    keys = sorted(different - _BOOKKEEPING)
    names = [
        ", ".join(f"{key}={_short(config.get(key, 'not set'))}" for key in keys)
        for config in configs
    ]
    return [
        name if name and names.count(name) == 1 else ", ".join(filter(None, (path, name)))
        for path, name in zip(paths, names, strict=True)
    ]


def _short(value: Any) -> str:
    """Returns a value as a person would write it: 0.3 and not 0.30000000000000004."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def loss_limit(curves: Sequence[Sequence[metrics.Record]]) -> float | None:
    """Returns where the axis of the loss ends, or None to show all losses.

    A run that has diverged would flatten the curves of the others. The axis then ends at twice the
    median of the runs' highest losses.

    Args:
        curves: The records of each run.
    """
    highest = sorted(max(record.loss for record in records) for records in curves)
    usual = highest[(len(highest) - 1) // 2]
    return 2 * usual if highest[-1] > _DIVERGED * usual else None


def _check_output(output: Path, overwrite: bool) -> None:
    """Raises a `UserError` if the picture must not be written there."""
    if output.suffix.lower() not in _FORMATS:
        raise UserError(f"--output={output} must end in one of {', '.join(_FORMATS)}.")
    if os.path.lexists(output) and not overwrite:  # a dangling link is in the way, too
        raise UserError(f"{output} exists: add --overwrite, or choose another --output.")
    if not output.parent.is_dir():
        raise UserError(f"--output={output}: {output.parent} is not a folder.")


def _draw(labels: Sequence[str], curves: Sequence[Sequence[metrics.Record]]) -> Any:
    """Returns a matplotlib figure with accuracy above loss and the legend above both."""
    # The object interface: no pyplot, so no display and no global state.
    from matplotlib.figure import Figure

    labels = [textwrap.fill(label, _LEGEND_WIDTH) for label in labels]
    lines = sum(label.count("\n") + 1 for label in labels)
    height = _SIDE + _LINE * lines + _ENTRY * len(labels)
    figure = Figure(figsize=(_SIDE, height), layout="constrained")
    accuracy, loss = figure.subplots(2, sharex=True)
    handles = []
    for records in curves:
        steps = [record.step for record in records]
        marker = "." if len(records) < 20 else ""
        percent = [100 * record.accuracy for record in records]
        handles += accuracy.plot(steps, percent, marker=marker)
        loss.plot(steps, [record.loss for record in records], marker=marker)
    accuracy.set_ylabel("test accuracy (%)")
    limit = loss_limit(curves)
    loss.set_ylabel("test cross-entropy (nats)" + (", cut off" if limit else ""))
    loss.set_ylim(0, limit)
    loss.set_xlabel("steps")
    for axes in (accuracy, loss):
        axes.grid(alpha=0.3)
    legend = figure.legend(handles, map(str, range(len(labels))), loc="outside upper left")
    # Set afterwards: `legend` leaves out a label that begins with "_", and reads formulas.
    for text, label in zip(legend.get_texts(), labels, strict=True):
        text.set(text=label, parse_math=False)
    return figure
