"""What a training left, for its tests."""

import json
import time

import keras
import numpy as np
import pytest

import keras_renorm  # noqa: F401 - its layers are in the saved models


def _records(workdir):
    """The records without what depends on the clock."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    clock = ("seconds", "images_per_second")
    return [{k: v for k, v in json.loads(line).items() if k not in clock} for line in lines]


@pytest.fixture
def records():
    return _records


def _checkpoints(workdir):
    return sorted(int(path.name[5:]) for path in (workdir / "checkpoints").glob("step-*"))


@pytest.fixture
def checkpoints():
    return _checkpoints


def _send_after(process, workdir, step, number):
    """Sends a signal to a training once it has saved a checkpoint of `step` or later."""
    deadline = time.monotonic() + 60
    while not any(saved >= step for saved in _checkpoints(workdir)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, process.kill()
        time.sleep(0.002)
    process.send_signal(number)
    return process.communicate(timeout=60)


@pytest.fixture
def send_after():
    return _send_after


def _weights_by_layer(path):
    model = keras.saving.load_model(path, compile=False)
    layers = [layer for layer in model.layers if layer.weights]
    return {layer.name: [np.asarray(value) for value in layer.variables] for layer in layers}


@pytest.fixture
def weights_by_layer():
    return _weights_by_layer


_EVALUATING = """
import os, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup turns it off
from zoo.training import evaluation
evaluate, calls = evaluation.Evaluator.__call__, []
def interrupted(self, stop):
    calls.append(1)
    if len(calls) == NUMBER:
        os.kill(os.getpid(), signal.SIGNAL)
    return evaluate(self, stop)
evaluation.Evaluator.__call__ = interrupted
sys.argv = ["train", "--workdir=FOLDER", *ARGUMENTS]
from zoo import train
train.run()
"""


def _evaluating(workdir, arguments, number, evaluation):
    """A training that is sent a signal when an evaluation begins."""
    code = _EVALUATING.replace("SIGNAL", number.name).replace("FOLDER", str(workdir))
    return code.replace("ARGUMENTS", repr(arguments)).replace("NUMBER", str(evaluation))


@pytest.fixture
def evaluating():
    return _evaluating
