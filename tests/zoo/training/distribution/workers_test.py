"""Two real workers on the loopback interface."""

import hashlib
import json
import os
import pathlib
import signal
import time

import keras
import numpy as np
import PIL.Image
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
config = {"strategy": "multi_worker", "batch_size": 2, "accumulate": 1, "virtual_batch_size": 0}
workers = Workers(make_strategy(config, cluster), cluster)

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


def weights(workdir, name="model.keras"):
    return keras.saving.load_model(workdir / name, compile=False).get_weights()


@pytest.mark.slow
def test_every_worker_has_the_same_bits(whole):
    _, out = whole
    digests = [line.split() for line in out.splitlines() if " weights " in line]
    assert sorted(digest[1] for digest in digests) == ["0]", "1]"]
    assert digests[0][3] == digests[1][3]


@pytest.mark.slow
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


@pytest.mark.slow
def test_two_workers_do_what_one_process_does(whole, arguments, run_warm_program, tmp_path):
    done = run_warm_program("zoo.train", f"--workdir={tmp_path}", *arguments)
    assert done.returncode == 0, done.stderr
    for a, b in zip(weights(tmp_path), weights(whole[0]), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
    ours, theirs = (
        json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
        for folder in (whole[0], tmp_path)
    )
    assert ours["accuracy"] == pytest.approx(theirs["accuracy"], abs=1e-9)


def process_of(launcher, index):
    """The process of a worker, whom its TF_CONFIG tells apart, as soon as it is started."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        children = pathlib.Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text()
        for child in children.split():
            variables = pathlib.Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
            found = [value for value in variables if value.startswith(b"TF_CONFIG=")]
            if found and json.loads(found[0].partition(b"=")[2])["task"]["index"] == index:
                return int(child)
        time.sleep(0.01)
    raise AssertionError(f"no worker {index} among {children}")


@pytest.fixture(scope="module")
def streamed(arguments, tmp_path_factory):
    """The arguments of a training on a folder of images, decoded as they are needed."""
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for number in range(60):
        path = root / f"class{number % 2}" / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        pixels = rng.integers(0, 256, (12 + number % 5, 14, 3)).astype(np.uint8)
        PIL.Image.fromarray(pixels).save(path)
    return (
        *arguments,
        "--config.num_steps=240",
        "--config.dataset=folder",
        f"--config.data_dir={root}",
        "--config.image_size=8",
        "--config.crop=inception",
        "--config.optimizer=adam",
        "--config.learning_rate=0.003",
        "--config.average_decay=0.9",
    )


def newest(workdir):
    return max((workdir / "checkpoints").glob("step-*"), default=None)


def hashes(workdir):
    """SHA-256 of the weights, the averages, all with the optimizer, and the records' numbers."""
    clock = ("seconds", "images_per_second")
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    numbers = [{k: v for k, v in line.items() if k not in clock} for line in lines]
    variables = next(newest(workdir).glob("*.data*"))
    contents = {"records": repr(numbers).encode(), "all": variables.read_bytes()}
    for name in ("model.keras", "model_averaged.keras"):
        contents[name] = b"".join(weight.tobytes() for weight in weights(workdir, name))
    return {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}


def wait_for_checkpoint(launcher, workdir):
    """Waits for a checkpoint that is newer than those that are there."""
    before, deadline = newest(workdir), time.monotonic() + 300
    while newest(workdir) == before:
        assert launcher.poll() is None, launcher.communicate()
        assert time.monotonic() < deadline, launcher.kill()
        time.sleep(0.002)


def kill(launcher, index):
    """Kills a worker, and sees to it that the other ends, too."""
    os.kill(process_of(launcher, index), signal.SIGKILL)
    _, err = launcher.communicate(timeout=300)
    assert launcher.returncode == 128 + signal.SIGKILL
    assert f"error: worker {index} was killed by SIGKILL; " in err
    return err


@pytest.mark.slow
def test_a_streamed_run_that_is_killed_three_times_leaves_the_same_hashes(
    start_cluster, streamed, tmp_path
):
    seed = np.random.SeedSequence().entropy
    print("seed", seed)  # pytest shows it where the test fails
    rng = np.random.default_rng(seed)
    whole = start_cluster(2, f"--workdir={tmp_path / 'whole'}", *streamed)
    assert whole.communicate(timeout=300)[1] == ""
    run = (2, f"--workdir={tmp_path / 'parts'}", *streamed)
    for begun in (False, True, True):
        launcher = start_cluster(*run)
        if begun:
            wait_for_checkpoint(launcher, tmp_path / "parts")
        time.sleep(rng.uniform(0, 0.2) if begun else rng.uniform(1, 6))
        index = int(rng.integers(2))
        err = kill(launcher, index)
        if begun:
            assert f"[worker {1 - index}] error: lost worker {index} (127.0.0.1:" in err
    assert not (tmp_path / "parts" / "model.keras").exists()
    resumed = start_cluster(*run)
    out, err = resumed.communicate(timeout=300)
    assert (resumed.returncode, err) == (0, "")
    assert "[worker 0] resuming from step " in out
    assert hashes(tmp_path / "parts") == hashes(tmp_path / "whole")
