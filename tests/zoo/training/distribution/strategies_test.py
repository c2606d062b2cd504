"""The same training under each strategy: every process here has its own logical devices."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_renorm  # noqa: F401 - its layers are in the saved models

TRAIN = """
import os, signal, sys
from rich.console import Console
from zoo.configs import few_labels
from zoo.training.run import train

os.chdir(FOLDER)
BASE = few_labels.get_config().to_dict() | {
    "num_steps": 12,
    "batch_size": 20,
    "minibatches": "iid",
    "augment": True,
    "weight_decay": 1e-4,
    "r_max_ramp": "2,30",
    "d_max_ramp": "2,30",
    "eval_every_steps": 12,
    "eval_batch_size": 667,
    "checkpoint_every_steps": 5,
}

def run(name, **values):
    return train(BASE | values, name, Console(quiet=True))
"""

THREE = 'run("synchronized3", strategy="mirrored", num_replicas=3, synchronized=True)'

TWO = """
two = dict(strategy="mirrored", num_replicas=2)
run("synchronized2", synchronized=True, **two)
run("none", synchronized=True)
run("own", **two)

from zoo.training.records import outputs
advance = outputs.ChiefsOutputs.advance
def stop_at_6(self, step):
    advance(self, step)
    if step == 6:
        signal.raise_signal(signal.SIGTERM)
outputs.ChiefsOutputs.advance = stop_at_6
print(run("resumed", **two), run("resumed", **two))
"""


@pytest.fixture(scope="module")
def runs(run_warm_python, tmp_path_factory):
    """A folder with a run of every kind, and what their process printed."""
    folder = tmp_path_factory.mktemp("runs")
    done = run_warm_python(f"FOLDER = {str(folder)!r}" + TRAIN + TWO)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def weights(workdir):
    return keras.saving.load_model(workdir / "model.keras", compile=False).get_weights()


def variables(workdir):
    """The variables in the last checkpoint, by name."""
    reader = tf.train.load_checkpoint(str(workdir / "checkpoints/step-00000012/variables"))
    names = [name for name in reader.get_variable_to_shape_map() if name.startswith("variables/")]
    return {name: reader.get_tensor(name) for name in names}


def records(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [2, 3])
def test_synchronized_replicas_do_what_one_does(runs, run_warm_python, replicas):
    folder, _ = runs
    if replicas == 3:
        # In a process of its own: the number of logical devices cannot be changed.
        done = run_warm_python(f"FOLDER = {str(folder)!r}" + TRAIN + THREE)
        assert done.returncode == 0, done.stderr
    one, several = folder / "none", folder / f"synchronized{replicas}"
    for a, b in zip(weights(one), weights(several), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
    for a, b in zip(records(one), records(several), strict=True):
        assert (a["step"], a["split"], a["r_max"]) == (b["step"], b["split"], b["r_max"])
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-4)
        # An example counted twice, or not at all, would be 1 in 2,000.
        assert b["accuracy"] == pytest.approx(a["accuracy"], abs=1e-9)


def test_replicas_that_are_not_synchronized_do_something_else(runs):
    folder, _ = runs
    assert records(folder / "own")[-1]["loss"] != pytest.approx(
        records(folder / "none")[-1]["loss"], rel=1e-3
    )


def test_a_run_of_replicas_with_statistics_of_their_own_is_resumed_bit_for_bit(runs):
    folder, out = runs
    assert out == "143 0\n"
    own, resumed = (variables(folder / name) for name in ("own", "resumed"))
    # 3 layers have a mean and a variance on each of the 2 replicas, and the replicas differ.
    tables = [value for value in own.values() if value.shape == (2, 100)]
    assert len(tables) == 6
    assert all(np.ptp(table, axis=0).max() > 0 for table in tables)
    assert own.keys() == resumed.keys()
    for name, value in own.items():
        np.testing.assert_array_equal(value, resumed[name], err_msg=name)
    for a, b in zip(weights(folder / "own"), weights(folder / "resumed"), strict=True):
        np.testing.assert_array_equal(a, b)


def test_devices_that_cannot_be_had_are_a_users_mistake(run_warm_python, tmp_path):
    code = (
        "import tensorflow as tf\n"
        "tf.zeros([])\n"
        "from zoo.errors import UserError\n"
        "try:\n"
        "    run('run', strategy='mirrored', num_replicas=2)\n"
        "except UserError as error:\n"
        "    print(error)\n"
    )
    done = run_warm_python(f"FOLDER = {str(tmp_path)!r}" + TRAIN + code)
    assert done.stdout == (
        "--config.num_replicas=2: TensorFlow runs already, with 1 logical CPU device(s), and "
        "cannot change that. Train in a process of its own.\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_too_few_gpus_are_a_users_mistake(run_warm_python):
    code = (
        "import tensorflow as tf\n"
        "from zoo import errors\n"
        "from zoo.training.distribution import strategies\n"
        "tf.config.list_physical_devices = lambda kind: ['GPU:0']\n"
        "try:\n"
        "    strategies.make_strategy({'strategy': 'mirrored', 'num_replicas': 2}, None)\n"
        "except errors.UserError as error:\n"
        "    print(error)\n"
    )
    assert run_warm_python(code).stdout == (
        "--config.num_replicas=2: this machine has 1 GPU(s). Give at most as many, or hide them "
        "with CUDA_VISIBLE_DEVICES=-1 to train on logical CPU devices.\n"
    )
