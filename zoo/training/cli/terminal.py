"""What programs print: lines, tables, and commands to copy."""

import contextlib
import threading
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta

from rich.console import Console
from rich.table import Table
from rich.text import Text

#: Columns of a file, which has none of its own: a path may have 4,096 characters.
_WIDEST = 10_000


@contextlib.contextmanager
def patience(console: Console, doing: str, seconds: float = 20.0) -> Iterator[None]:
    """Says what takes so long while the body runs.

    Args:
        console: Where to say it.
        doing: What the body does, such as "building the model".
        seconds: When to say it first; then after twice, four times as long, and so on.

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
    show(console, table)


def show(console: Console, table: Table) -> None:
    """Prints a table: in a file or pipe, where names are searched for, as wide as it is."""
    if not console.is_terminal:
        console = Console(file=console.file, width=_WIDEST, quiet=console.quiet)
    console.print(table)


def print_commands(console: Console, commands: Iterable[tuple[str, str]]) -> None:
    """Prints what can be done next: (what for, command) each on a line to copy from."""
    say(console, "Next:")
    for purpose, command in commands:
        say(console, f"  {command}  # {purpose}")
