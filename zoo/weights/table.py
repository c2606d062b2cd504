"""The models and the checkpoints as tables that fit the terminal."""

import fnmatch
from collections.abc import Callable, Iterable
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from zoo.catalog import ENTRIES, Entry
from zoo.errors import UserError, nearest
from zoo.weights.record import Record
from zoo.weights.records import RECORDS

#: Heading, width of the terminal from which on the column is shown, and its text.
_MODEL_COLUMNS: tuple[tuple[str, int, Callable[[str, Entry], str]], ...] = (
    ("model", 0, lambda name, entry: name),
    ("input", 40, lambda name, entry: _shape(entry.input_shape)),
    ("classes", 60, lambda name, entry: str(entry.num_classes)),
    ("what it is", 76, lambda name, entry: entry.source),
)
_WEIGHT_COLUMNS: tuple[tuple[str, int, Callable[[str, Record], str]], ...] = (
    ("weights", 0, lambda name, record: name),
    ("top-1", 44, lambda name, record: "" if record.top1 is None else f"{record.top1:.1f} %"),
    ("params", 56, lambda name, record: f"{record.parameters / 1e6:.1f} M"),
    ("MB", 64, lambda name, record: _megabytes(record)),
    ("input", 78, lambda name, record: _shape(record.input_shape)),
    ("pixels", 96, lambda name, record: record.preprocessing),
    ("data", 112, lambda name, record: record.dataset),
    ("top-1 from", 130, lambda name, record: record.top1_source),
    ("origin", 150, lambda name, record: record.origin),
    ("licence", 170, lambda name, record: record.licence),
)


def print_tables(console: Console, pattern: str = "*") -> None:
    """Prints the models and the checkpoints whose names match a pattern.

    A narrow terminal gets fewer columns, so that names stay whole.

    Args:
        console: Where to print.
        pattern: Shell pattern, such as "resnet50*".

    Raises:
        UserError: If nothing matches.
    """
    models = sorted(fnmatch.filter(ENTRIES, pattern))
    weights = sorted(fnmatch.filter(RECORDS, pattern))
    if not models and not weights:
        raise UserError(
            f"No model and no weights match {pattern!r}.{nearest(pattern, [*ENTRIES, *RECORDS])} "
            "Without a pattern all are listed; * stands for any letters, as in 'resnet50*'."
        )
    if models:
        _print(console, _MODEL_COLUMNS, ((name, ENTRIES[name]) for name in models))
    if weights:
        _print(console, _WEIGHT_COLUMNS, ((name, RECORDS[name]) for name in weights))
        hidden = [heading for heading, width, _ in _WEIGHT_COLUMNS if console.width < width]
        if hidden:
            console.print(Text(f"A terminal of 170 columns shows {', '.join(hidden)}, too."))


def _print(console: Console, columns: Iterable[Any], items: Iterable[tuple[str, Any]]) -> None:
    """Prints the columns for which there is room."""
    shown = [column for column in columns if console.width >= column[1]]
    table = Table(*(heading for heading, _, _ in shown))
    for number, column in enumerate(table.columns):
        column.overflow = "fold"
        column.no_wrap = number == 0 and console.width >= 44
    for name, item in items:
        table.add_row(*(Text(text(name, item)) for _, _, text in shown))
    console.print(table)


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _megabytes(record: Record) -> str:
    """The size of the file, or with a ~ that of its parameters if the file's is unknown."""
    if record.bytes is None:
        return f"~{record.parameters * 4 / 1e6:.0f}"
    return f"{record.bytes / 1e6:.{0 if record.bytes > 1e7 else 1}f}"
