import dataclasses
import io
import re

import pytest
from rich.console import Console
from rich.text import Text

from zoo.training.records.display import open_display
from zoo.training.records.metrics import Record

TRAIN = Record(50, "train", 0.5, 0.75, 0.02, 3.0, 5.0, 12345.6, 1.0)
TEST = Record(50, "test", 0.25, 0.875, 0.02, 3.0, 5.0, 1e4, 1.0)


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=60)


@pytest.fixture
def terminal():
    return Console(file=io.StringIO(), width=80, force_terminal=True, _environ={})


def test_a_pipe_gets_a_line_for_each_record(console, monkeypatch):
    clock = iter([100.0, 105.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    with open_display(console, step=0, num_steps=600) as display:
        display.advance(50)
        display.show(TRAIN)
        display.show(TEST)
    # 50 steps took 5 s, so 550 take 55.
    assert console.file.getvalue() == (
        "step 50/600: train loss 0.5000, accuracy 75.00 %, 12,346 images/s, 0:00:55 left\n"
        "step 50/600: test loss 0.2500, accuracy 87.50 %\n"
    )


def test_the_time_left_counts_the_steps_of_this_process(console, monkeypatch):
    clock = iter([100.0, 105.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    with open_display(console, step=40, num_steps=150) as display:
        display.show(TRAIN)
    # 10 steps took 5 s, so the 100 that are left take 50.
    assert "0:00:50 left" in console.file.getvalue()


def test_a_terminal_of_80_columns_shows_all(terminal):
    record = dataclasses.replace(TRAIN, loss=10.5, accuracy=1.0, images_per_second=1234567.0)
    with open_display(terminal, step=0, num_steps=1_000_000) as display:
        display.advance(500_000)
        display.show(record)
        display.show(TEST)
    shown = Text.from_ansi(terminal.file.getvalue()).plain
    assert "…" not in shown
    *_, bar, words = shown.rstrip().splitlines()
    assert re.fullmatch(r"training .*━{10,}.* 500000/1000000 \S+ left", bar.rstrip())
    assert words.rstrip() == "loss 10.5000, accuracy 100.00 %, 1,234,567 images/s"
    assert "step 50: test loss 0.2500, accuracy 87.50 %" in shown
