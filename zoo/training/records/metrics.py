"""`metrics.jsonl`: what was measured, one JSON object a line."""

import dataclasses
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zoo.errors import UserError
from zoo.training.storage import files


@dataclasses.dataclass(frozen=True)
class Record:
    """One line of `metrics.jsonl`.

    Attributes:
        step: Steps done when it was written.
        split: "train" for the mean over the steps since the line before, "test" for the test set,
            "test_averaged" for the test set with the averaged weights and statistics.
        loss: Mean cross-entropy in nats, without the weight decay.
        accuracy: Fraction of the examples whose most probable label is the right one.
        learning_rate: The rate that the schedule has for the last step. With float16 the optimizer
            is behind it by as many steps as loss scaling has skipped.
        r_max: Batch Renorm's limit of r for the next step; None without Batch Renorm, or where its
            statistics are frozen.
        d_max: Its limit of d, likewise.
        images_per_second: Over the same examples as the loss.
        seconds: Since the run began, summed over its interruptions without the pauses.
    """

    step: int
    split: str
    loss: float
    accuracy: float
    learning_rate: float
    r_max: float | None
    d_max: float | None
    images_per_second: float
    seconds: float


# The values of a record that are not plain numbers.
_TYPES: dict[str, Any] = {"step": int, "split": str}
_TYPES |= dict.fromkeys(("r_max", "d_max"), float | int | None)


def _record(values: dict[str, Any]) -> Record:
    """Returns the record of these values; raises a `TypeError` if they do not make one."""
    record = Record(**values)
    for name, value in values.items():
        if not isinstance(value, _TYPES.get(name, float | int)):
            raise TypeError(f"{name} is {value!r}")
    return record


def read(path: Path, report: Callable[[str], None] | None = None) -> list[Record]:
    """Returns the records of a `metrics.jsonl`.

    A last line that was cut off by a kill, or is being written now, is left out.

    Args:
        path: The file. One that does not exist has no records.
        report: Called with a sentence for each line that is not a record. The line is left out.

    Raises:
        UserError: When a line is not a record and `report` is None.
    """
    if not path.exists():
        return []
    if path.is_fifo() or path.is_socket():  # reading would wait for a writer
        raise UserError(f"{path} is no file: move it away.")
    *lines, cut_off = path.read_bytes().split(b"\n")
    del cut_off
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(_record(json.loads(line)))
        except (ValueError, TypeError) as error:
            problem = f"{path}: line {number} is damaged: {error}"
            if report is None:
                raise UserError(f"{problem}.") from error
            report(f"{problem}; it is left out.")
    return records


def read_evaluations(*paths: Path) -> list[list[Record]]:
    """Returns the records of the test set in each `metrics.jsonl`, as `read` does.

    Args:
        *paths: The files.

    Raises:
        UserError: When none of them holds one.
    """
    found = [[record for record in read(path) if record.split == "test"] for path in paths]
    if not any(found):
        raise UserError(
            f"{paths[0]} holds no evaluation: the run is too young for one, or its records are "
            "gone."
        )
    return found


class MetricsLog:
    """Appends records to a `metrics.jsonl`, in which no step is missing or stands twice.

    Args:
        path: The file.
        step: The step that the run resumes from: records of later steps are dropped, since the run
            writes them again. So are lines that are no records, which the loop has named.

    An evaluation that is done again, since one of its records was lost, writes that one only.
    """

    def __init__(self, path: Path, step: int) -> None:
        kept = [record for record in read(path, lambda problem: None) if record.step <= step]
        files.write_text(path, "".join(_line(record) for record in kept))
        self._path = path
        self._there = {(record.step, record.split) for record in kept}
        self._file = path.open("a", encoding="utf-8")

    def __enter__(self) -> "MetricsLog":
        """Returns the log."""
        return self

    def write(self, record: Record) -> None:
        """Appends a record, unless it is there; other programs can read it at once."""
        if (record.step, record.split) in self._there:
            return
        with files.naming(self._path):
            self._file.write(_line(record))
            self._file.flush()

    def sync(self) -> None:
        """Waits until every record is on the disk, as it must be before a checkpoint is."""
        with files.naming(self._path):
            os.fsync(self._file.fileno())

    def __exit__(self, *exception: object) -> None:
        """Closes the file."""
        with files.naming(self._path):
            self._file.close()


def _line(record: Record) -> str:
    """Returns a record as a line of JSON, which knows no NaN."""
    if not math.isfinite(record.loss):
        raise ValueError(f"A record needs a finite loss, received {record.loss}.")
    return json.dumps(dataclasses.asdict(record), allow_nan=False) + "\n"
