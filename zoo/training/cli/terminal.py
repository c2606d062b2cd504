"""What programs print: lines, tables, and commands to copy."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any, TextIO, TypeVar

from rich.console import Console
from rich.table import Table
from rich.text import Text

_T = TypeVar("_T")


class LastingConsole(Console):
    """A console for what must not end because its output cannot be written any more.

    Nobody reads it, as where `tee` dies; its terminal is closed; or the disk of its file is full.
    Rich ends the program at the first of these, without a word, and at the others with an error
    that names no file.
    """

    def __init__(self) -> None:
        # A program that was started without stdout has none; rich prints nothing then.
        file: Any = None if sys.stdout is None else _LastingFile(sys.stdout)
        super().__init__(file=file)


class _LastingFile:
    """Standard output, which nothing is printed to from the first failure on."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> int:
        """Writes a text."""
        return self._lasting(lambda: self._file.write(text)) or 0

    def flush(self) -> None:
        """Hands what was written to the operating system."""
        self._lasting(self._file.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def _lasting(self, action: Callable[[], _T]) -> _T | None:
        """Runs an action; where it fails, leaves the output to nowhere, and says so on stderr."""
        try:
            return action()
        except OSError as error:
            if isinstance(error, BrokenPipeError):
                warning = "warning: nobody reads the output: it ends here."
            else:
                warning = f"warning: {_output_name()}: {error.strerror}: the output ends here."
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), self._file.fileno())
            try:
                print(warning, file=sys.stderr, flush=True)
            except OSError:  # 2>&1
                os.dup2(nowhere.fileno(), sys.stderr.fileno())
        return None


def _output_name() -> str:
    """Returns what stdout is: a file's path where that is known."""
    try:
        name = os.readlink(f"/proc/self/fd/{sys.stdout.fileno()}")
    except (OSError, ValueError):
        name = ""
    return name if name.startswith("/") else "stdout"


@contextlib.contextmanager
def patience(console: Console, doing: str, seconds: float = 20.0) -> Iterator[None]:
    """Says what takes so long while the body runs, at first after some seconds.

    Args:
        console: Where to say it.
        doing: What the body does, such as "building the model".
        seconds: When to say it first, and then after twice, four times as long, and so on.

    Yields:
        Nothing.
    """
    done, begin = threading.Event(), time.monotonic()

    def speak() -> None:
        wait = seconds
        while not done.wait(begin + wait - time.monotonic()):
            say(console, f"still {doing}, for {duration(wait)} now")
            wait *= 2

    speaker = threading.Thread(target=speak, daemon=True)
    speaker.start()
    try:
        yield
    finally:
        done.set()
        speaker.join()


def say(console: Console, text: str) -> None:
    """Prints a line as it is, however wide the console is."""
    console.print(Text(text), soft_wrap=True)


def duration(seconds: float) -> str:
    """Returns a time in hours, minutes and seconds, as 0:01:05."""
    return str(timedelta(seconds=round(seconds)))


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
