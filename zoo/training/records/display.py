"""How far a run has come: a progress bar, or plain lines."""

import contextlib
import time
from collections.abc import Iterable, Iterator
from typing import TypeAlias

from rich import progress
from rich.console import Console, RenderableType
from rich.text import Text

from zoo.training.cli import terminal
from zoo.training.records.metrics import Record


class _DescribedProgress(progress.Progress):
    """A bar with its description on a line below.

    Beside the bar, loss, accuracy and speed leave no room for steps and time in 80 columns.
    """

    def get_renderables(self) -> Iterable[RenderableType]:
        """Returns the two lines."""
        yield from super().get_renderables()
        yield from (Text(task.description) for task in self.tasks)


class _BarDisplay:
    """A progress bar with the newest loss, accuracy and speed below it, for terminals.

    Args:
        bar: A bar that was started.
        step: Steps done before.
        num_steps: Steps to do in all.
    """

    def __init__(self, bar: progress.Progress, step: int, num_steps: int) -> None:
        self._bar = bar
        self._task = bar.add_task("starting", total=num_steps, completed=step)

    def advance(self, step: int) -> None:
        """Moves the bar."""
        self._bar.update(self._task, completed=step)

    def show(self, record: Record) -> None:
        """Puts a training record below the bar and a test record above it."""
        if record.split == "train":
            words = f"{_describe(record)}, {record.images_per_second:,.0f} images/s"
            self._bar.update(self._task, description=words)
        else:
            terminal.say(
                self._bar.console, f"step {record.step}: {record.split} {_describe(record)}"
            )


class _LineDisplay:
    """A line for every record, for files and pipes. Its clock starts when it is made.

    Args:
        console: Where to print.
        step: Steps done before.
        num_steps: Steps to do in all.
    """

    def __init__(self, console: Console, step: int, num_steps: int) -> None:
        self._console = console
        self._first_step = step
        self._num_steps = num_steps
        self._start = time.perf_counter()

    def advance(self, step: int) -> None:
        """Prints nothing: a step is not worth a line."""

    def show(self, record: Record) -> None:
        """Prints a record, a training record with the time left."""
        line = f"step {record.step}/{self._num_steps}: {record.split} {_describe(record)}"
        if record.split == "train":
            per_step = (time.perf_counter() - self._start) / (record.step - self._first_step)
            left = terminal.duration(per_step * (self._num_steps - record.step))
            line += f", {record.images_per_second:,.0f} images/s, {left} left"
        terminal.say(self._console, line)


def _describe(record: Record) -> str:
    """Returns loss and accuracy of a record in words."""
    return f"loss {record.loss:.4f}, accuracy {100 * record.accuracy:.2f} %"


#: What `advance`s to a step and `show`s a record.
Display: TypeAlias = _BarDisplay | _LineDisplay


@contextlib.contextmanager
def open_display(console: Console, step: int, num_steps: int) -> Iterator[Display]:
    """Yields a bar for a terminal and lines for anything else.

    Args:
        console: Where to show it.
        step: Steps done before.
        num_steps: Steps to do in all.
    """
    if not console.is_terminal:
        yield _LineDisplay(console, step, num_steps)
        return
    columns = (
        progress.TextColumn("training"),
        progress.BarColumn(bar_width=None),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
        progress.TextColumn("left"),
    )
    with _DescribedProgress(*columns, console=console, speed_estimate_period=60) as bar:
        yield _BarDisplay(bar, step, num_steps)
