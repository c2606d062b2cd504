import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from rich.console import Console

from zoo.errors import UserError
from zoo.evidence.experiment import Arm, Run
from zoo.evidence.runs import read, run_all

KEYS = {"num_steps": 4, "eval_every_steps": 2, "seed": 0}


def run(name, **keys):
    return Run(Arm(name, keys, ("minibatch",)), 0, "few_labels", KEYS | keys, name)


def console():
    return Console(file=io.StringIO())


@pytest.mark.slow
def test_runs_are_trained_measured_and_taken_up(tmp_path):
    runs = [run("first"), run("diverges", learning_rate=1e30, num_steps=30)]
    first, diverged = run_all(runs, tmp_path, 2, console())
    assert first.arm == "first"
    assert [step for step, _ in first.curve] == [2, 4]
    assert first.numbers["accuracy"] == first.curve[-1][1]
    assert set(first.numbers) >= {"minibatch", "best_accuracy"}
    assert diverged.numbers["diverged"] == 1
    assert diverged.numbers["accuracy"] == 0.1
    # A run that is finished is not run again.
    record = tmp_path / "first" / "measured.json"
    document = json.loads(record.read_text())
    document["numbers"]["accuracy"] = 0.123
    record.write_text(json.dumps(document))
    assert run_all(runs, tmp_path, 1, console())[0].numbers["accuracy"] == 0.123
    with pytest.raises(UserError, match="of a run with other keys"):
        run_all([run("first", norm="batch_norm")], tmp_path, 1, console())


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"flags": [], "curve": 3}', '{"flags": [], "curve": []}']
)
def test_a_damaged_record_is_named(tmp_path, text):
    path = tmp_path / "first" / "measured.json"
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(UserError, match=r"measured\.json is damaged: .* Remove it, and the same"):
        read(run("first"), tmp_path)


_PARENT = """
import multiprocessing, os, time
from zoo.evidence import runs

def work(ends):
    runs.end_with(ends)
    print(os.getpid(), flush=True)
    time.sleep(600)

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    ends, stays_open = context.Pipe(duplex=False)
    child = context.Process(target=work, args=(ends,))
    child.start()
    child.join(30)
"""


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(_PARENT)
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        assert int(parent.stdout.readline()) != parent.pid
        parent.kill()
        # The worker's output is closed when the worker ends, or else in ten minutes.
        assert parent.communicate(timeout=100) == ("", None)


_LONG = """
import signal
from pathlib import Path
from rich.console import Console
from zoo.evidence.experiment import Arm, Run
from zoo.evidence.runs import run_all
from zoo.training.cli import program
from zoo.training.cli.arguments import parse_flags
from zoo.training.cli.signals import as_interrupts

KEYS = {"num_steps": 10**6, "log_every_steps": 1, "seed": 0}

def main(folder):
    runs = [Run(Arm(n, {}, ()), 0, "few_labels", KEYS, n) for n in "abcdef"]
    with as_interrupts():
        run_all(runs, folder, 2, Console(quiet=True))

if __name__ == "__main__":
    # As in the foreground: a shell has what it starts in the background ignore SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    program.run(lambda argv: Path(parse_flags(argv)[1]), main, "")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "to_all", "status"),
    [
        (signal.SIGINT, True, 130),  # as a terminal sends a Ctrl-C
        (signal.SIGTERM, False, 143),
        (signal.SIGKILL, False, -9),
    ],
)
def test_a_signal_saves_the_runs_under_way_and_begins_no_other(long, number, to_all, status):
    parent, runs = long
    (os.killpg if to_all else os.kill)(parent.pid, number)
    # The workers hold the pipe, too.
    _, err = parent.communicate(timeout=100)
    assert parent.returncode == status
    if number != signal.SIGKILL:
        assert err == "error: interrupted.\n"
    assert sorted(path.name for path in runs.iterdir()) == ["a", "b"]
    for run in runs.iterdir():
        (saved,) = (run / "checkpoints").glob("step-*")
        assert int(saved.name.removeprefix("step-")) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.1, 0.4])
def test_a_second_ctrl_c_is_no_traceback(long, seconds):
    parent, runs = long
    os.killpg(parent.pid, signal.SIGINT)
    time.sleep(seconds)
    if parent.poll() is None:
        os.killpg(parent.pid, signal.SIGINT)
    _, err = parent.communicate(timeout=100)
    # Python's last moments know no handler. A shell reports 130 for a death by SIGINT as well.
    assert parent.returncode in (130, -signal.SIGINT)
    assert err == "error: interrupted.\n"
    assert sorted(path.name for path in runs.iterdir()) == ["a", "b"]


@pytest.fixture
def long(tmp_path):
    """A program that has begun two of six runs without an end, and their folder."""
    script, runs = tmp_path / "long.py", tmp_path / "runs"
    script.write_text(_LONG)
    command = [sys.executable, script, runs]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as parent:
        deadline = time.monotonic() + 300
        while not all(has_steps(runs / name) for name in "ab"):
            assert parent.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield parent, runs


def has_steps(run):
    path = run / "metrics.jsonl"
    return path.exists() and path.stat().st_size > 0


class _Killed:
    """Ends the process that it is sent to."""

    def __reduce__(self):
        return os._exit, (1,)


def test_a_process_that_is_killed_is_reported(tmp_path):
    """As by the kernel, when memory ends."""
    killed = dataclasses.replace(run("first"), keys={"num_steps": _Killed()})
    with pytest.raises(UserError, match=r"was killed.* --processes=1 takes the least memory\."):
        run_all([killed], tmp_path, 2, console())
