"""The launcher, with workers that need no TensorFlow. workers_test.py has real ones."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

LAUNCHER = pathlib.Path(__file__).parents[2] / "tools" / "launch_local_cluster.py"
WORKER = """
import json, os, signal, sys, time
task = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
"""


@pytest.fixture
def start(tmp_path):
    """Starts workers that run a piece of Python."""

    def start(count, code, *arguments):
        (tmp_path / "stub.py").write_text(WORKER + code)
        return subprocess.Popen(
            [
                sys.executable,
                str(LAUNCHER),
                f"-n{count}",
                "--module=stub",
                "--",
                *arguments,
            ],
            env=os.environ | {"PYTHONPATH": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def ended(process):
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err


def test_every_worker_gets_the_arguments_and_its_place_and_is_shown(start):
    code = "print(os.environ['TF_CONFIG']); print(sys.argv[1:], file=sys.stderr)"
    status, out, err = ended(start(3, code, "--workdir=x"))
    assert status == 0
    assert sorted(err.splitlines()) == [
        f"[worker {i}] ['--config.strategy=multi_worker', '--workdir=x']" for i in range(3)
    ]
    configs = [json.loads(line.split("] ", 1)[1]) for line in sorted(out.splitlines())]
    assert [config["task"] for config in configs] == [
        {"type": "worker", "index": i} for i in range(3)
    ]
    addresses = configs[0]["cluster"]["worker"]
    assert len(set(addresses)) == 3
    assert all(address.startswith("127.0.0.1:") for address in addresses)
    assert all(config["cluster"] == {"worker": addresses} for config in configs)


def test_the_first_to_fail_is_named_and_gives_the_status(start):
    status, _, err = ended(start(2, "time.sleep(0.5 * task); sys.exit(3 - task)"))
    assert (status, err) == (3, "error: worker 0 failed, status 3; the others have ended.\n")


def test_one_that_was_killed_is_named_before_those_that_failed_of_it(start):
    code = "os.kill(os.getpid(), signal.SIGKILL) if task == 1 else time.sleep(0.2); sys.exit(1)"
    status, _, err = ended(start(2, code))
    assert status == 128 + signal.SIGKILL
    assert err == "error: worker 1 was killed by SIGKILL; the others have ended.\n"


def test_one_that_does_not_end_is_made_to(tmp_path):
    (tmp_path / "stub.py").write_text(
        WORKER
        + "signal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(2 - task)\n"
        + "time.sleep(100) if task == 0 else sys.exit(1)"
    )
    code = (
        f"import runpy\nglobals().update(runpy.run_path({str(LAUNCHER)!r}))\n"
        "launch.__globals__.update(GRACE_SECONDS=2.0, KILL_SECONDS=1.0)\n"
        "raise SystemExit(launch(2, 'stub', []))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == (
        "error: worker 1 failed, status 1; worker 0 did not end and was stopped.\n"
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_passed_on_once_and_are_no_error(start, number):
    code = (
        "def note(number, frame):\n"
        "    print('received', number)\n"
        "    time.sleep(0.3)\n"
        "    sys.exit(128 + number)\n"
        "signal.signal(signal.SIGINT, note)\n"
        "signal.signal(signal.SIGTERM, note)\n"
        "print('ready')\n"
        "time.sleep(20)\n"
    )
    process = start(2, code)
    assert "ready" in process.stdout.readline()
    assert "ready" in process.stdout.readline()
    process.send_signal(number)
    status, out, err = ended(process)
    assert (status, err) == (128 + number, "")
    assert sorted(out.splitlines()) == [f"[worker {i}] received {number}" for i in range(2)]


def test_no_workers_at_all_is_a_mistake(start):
    status, _, err = ended(start(0, ""))
    assert status == 2
    assert "-n must be at least 1, received 0" in err
