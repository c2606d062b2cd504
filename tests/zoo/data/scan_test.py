import functools
import json
import os
import time

import pytest

import zoo.data.inspection
import zoo.data.scan
from zoo.data.scan import scan
from zoo.training.cli import terminal


@pytest.fixture
def looked_at(monkeypatch):
    """The files that were looked at anew."""
    seen = []
    inspected = zoo.data.scan.quietly_inspect
    monkeypatch.setattr(
        zoo.data.scan, "quietly_inspect", lambda paths: (seen.extend(paths), inspected(paths))[1]
    )
    return seen


@pytest.fixture
def photos(make_folder):
    root = make_folder(cats=3)
    return os.fsencode(root), [os.fsencode(root / "cats" / f"{i:03d}.jpg") for i in range(3)]


def test_a_file_is_looked_at_once(photos, looked_at):
    root, paths = photos
    first = scan(root, paths)
    assert [finding.height for finding in first] == [40, 43, 46]
    assert looked_at == paths
    assert scan(root, paths) == first
    assert looked_at == paths


def test_a_file_that_changes_is_looked_at_again(photos, looked_at):
    root, paths = photos
    scan(root, paths)
    with open(paths[1], "ab") as file:
        file.truncate(100)
    assert scan(root, paths)[1].problem.startswith("is damaged")
    os.utime(paths[2], ns=(1, 1))
    scan(root, paths)
    assert looked_at[3:] == [paths[1], paths[1], paths[2]]


def test_a_file_that_may_be_read_again_is_looked_at_again(photos, unprivileged, tmp_path):
    root, paths = photos
    os.chmod(paths[1], 0)
    with unprivileged(tmp_path):
        assert scan(root, paths)[1].problem == "cannot be read: Permission denied"
    os.chmod(paths[1], 0o644)
    assert [finding.problem for finding in scan(root, paths)] == ["", "", ""]


def test_what_an_interrupted_look_found_is_remembered(photos, looked_at, monkeypatch):
    root, paths = photos

    def interrupted(paths):
        yield from map(zoo.data.inspection.inspect, paths[:2])
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(zoo.data.scan, "quietly_inspect", interrupted)
        with pytest.raises(KeyboardInterrupt):
            scan(root, paths)
    assert [finding.height for finding in scan(root, paths)] == [40, 43, 46]
    assert looked_at == paths[2:]


def test_a_look_that_is_killed_has_remembered_what_it_found_a_while_ago(photos, home, monkeypatch):
    root, paths = photos
    remembered = []

    def inspect(paths):
        for path in paths:
            yield zoo.data.inspection.inspect(path)
            [cache] = (home / "scans").iterdir()
            remembered.append(len(json.loads(cache.read_text())["files"]))

    monkeypatch.setattr(zoo.data.scan, "quietly_inspect", inspect)
    monkeypatch.setattr(zoo.data.scan, "_REMEMBER_SECONDS", 0.0)
    scan(root, paths)
    assert remembered == [1, 2, 3]


def test_a_long_look_says_so_where_there_is_no_terminal(photos, monkeypatch, capsys):
    root, paths = photos
    monkeypatch.setattr(terminal, "patience", functools.partial(terminal.patience, seconds=1e-3))

    def inspect(paths):
        time.sleep(0.1)
        return map(zoo.data.inspection.inspect, paths)

    monkeypatch.setattr(zoo.data.scan, "quietly_inspect", inspect)
    scan(root, paths)
    assert "still looking at 3 files, for 0:00:00 now\n" in capsys.readouterr().err
    scan(root, paths)
    assert capsys.readouterr().err == ""


def test_files_of_another_split_are_not_forgotten(photos, looked_at):
    root, paths = photos
    for part in (paths[:1], paths[1:], paths):
        scan(root, part)
    assert looked_at == paths


def test_a_file_that_is_gone_is_a_problem(photos):
    root, paths = photos
    os.unlink(paths[0])
    assert scan(root, paths)[0].problem == "cannot be read: No such file or directory"


@pytest.mark.parametrize("stored", ["", "{}", '{"version": 1, "files": [3]}', '{"version": 0}'])
def test_a_memory_that_is_damaged_or_old_is_made_anew(photos, looked_at, home, stored):
    root, paths = photos
    first = scan(root, paths)
    [cache] = (home / "scans").iterdir()
    cache.write_text(stored)
    assert scan(root, paths) == first
    assert looked_at == [*paths, *paths]


def test_without_a_place_to_remember_all_is_looked_at(photos, home):
    root, paths = photos
    (home / "scans").write_text("in the way")
    assert [finding.problem for finding in scan(root, paths)] == ["", "", ""]
