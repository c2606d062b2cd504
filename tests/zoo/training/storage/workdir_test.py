import json
import re

import pytest

from zoo.errors import UserError
from zoo.training.config import default_config
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
    assert workdir.read_config() == CONFIG


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


def test_what_does_not_touch_the_numbers_may_change(tmp_path):
    before = default_config().to_dict()
    with Workdir(tmp_path).opened(before):
        pass
    now = before | {"data_dir": "/moved", "log_every_steps": 1, "keep_checkpoints": 5}
    workdir = Workdir(tmp_path)
    workdir.check(now)
    assert workdir.changes(now).allowed == {
        "data_dir": (None, "/moved"),
        "keep_checkpoints": (2, 5),
        "log_every_steps": (50, 1),
    }
    with workdir.opened(now):
        assert workdir.read_config() == now


def test_a_key_that_a_later_release_added_has_its_default(tmp_path):
    before = default_config().to_dict()
    del before["weight_decay"]
    (tmp_path / "config.json").write_text(json.dumps(before))
    Workdir(tmp_path).check(default_config().to_dict())
    with pytest.raises(UserError, match=r"weight_decay \(there 0\.0, here 0\.1\)"):
        Workdir(tmp_path).check(default_config().to_dict() | {"weight_decay": 0.1})
    (tmp_path / "config.json").write_text(json.dumps(before | {"of_the_future": 1}))
    with pytest.raises(UserError, match=r"of_the_future \(there 1, here 'not set'\)"):
        Workdir(tmp_path).check(default_config().to_dict())


def test_a_run_may_become_longer_and_not_shorter(tmp_path):
    before = default_config().to_dict()
    with Workdir(tmp_path).opened(before):
        for name in ("model.keras", "model_averaged.keras", "evaluation.json"):
            (tmp_path / name).write_text("of 1000 steps")
    workdir = Workdir(tmp_path)
    longer = before | {"num_steps": 2000}
    workdir.check(longer)
    assert workdir.changes(longer).longer == {"num_steps": (1000, 2000)}
    with workdir.opened(longer):
        assert listing(tmp_path) == [
            "config.json",
            "evaluation-00001000.json",
            "model-00001000.keras",
            "model_averaged-00001000.keras",
        ]
        assert workdir.read_config() == longer
    with pytest.raises(UserError, match=r"num_steps \(there 2000, here 1000\)"):
        workdir.check(before)


def test_a_run_that_cannot_become_longer_stays_as_it_is(tmp_path):
    before = default_config().to_dict()
    with Workdir(tmp_path).opened(before):
        (tmp_path / "model.keras").write_text("of 1000 steps")

    def refuse():
        raise UserError("other images")

    workdir = Workdir(tmp_path)
    opened = workdir.opened(before | {"num_steps": 2000}, check=refuse)
    with pytest.raises(UserError, match="other images"), opened:
        pass
    assert listing(tmp_path) == ["config.json", "model.keras"]
    assert workdir.read_config() == before


def test_whether_there_are_checkpoints_is_noted_beside_the_keys(tmp_path):
    workdir = Workdir(tmp_path)
    for there in (True, False, True):
        with workdir.opened(CONFIG):
            workdir.note_checkpoints(there)
        with workdir.opened(CONFIG):
            assert workdir.saved == there
            assert workdir.read_config() == CONFIG


def test_each_environment_is_recorded_once(tmp_path):
    for machine in ("a", "a", "b"):
        with Workdir(tmp_path).opened(CONFIG, {"machine": machine}):
            pass
    started = json.loads((tmp_path / "config.json").read_text())["started"]
    assert [record["machine"] for record in started] == ["a", "b"]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", record["date"]) for record in started)
    assert Workdir(tmp_path).read_config() == CONFIG


def test_a_name_that_is_no_utf_8_is_refused(tmp_path):
    message = r"--workdir=run\udcff holds a byte that is no UTF-8 here, and TensorFlow cannot write"
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        Workdir("run\udcff")


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


def test_a_folder_that_may_not_be_written_is_refused(tmp_path, unprivileged):
    tmp_path.chmod(0o500)
    with unprivileged(tmp_path), pytest.raises(UserError, match="you may not write into"):
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


def test_a_run_that_began_in_the_meantime_keeps_its_config(tmp_path):
    late = Workdir(tmp_path)
    late.check(CONFIG | {"seed": 1})
    with Workdir(tmp_path).opened(CONFIG | {"seed": 0}):
        pass
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(UserError, match="another config"), late.opened(CONFIG | {"seed": 1}):
        pass
    assert (tmp_path / "config.json").read_bytes() == before


def test_no_run_at_all(tmp_path):
    with pytest.raises(UserError, match=r"holds no run of zoo\.train: there is no "):
        Workdir(tmp_path).read_config()
