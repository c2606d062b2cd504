import io
import time

import pytest
from rich.console import Console

from zoo.training.cli import terminal


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=60)


def test_a_line_is_not_wrapped_nor_read_as_markup(console):
    line = "runs/[red]" + "x" * 100
    terminal.say(console, line)
    assert console.file.getvalue() == line + "\n"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00:00"), (65.2, "0:01:05"), (3600.0, "1:00:00")]
)
def test_duration(seconds, text):
    assert terminal.duration(seconds) == text


def test_a_table_holds_its_values_whole_even_if_folded():
    console = Console(file=io.StringIO(), width=60, force_terminal=True, color_system=None)
    value = "/a/very/long/path/" * 5
    terminal.print_table(console, "Title [0]", [("model", value), ("n", "[3]")])
    title, *rows = console.file.getvalue().splitlines()
    assert title == "Title [0]"
    cells = "".join(row.split("│")[2].strip() for row in rows if "│" in row)
    assert cells == value + "[3]"


def test_a_table_in_a_file_is_as_wide_as_it_is(console):
    value = "/a/very/long/path/" * 300
    terminal.print_table(console, "Title", [("model", value)])
    assert f"│ model │ {value} │\n" in console.file.getvalue()


def test_commands_can_be_copied(console):
    command = "python -m zoo.plot " + "x" * 80
    terminal.print_commands(console, [("the curves", command)])
    assert console.file.getvalue() == f"Next:\n  {command}  # the curves\n"


def test_patience_speaks_after_a_while_and_then_less_often(console):
    with terminal.patience(console, "building", seconds=0.05):
        time.sleep(0.3)
    lines = console.file.getvalue().splitlines()
    assert lines == ["still building, for 0:00:00 now"] * len(lines)
    assert 2 <= len(lines) <= 3
    with terminal.patience(console, "building", seconds=5):
        pass
    assert len(console.file.getvalue().splitlines()) == len(lines)
