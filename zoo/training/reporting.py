"""What a user sees: a progress bar or plain lines, and the closing table."""

import os
import sys
import time
from collections.abc import Iterable
from datetime import timedelta
from types import TracebackType
from typing import Protocol, Self

from rich import progress
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from zoo.training.metrics import Record


class LastingConsole(Console):
    """A console for what must not end because nobody reads it any more, as where `tee` dies.

    Rich ends the program then, without a word.
    """

    def on_broken_pipe(self) -> None:
        """Prints nothing from now on, and says so once, on stderr."""
        self.quiet = True
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
            try:
                warning = "warning: nobody reads the output: it ends here."
                print(warning, file=sys.stderr, flush=True)
            except BrokenPipeError:  # 2>&1: nobody reads that, either
                os.dup2(nowhere.fileno(), sys.stderr.fileno())


def say(console: Console, text: str) -> None:
    """Prints a line as it is, however wide the console is."""
    console.print(Text(text), soft_wrap=True)


def duration(seconds: float) -> str:
    """Returns a time in hours, minutes and seconds, as 0:01:05."""
    return str(timedelta(seconds=round(seconds)))


def describe(record: Record) -> str:
    """Returns loss and accuracy of a record in words."""
    return f"loss {record.loss:.4f}, accuracy {100 * record.accuracy:.2f} %"


class Display(Protocol):
    """Shows how far a run has come; a context manager."""

    def __enter__(self) -> Self:
        """Starts showing."""

    def advance(self, step: int) -> None:
        """Shows that `step` steps are done."""

    def show(self, record: Record) -> None:
        """Shows a record."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stops showing."""


class _DescribedProgress(progress.Progress):
    """A bar with its description on a line below.

    Beside the bar, loss, accuracy and speed leave no room for steps and time in 80 columns.
    """

    def get_renderables(self) -> Iterable[RenderableType]:
        """Returns the two lines."""
        yield from super().get_renderables()
        yield from (Text(task.description) for task in self.tasks)


class BarDisplay:
    """A progress bar with the newest loss, accuracy and speed below it, for terminals.

    Args:
        console: A terminal.
        step: Steps done before.
        num_steps: Steps to do in all.
    """

    def __init__(self, console: Console, step: int, num_steps: int) -> None:
        self._console = console
        self._bar = _DescribedProgress(
            progress.TextColumn("training"),
            progress.BarColumn(bar_width=None),
            progress.MofNCompleteColumn(),
            progress.TimeRemainingColumn(),
            progress.TextColumn("left"),
            console=console,
            speed_estimate_period=60,
        )
        self._task = self._bar.add_task("starting", total=num_steps, completed=step)

    def __enter__(self) -> Self:
        """Draws the bar."""
        self._bar.start()
        return self

    def advance(self, step: int) -> None:
        """Moves the bar."""
        self._bar.update(self._task, completed=step)

    def show(self, record: Record) -> None:
        """Puts a training record below the bar and a test record above it."""
        if record.split == "train":
            words = f"{describe(record)}, {record.images_per_second:,.0f} images/s"
            self._bar.update(self._task, description=words)
        else:
            say(self._console, f"step {record.step}: test {describe(record)}")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leaves the bar as it is."""
        self._bar.stop()


class LineDisplay:
    """A line for every record, for files and pipes.

    Args:
        console: Where to print.
        step: Steps done before.
        num_steps: Steps to do in all.
    """

    def __init__(self, console: Console, step: int, num_steps: int) -> None:
        self._console = console
        self._first_step = step
        self._num_steps = num_steps

    def __enter__(self) -> Self:
        """Starts the clock."""
        self._start = time.perf_counter()
        return self

    def advance(self, step: int) -> None:
        """Prints nothing: a step is not worth a line."""

    def show(self, record: Record) -> None:
        """Prints a record, a training record with the time left."""
        line = f"step {record.step}/{self._num_steps}: {record.split} {describe(record)}"
        if record.split == "train":
            per_step = (time.perf_counter() - self._start) / (record.step - self._first_step)
            left = duration(per_step * (self._num_steps - record.step))
            line += f", {record.images_per_second:,.0f} images/s, {left} left"
        say(self._console, line)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Does nothing: there is nothing to close."""


def make_display(console: Console, step: int, num_steps: int) -> Display:
    """Returns a bar for a terminal and lines for anything else."""
    kind = BarDisplay if console.is_terminal else LineDisplay
    return kind(console, step, num_steps)


def print_table(console: Console, title: str, rows: Iterable[tuple[str, str]]) -> None:
    """Prints a title and a table of names and values."""
    say(console, title)
    table = Table(show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(Text(name), Text(value))
    console.print(table)


def print_commands(console: Console, commands: Iterable[tuple[str, str]]) -> None:
    """Prints what can be done next: (what for, command) each on a line to copy from."""
    say(console, "Next:")
    for purpose, command in commands:
        say(console, f"  {command}  # {purpose}")
