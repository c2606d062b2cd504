"""What `train` decides before TensorFlow is needed; loop_test.py has the rest."""

import io
import json
import tempfile
import zipfile

import pytest
from rich.console import Console

from zoo.errors import UserError
from zoo.training.config import default_config
from zoo.training.records.metrics import MetricsLog, Record
from zoo.training.run import train

CONFIG = default_config().to_dict()


@pytest.fixture
def finished(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as model:
        model.writestr("config.json", "a model")
    with MetricsLog(tmp_path / "metrics.jsonl", 0) as log:
        log.write(Record(1000, "test", 0.5, 0.75, 0.1, None, None, 1.0, 1.0))
    return tmp_path


def test_a_finished_run_is_summed_up(finished):
    console = Console(file=io.StringIO(), width=200)
    before = (finished / "model.keras").read_bytes()
    assert train(CONFIG, str(finished), console) == 0
    assert "finished: there is nothing to do" in console.file.getvalue()
    assert "75.00 %" in console.file.getvalue()
    assert (finished / "model.keras").read_bytes() == before


def test_a_finished_run_whose_records_are_gone_is_a_users_error(finished):
    (finished / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match=r"metrics\.jsonl holds no evaluation: "):
        train(CONFIG, str(finished), Console(quiet=True))


def test_a_finished_run_with_another_config_is_refused(finished):
    with pytest.raises(UserError, match=r"seed \(there 0, here 1\)"):
        train(CONFIG | {"seed": 1}, str(finished), Console(quiet=True))


def test_a_folder_in_the_place_of_the_model_is_in_the_way(finished):
    (finished / "model.keras").unlink()
    (finished / "model.keras").mkdir()
    with pytest.raises(UserError, match=r"model\.keras is a folder, not a model: move it away, "):
        train(CONFIG, str(finished), Console(quiet=True))


FAULTS = """
import os, pathlib, shutil
from rich.console import Console
from zoo.configs import few_labels
from zoo.errors import UserError
from zoo.training.run import train

base = pathlib.Path(FOLDER)
config = few_labels.get_config().to_dict() | {
    "num_steps": 4, "eval_every_steps": 2, "checkpoint_every_steps": 2, "log_every_steps": 2,
    "norm": "none",
}

def run(path):
    return train(config, str(path), Console(quiet=True))

run(base / "whole")
(base / "whole" / "model.keras").unlink()
shutil.rmtree(base / "whole" / "checkpoints" / "step-00000004")
if os.geteuid() == 0:
    for path in base.rglob("*"):
        os.chown(path, 65534, -1)
    for path in [base, *base.parents]:
        path.chmod(path.stat().st_mode | 0o011)
    os.chown(base, 65534, -1)
    os.seteuid(65534)

def removed(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()

def unreadable(path):
    path.chmod(0)

def of_another_kind(path):
    folder = path.is_dir()
    removed(path)
    path.touch() if folder else path.mkdir()

def a_link_to_nothing(path):
    removed(path)
    path.symlink_to("nowhere")

def a_link_to_itself(path):
    removed(path)
    path.symlink_to(path.name)

faults = (removed, unreadable, of_another_kind, a_link_to_nothing, a_link_to_itself)
for name in sorted(str(path.relative_to(base / "whole")) for path in (base / "whole").rglob("*")):
    for fault in faults:
        shutil.copytree(base / "whole", base / "run")
        fault(base / "run" / name)
        try:
            status = run(base / "run")
        except (UserError, OSError) as error:
            status = str(error)
            assert "/run" in status, (name, fault, status)
        print(fault.__name__, name, status)
        for path in [base / "run", *(base / "run").rglob("*")]:
            if not path.is_symlink():
                path.chmod(0o700)
        shutil.rmtree(base / "run")
os.seteuid(os.getuid())  # At the end TensorFlow removes files of its own.
print("all")
"""


@pytest.mark.slow
def test_every_file_may_be_gone_unreadable_or_of_another_kind(run_warm_python):
    # Another pytest closes the folder of all tests to other users when it starts.
    with tempfile.TemporaryDirectory() as folder:
        done = run_warm_python(FAULTS.replace("FOLDER", repr(folder)))
    assert done.returncode == 0, done.stderr  # TensorFlow warns of so many functions.
    *lines, last = done.stdout.splitlines()
    assert last == "all"
    assert len(lines) >= 5 * 12
    # Losing what is not needed, or can begin anew, does not end the run.
    assert "removed metrics.jsonl 0" in lines
    assert "removed tensorboard 0" in lines
    assert any("unreadable checkpoints/step-00000002 Checkpoint " in line for line in lines)


DROPPED = """
import os, signal
import numpy as np
import tensorflow as tf
from rich.console import Console
from zoo.training import evaluation
from zoo.training.config import default_config
from zoo.training.run import train

config = default_config().to_dict() | {
    "model": "wide_resnet_10_1", "stochastic_depth_rate": 0.5, "image_size": 8, "batch_size": 8,
    "accumulate": 2, "num_steps": 4, "eval_every_steps": 2,
}
evaluate, interrupted = evaluation.Evaluator.__call__, []
def brief(self, stop):
    if not interrupted and os.path.exists("FOLDER/whole/model.keras"):
        interrupted.append(os.kill(os.getpid(), signal.SIGTERM))
        return evaluate(self, stop)
    return evaluation.Result(0.5, 1.0, 1, 1.0)
evaluation.Evaluator.__call__ = brief
found = []
for run, code in (("whole", 0), ("parts", 128 + signal.SIGTERM), ("parts", 0)):
    assert train(config, "FOLDER/" + run, Console(quiet=run == "whole")) == code
    if code == 0:
        step = f"FOLDER/{run}/checkpoints/step-00000004/variables"
        reader = tf.train.load_checkpoint(step)
        # The graph has the names of layers, which are numbered in a process with several models.
        names = set(reader.get_variable_to_shape_map()) - {"_CHECKPOINTABLE_OBJECT_GRAPH"}
        found.append({name: reader.get_tensor(name) for name in names})
whole, parts = found
assert whole.keys() == parts.keys()
for name, value in whole.items():
    np.testing.assert_array_equal(parts[name], value, name)
# Two draws for each of the three branches in each step.
states = [value for value in whole.values() if value.dtype == np.int64 and value.shape == (2,)]
print("draws", [int(state[1]) for state in states])
"""


@pytest.mark.slow
def test_the_draws_of_stochastic_depth_are_resumed_bit_for_bit(run_warm_python):
    with tempfile.TemporaryDirectory() as folder:
        done = run_warm_python(DROPPED.replace("FOLDER", folder), timeout=240)
    assert done.returncode == 0, done.stderr
    assert "resuming from step 2\n" in done.stdout
    assert "draws [8, 8, 8]\n" in done.stdout


CHANGED = """
import io, json, os, pathlib, signal
import numpy as np
import PIL.Image
import tensorflow as tf
from rich.console import Console
from zoo.training import evaluation
from zoo.training.config import default_config
from zoo.training.run import train

base = pathlib.Path(FOLDER)
rng = np.random.default_rng(0)
for name in ("cat", "dog"):
    (base / "photos" / name).mkdir(parents=True)
    for i in range(12):
        image = PIL.Image.fromarray(rng.integers(0, 256, (9, 9, 3)).astype(np.uint8))
        image.save(base / "photos" / name / f"{i}.png")
config = default_config().to_dict() | {
    "model": "mlp", "dropout_rate": 0.5, "dataset": "folder", "data_dir": str(base / "photos"),
    "image_size": 8, "augment": True, "batch_size": 4, "num_steps": 8, "average_decay": 0.5,
    "log_every_steps": 1, "eval_every_steps": 4, "checkpoint_every_steps": 2, "seed": 7,
}
assert train(config, str(base / "whole"), Console(quiet=True)) == 0

evaluate, calls = evaluation.Evaluator.__call__, []
def interrupted(self, stop):
    calls.append(1)
    if len(calls) == 1:
        os.kill(os.getpid(), signal.SIGTERM)
    return evaluate(self, stop)
evaluation.Evaluator.__call__ = interrupted
assert train(config, str(base / "parts"), Console(quiet=True)) == 128 + signal.SIGTERM

# The images move, intervals change, and config.json is one of before some keys were added.
(base / "photos").rename(base / "moved")
path = base / "parts" / "config.json"
before = json.loads(path.read_text())
for key in ("erasing", "cutmix_alpha", "keep_best", "head_rate_factor"):
    del before[key]
path.write_text(json.dumps(before))
now = config | {
    "data_dir": str(base / "moved"), "log_every_steps": 3, "eval_every_steps": 5,
    "eval_batch_size": 3, "checkpoint_every_steps": 1, "checkpoint_every_minutes": 1e-6,
    "keep_checkpoints": 1, "keep_every_steps": 3, "keep_best": True, "gauges_every_steps": 1,
}
console = Console(file=io.StringIO(), width=1000)
assert train(now, str(base / "parts"), console) == 0
print(console.file.getvalue())

def tensors(run):
    path = base / run / "checkpoints" / "step-00000008" / "variables"
    reader = tf.train.load_checkpoint(str(path))
    # The graph has the names of layers, which are numbered in a process with several models.
    names = set(reader.get_variable_to_shape_map()) - {"_CHECKPOINTABLE_OBJECT_GRAPH"}
    return {name: reader.get_tensor(name) for name in names}

whole, parts = tensors("whole"), tensors("parts")
assert whole.keys() == parts.keys() and len(whole) > 20
for name, value in whole.items():
    np.testing.assert_array_equal(parts[name], value, name)
assert json.loads(path.read_text())["erasing"] == 0.0

# Where the images are others, nothing is trained on.
next((base / "moved" / "cat").iterdir()).unlink()
(base / "parts" / "model.keras").unlink()
try:
    train(now, str(base / "parts"), Console(quiet=True))
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.slow
def test_what_does_not_touch_the_numbers_may_change_and_leaves_them_bit_for_bit(run_warm_python):
    with tempfile.TemporaryDirectory() as folder:
        done = run_warm_python(CHANGED.replace("FOLDER", repr(folder)), ZOO_HOME=folder)
    assert done.returncode == 0, done.stderr
    first, *_ = done.stdout.splitlines()
    assert first.startswith(
        "changed, without an effect on the training: checkpoint_every_minutes ("
    )
    assert "log_every_steps (before 1, now 3)" in first
    assert "resuming from step 4\n" in done.stdout
    assert "UserError The images are not those that the run began with: splits of" in done.stdout
