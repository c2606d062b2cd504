import errno
import hashlib
import json
import tracemalloc
import zipfile

import pytest

from zoo.training.storage import files


def test_a_hash_takes_little_memory(tmp_path):
    path = tmp_path / "large"
    path.write_bytes(bytes(2**25))
    tracemalloc.start()
    found = files.sha256(path)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == hashlib.sha256(bytes(2**25)).hexdigest()
    assert most < 2**23


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


def test_a_folder_in_the_way_is_named(tmp_path):
    (tmp_path / "report.json").mkdir()
    with pytest.raises(IsADirectoryError) as refused:
        files.write_json(tmp_path / "report.json", {})
    assert refused.value.filename == str(tmp_path / "report.json")
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_the_temporary_path_keeps_the_suffixes(tmp_path):
    for suffixes in ([".keras"], [".weights", ".h5"]):
        with files.replacing(tmp_path / "".join(["model", *suffixes])) as temporary:
            assert temporary.suffixes == suffixes


def test_json_reads_back(tmp_path):
    files.write_json(tmp_path / "a.json", {"b": 0.1, "a": None})
    assert json.loads((tmp_path / "a.json").read_text()) == {"b": 0.1, "a": None}


def test_no_other_file_is_taken_for_the_temporary_one(tmp_path):
    (tmp_path / ".tmp-report.json").write_text("mine")
    files.write_json(tmp_path / "report.json", {})
    assert (tmp_path / ".tmp-report.json").read_text() == "mine"


def test_a_replaced_file_is_as_readable_as_a_new_one(tmp_path):
    (tmp_path / "new").touch()
    files.write_text(tmp_path / "replaced", "")
    assert (tmp_path / "replaced").stat().st_mode == (tmp_path / "new").stat().st_mode


def test_what_a_killed_program_leaves_is_known(tmp_path):
    path = tmp_path / "report.json"
    with files.replacing(path) as temporary:
        assert files.is_unfinished(temporary, of=path)
        assert not files.is_unfinished(temporary, of=tmp_path / "report.txt")
    assert not files.is_unfinished(tmp_path / ".tmp-report.json", of=path)
    assert not files.is_unfinished(path, of=path)


def test_only_unfinished_files_are_removed(tmp_path):
    (tmp_path / "kept").touch()
    (tmp_path / ".tmp-file").touch()
    (tmp_path / ".tmp-folder").mkdir()
    (tmp_path / ".tmp-folder" / "part").touch()
    files.remove_temporary(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_zip_archive_is_whole_until_a_bit_of_it_changes(tmp_path):
    path = tmp_path / "archive"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", "contents" * 10)
    whole = path.read_bytes()
    assert files.is_whole_zip(path)
    for damaged in (b"", whole[:-10], whole[:40] + bytes([whole[40] ^ 1]) + whole[41:]):
        path.write_bytes(damaged)
        assert not files.is_whole_zip(path)


def test_an_error_names_its_file(tmp_path):
    def fail(error):
        raise error

    path = tmp_path / "report.json"
    with pytest.raises(OSError, match=rf"full: '{path}'"), files.replacing(path):
        fail(OSError(errno.ENOSPC, "full"))
    with pytest.raises(OSError, match=rf"as HDF5 writes it: '{path}'"), files.naming(path):
        fail(OSError("as HDF5 writes it\nand more"))
    with pytest.raises(FileNotFoundError, match="nowhere"), files.naming(path):
        (tmp_path / "nowhere").read_text()


def test_an_archive_that_may_not_be_read_is_not_called_damaged(tmp_path, unprivileged):
    path = tmp_path / "archive"
    path.touch(0)
    with unprivileged(tmp_path), pytest.raises(PermissionError):
        files.is_whole_zip(path)
