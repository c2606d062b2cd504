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
def test_every_file_may_be_gone_unreadable_or_of_another_kind(run_python):
    # Another pytest that starts closes the folder of all tests to other users.
    with tempfile.TemporaryDirectory() as folder:
        done = run_python(FAULTS.replace("FOLDER", repr(folder)), TF_CPP_MIN_LOG_LEVEL="3")
    assert done.returncode == 0, done.stderr  # TensorFlow warns of so many functions.
    *lines, last = done.stdout.splitlines()
    assert last == "all"
    assert len(lines) >= 5 * 12
    # What is not needed, or can be begun anew, does not end the run.
    assert "removed metrics.jsonl 0" in lines
    assert "removed tensorboard 0" in lines
    assert any("unreadable checkpoints/step-00000002 Checkpoint " in line for line in lines)
