import re

import pytest

from zoo.errors import UserError
from zoo.training.storage import places


def test_a_new_path_is_returned(tmp_path, monkeypatch):
    assert places.new_path(str(tmp_path / "x.json"), ".json") == tmp_path / "x.json"
    monkeypatch.chdir(tmp_path)
    assert str(places.new_path("served")) == "served"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert places.new_path("~/x.keras", ".keras") == tmp_path / "x.keras"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x.txt", "--output must end in .json for --format=f, received {}/x.txt."),
        ("", "--output must end in .json for --format=f, received {}."),
        (
            "there.json",
            "{}/there.json exists already and is not overwritten: choose another --outp",
        ),
        ("link.json", "{}/link.json exists already and is not overwritten: choose another --outpu"),
        ("a/b.json", "There is no folder {}/a to write b.json to."),
        ("there.json/b.json", "There is no folder {}/there.json to write b.json to."),
    ],
)
def test_nothing_is_overwritten(tmp_path, name, message):
    (tmp_path / "there.json").write_text("kept")
    (tmp_path / "link.json").symlink_to("nowhere")
    received = f"{tmp_path}/{name}".rstrip("/")
    with pytest.raises(UserError, match=f"^{re.escape(message.format(tmp_path))}"):
        places.new_path(received, ".json", " for --format=f")
    assert (tmp_path / "there.json").read_text() == "kept"


def test_a_working_directory_can_be_made_or_is_a_folder(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("link")
    for path in (tmp_path, tmp_path / "a" / "b"):
        places.check_folder(path)
    for name in ("file", "link", "file/a"):
        with pytest.raises(UserError, match=r"(file|link) is not a folder\.$"):
            places.check_folder(tmp_path / name)


def test_a_folder_must_be_writable(tmp_path, unprivileged):
    (tmp_path / "closed").mkdir()
    with unprivileged(tmp_path):
        (tmp_path / "closed").chmod(0o500)
        with pytest.raises(UserError, match=r"you may not write into .*closed\.$"):
            places.check_folder(tmp_path / "closed" / "run")
