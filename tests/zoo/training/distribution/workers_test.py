"""Two real workers on the loopback interface."""

import json
import os
import pathlib
import signal
import time

import keras
import numpy as np
import pytest

import keras_renorm  # noqa: F401 - its layers are in the saved models

TALK = """
from zoo.training.distribution.clusters import read_cluster
from zoo.errors import UserError
from zoo.training.cli.runtime import load_tensorflow
load_tensorflow(quiet=True)
import numpy as np
import tensorflow as tf
from zoo.training.distribution.strategies import make_strategy
from zoo.training.distribution.workers import Workers

cluster = read_cluster("multi_worker")
me = cluster.index
workers = Workers(make_strategy({"strategy": "multi_worker", "batch_size": 2}, cluster), cluster)

def fail(*indices):
    if me in indices:
        raise OSError(f"no disk on {me}")
    return me

def attempt(action):
    try:
        print(action())
    except UserError as error:
        print(str(error).replace(cluster.describe(1), "WORKER 1"))

attempt(lambda: workers.is_chief)
attempt(lambda: workers.exchange({"é": [me, 0.1 + 0.2], "long": "x" * me}))
attempt(lambda: workers.together(fail))
attempt(lambda: workers.together(lambda: fail(1)))
attempt(lambda: workers.chiefs(lambda: {"from": me}))
attempt(lambda: workers.chiefs(lambda: fail(1)))
attempt(lambda: workers.check_config({"seed": 3, "norm": "none"}))
attempt(lambda: workers.check_config({"seed": me, "norm": "none"}))

values = [-0.0, 0.0, 1e-42, 0.1, float("nan"), float("-inf")]
floats = tf.Variable(tf.constant(values) if me == 0 else tf.ones(6))
counter = tf.Variable(tf.constant(2**40 + 1, tf.int64) if me == 0 else tf.constant(5, tf.int64))
workers.copy_from_chief([floats, counter])
print(floats.numpy().tobytes() == np.float32(values).tobytes(), int(counter))
"""


@pytest.fixture
def talk(start_cluster):
    process = start_cluster(2, code=TALK)
    out, err = process.communicate(timeout=90)
    assert (process.returncode, err) == (0, "")
    lines = [line.split("] ", 1) for line in out.splitlines()]
    return [[text for who, text in lines if who == f"[worker {i}"] for i in range(2)]


def test_what_workers_tell_each_other(talk):
    exchanged = [{"é": [0, 0.1 + 0.2], "long": ""}, {"é": [1, 0.1 + 0.2], "long": "x"}]
    both = [
        "WORKER 1: no disk on 1",
        str({"from": 0}),
        "0",
        "None",
        "WORKER 1 was started with another config than the chief: seed (chief 0, it 1). Start all "
        "workers with the same command.",
        f"True {2**40 + 1}",
    ]
    assert talk[0] == ["True", str(exchanged), "0", *both]
    assert talk[1] == ["False", str(exchanged), "1", *both]


# Every worker prints a checksum of its weights at the end.
TRAIN = """
import hashlib
from zoo import train
from zoo.training.cli.runtime import load_tensorflow
load_tensorflow(quiet=True)
from zoo.training import loop

class Shown(loop.Trainer):
    def run(self):
        status = super().run()
        digest = hashlib.sha256(b"".join(w.tobytes() for w in self.setup.model.get_weights()))
        print("weights", digest.hexdigest())
        return status

loop.Trainer = Shown
train.run()
"""


@pytest.fixture(scope="module")
def arguments(tiny_arguments):
    return (*tiny_arguments, "--config.synchronized", "--config.num_steps=60")


@pytest.fixture(scope="module")
def whole(start_cluster, arguments, tmp_path_factory):
    """The folder of a training with two workers, and what they printed."""
    folder = tmp_path_factory.mktemp("whole")
    process = start_cluster(2, f"--workdir={folder}", *arguments, code=TRAIN)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    return folder, out


def weights(workdir):
    return keras.saving.load_model(workdir / "model.keras", compile=False).get_weights()


def test_every_worker_has_the_same_bits(whole):
    _, out = whole
    digests = [line.split() for line in out.splitlines() if " weights " in line]
    assert sorted(digest[1] for digest in digests) == ["0]", "1]"]
    assert digests[0][3] == digests[1][3]


def test_the_chief_alone_reports(whole):
    folder, out = whole
    assert "[worker 0] step 60/60: test loss " in out
    assert [line for line in out.splitlines() if line.startswith("[worker 1]")] == [
        line for line in out.splitlines() if line.startswith("[worker 1] weights ")
    ]
    assert {path.name for path in folder.iterdir()} == {
        "checkpoints",
        "config.json",
        "data.json",
        "metrics.jsonl",
        "model.keras",
        "tensorboard",
    }


def test_two_workers_do_what_one_process_does(whole, arguments, run_program, tmp_path):
    done = run_program("zoo.train", f"--workdir={tmp_path}", *arguments)
    assert done.returncode == 0, done.stderr
    for a, b in zip(weights(tmp_path), weights(whole[0]), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
    ours, theirs = (
        json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
        for folder in (whole[0], tmp_path)
    )
    assert ours["accuracy"] == pytest.approx(theirs["accuracy"], abs=1e-9)


def process_of(launcher, index):
    """The process of a worker, whom its TF_CONFIG tells apart."""
    children = pathlib.Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text()
    for child in children.split():
        variables = pathlib.Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        found = [value for value in variables if value.startswith(b"TF_CONFIG=")]
        if json.loads(found[0].partition(b"=")[2])["task"]["index"] == index:
            return int(child)
    raise AssertionError(f"no worker {index} among {children}")


@pytest.mark.slow
def test_a_killed_worker_ends_the_run_which_resumes_bit_for_bit(
    whole, start_cluster, arguments, tmp_path
):
    run = (2, f"--workdir={tmp_path}", *arguments)
    process = start_cluster(*run)
    deadline = time.monotonic() + 90
    while not list((tmp_path / "checkpoints").glob("step-*")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, process.kill()
        time.sleep(0.002)
    os.kill(process_of(process, 1), signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGKILL
    survivors, launchers = err.splitlines()
    assert survivors.startswith("[worker 0] error: lost worker 1 (127.0.0.1:")
    assert launchers == "error: worker 1 was killed by SIGKILL; the others have ended."
    assert not (tmp_path / "model.keras").exists()

    process = start_cluster(*run)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    assert "[worker 0] resuming from step " in out
    for a, b in zip(weights(tmp_path), weights(whole[0]), strict=True):
        np.testing.assert_array_equal(a, b)
