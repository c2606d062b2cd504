import json

import pytest

from zoo.training import files


def test_a_file_is_replaced_when_the_body_succeeds(tmp_path):
    path = tmp_path / "report.json"
    path.write_text("old")
    with files.replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_untouched_when_the_body_fails(tmp_path):
    path = tmp_path / "report.json"
    path.write_text("old")

    def fail():
        with files.replacing(path) as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_temporary_path_keeps_the_suffix(tmp_path):
    with files.replacing(tmp_path / "model.keras") as temporary:
        temporary.touch()
        assert temporary.suffix == ".keras"


def test_json_reads_back(tmp_path):
    files.write_json(tmp_path / "a.json", {"b": 0.1, "a": None})
    assert json.loads((tmp_path / "a.json").read_text()) == {"b": 0.1, "a": None}


def test_only_unfinished_files_are_removed(tmp_path):
    (tmp_path / "kept").touch()
    (tmp_path / ".tmp-file").touch()
    (tmp_path / ".tmp-folder").mkdir()
    (tmp_path / ".tmp-folder" / "part").touch()
    assert not files.only_temporary(tmp_path)
    files.remove_temporary(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    (tmp_path / "kept").rename(tmp_path / ".tmp-kept")
    assert files.only_temporary(tmp_path)
