import json
import subprocess
from pathlib import Path

import keras

import zoo
from keras_renorm.version import __version__
from zoo.training.records.environment import environment, git_state


def test_what_a_figure_can_be_traced_to():
    found = environment()
    assert json.loads(json.dumps(found)) == found
    assert found["versions"]["keras"] == keras.__version__
    assert found["versions"]["keras_renorm"] == __version__
    assert found["kernels"]["name"] in ("native", "fused", "composite")
    assert found["machine"]["cores"] >= 1
    assert found["machine"]["processor"]
    assert found["git"] == git_state(Path(zoo.__file__).parent)


def git(folder, *arguments):
    settings = ("-c", "user.name=a", "-c", "user.email=a@b")
    done = subprocess.run(
        ["git", *settings, "-C", folder, *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_the_state_of_a_checkout(tmp_path):
    assert git_state(tmp_path) is None
    git(tmp_path, "init", "-q")
    assert git_state(tmp_path) is None
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-q", "-m", "a")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert git_state(tmp_path) == {"commit": commit, "changed": False}
    (tmp_path / "a").write_text("2")
    assert git_state(tmp_path) == {"commit": commit, "changed": True}
    # Files that git ignores or does not know are not git's, as of a package below a checkout.
    (tmp_path / "venv").mkdir()
    assert git_state(tmp_path / "venv") is None
