import json
import os
import re

import pytest

from zoo.errors import UserError
from zoo.training.storage import files
from zoo.training.storage.workdir import Workdir

CONFIG = {"norm": "batch_renorm", "seed": 0}


def listing(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("exists", [True, False])
def test_an_empty_or_missing_folder_is_taken(tmp_path, exists):
    path = tmp_path if exists else tmp_path / "a" / "b"
    workdir = Workdir(path)
    workdir.check(CONFIG)
    assert listing(tmp_path) == []
    with workdir.opened(CONFIG):
        assert workdir.read_config() == CONFIG
    assert not workdir.finished


def test_a_run_with_the_same_config_is_taken_again_unchanged(tmp_path):
    workdir = Workdir(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / ".tmp-model.keras").touch()
    workdir.check(CONFIG)
    with workdir.opened(CONFIG):
        assert listing(tmp_path) == ["config.json"]
    assert (tmp_path / "config.json").read_text() == json.dumps(CONFIG)


def test_a_run_that_was_killed_before_its_first_file_was_complete_is_taken(tmp_path):
    with files.replacing(tmp_path / "config.json") as temporary:
        Workdir(tmp_path).check(CONFIG)
        temporary.write_text("{}")


def test_another_config_is_refused_with_what_differs(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"norm": "none"}))
    message = (
        f"{tmp_path} holds a run with another config: norm (there 'none', here 'batch_renorm'). "
        "Nothing was written. Choose another --workdir, or give the same config to resume that run."
    )
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        Workdir(tmp_path).check(CONFIG)


def test_a_folder_of_somebody_else_is_refused(tmp_path):
    for name in ("thesis.tex", ".tmp-notes"):
        (tmp_path / name).touch()
        with pytest.raises(UserError, match="is not empty and holds no run of"):
            Workdir(tmp_path).check(CONFIG)
        assert listing(tmp_path) == [name]
        (tmp_path / name).unlink()


def test_a_damaged_config_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json cannot be read"):
        Workdir(tmp_path).check(CONFIG)


@pytest.mark.parametrize("content", ["5", "[]", '"norm"', "null"])
def test_a_config_without_keys_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"config\.json is damaged: it holds no keys and values\.$"):
        Workdir(tmp_path).check(CONFIG)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"seed": 0}, " has no key 'model': another version wrote it."),
        ({"model": 5}, ": model must be a string, received 5."),
    ],
)
def test_a_key_that_is_needed_is_checked(tmp_path, config, message):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match=f"^{re.escape(f'{path}{message}')}$"):
        Workdir(tmp_path).read_config("model")


def test_a_link_to_nothing_is_refused(tmp_path):
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(UserError, match=r"link is not a folder\.$"):
        Workdir(tmp_path / "link").check(CONFIG)


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path, name):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(UserError, match=r"file is not a folder\.$"):
        Workdir(tmp_path / name).check(CONFIG)
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="you may not write into"):
        Workdir(tmp_path / "run").check(CONFIG)


def test_a_folder_that_cannot_be_made_is_a_users_error():
    workdir = Workdir("/proc/keras_renorm")
    message = r"^--workdir=/proc/keras_renorm cannot be written: "
    with pytest.raises(UserError, match=message), workdir.opened(CONFIG):
        pass


def test_a_run_in_progress_is_left_alone(tmp_path):
    with Workdir(tmp_path).opened(CONFIG):
        other = Workdir(tmp_path).opened(CONFIG)
        with pytest.raises(UserError, match="is in use by another"), other:
            pass
    with Workdir(tmp_path).opened(CONFIG):
        pass


def test_no_run_at_all(tmp_path):
    with pytest.raises(UserError, match=r"holds no run of zoo\.train: there is no "):
        Workdir(tmp_path).read_config()
