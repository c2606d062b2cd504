"""What programs print: lines, tables, and commands to copy."""

import os
import sys
from collections.abc import Iterable
from datetime import timedelta

from rich.console import Console
from rich.table import Table
from rich.text import Text


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
