import dataclasses
import io
import json
import os
import subprocess
import sys

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
import multiprocessing, os, signal, time
from zoo.evidence import runs

def work():
    runs.end_with_parent()
    print(os.getpid(), flush=True)
    time.sleep(600)

if __name__ == "__main__":
    child = multiprocessing.get_context("spawn").Process(target=work)
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


class _Killed:
    """Ends the process that it is sent to."""

    def __reduce__(self):
        return os._exit, (1,)


def test_a_process_that_is_killed_is_reported(tmp_path):
    """As by the kernel, when memory ends."""
    killed = dataclasses.replace(run("first"), keys={"num_steps": _Killed()})
    with pytest.raises(UserError, match=r"was killed.* --processes=1 takes the least memory\."):
        run_all([killed], tmp_path, 2, console())
