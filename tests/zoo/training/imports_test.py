import importlib
import json
import os
import re
import sys

import pytest

from zoo.errors import UserError
from zoo.training.imports import called, imported, is_path


def test_a_path_has_a_colon():
    assert is_path("module:name")
    assert not is_path("adam")


def test_modules_and_files_give_what_they_hold(tmp_path, monkeypatch):
    (tmp_path / "my_own_module.py").write_text("def make(x):\n    return x + 1\n")
    assert called({"model": f"{tmp_path}/my_own_module.py:make"}, "model", int, x=1) == 2
    monkeypatch.setenv("HOME", str(tmp_path))
    assert called({"model": "~/my_own_module.py:make"}, "model", int, x=1) == 2
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [path for path in __import__("sys").path if path])
    assert called({"model": "my_own_module:make"}, "model", int, x=1) == 2


#: What dataclasses find only for a module that Python knows.
ANNOTATED = """
from __future__ import annotations
import dataclasses

@dataclasses.dataclass
class Made:
    x: int
"""


def test_a_file_runs_once_until_it_changes(tmp_path):
    path = tmp_path / "annotated.py"
    path.write_text(ANNOTATED)
    key = {"model": f"{path}:Made"}
    made = imported(key, "model")
    assert made(1) == made(1)
    assert imported(key, "model") is made
    assert imported({"model": f"{tmp_path}/../{tmp_path.name}/annotated.py:Made"}, "model") is made
    path.write_text(ANNOTATED.replace("x: int", "y: int"))
    os.utime(path, ns=(1, 1))
    assert imported(key, "model")(y=1).y == 1


def test_a_file_does_not_take_the_name_of_a_module(tmp_path):
    (tmp_path / "json.py").write_text(ANNOTATED)
    assert imported({"model": f"{tmp_path}/json.py:Made"}, "model")(1).x == 1
    assert importlib.import_module("json") is json


def test_a_file_does_not_take_the_name_of_a_module_that_is_imported_later(tmp_path):
    later = tmp_path / "later"
    later.mkdir()
    (later / "met_later.py").write_text("theirs = True")
    (tmp_path / "met_later.py").write_text(ANNOTATED)
    sys.path.insert(0, str(later))
    try:
        assert imported({"model": f"{tmp_path}/met_later.py:Made"}, "model")(1).x == 1
        assert importlib.import_module("met_later").theirs
    finally:
        sys.path.remove(str(later))
        sys.modules.pop("met_later", None)


def test_a_file_that_fails_is_no_module(tmp_path):
    path = tmp_path / "half_way.py"
    path.write_text("1 / 0")
    for text, name in (("1 / 0", "ZeroDivisionError"), ("nothing", "NameError")):
        path.write_text(text)
        with pytest.raises(UserError, match=name):
            imported({"model": f"{path}:make"}, "model")
        assert "half_way" not in sys.modules


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        (None, "make", "cannot be imported: FileNotFoundError: "),
        ("1 / 0", "make", "cannot be imported: ZeroDivisionError: division by zero"),
        ("make = 5", "make", ": {place} has no function or class 'make'."),
        ("def made(): pass", "make", ": {place} has no function or class 'make'."),
        ("def make(y): pass", "make", "failed, called with x: TypeError: make() got an unexpected"),
        ("def make(x): raise SystemExit(3)", "make", "failed, called with x: SystemExit: 3"),
        ("def make(x): return x", "make", "must return a builtins str, received 1."),
    ],
)
def test_a_mistake_is_a_users_error(tmp_path, text, name, message):
    place = tmp_path / "mine.py"
    if text is not None:
        place.write_text(text)
    start = f"--config.model={place}:{name}"
    pattern = re.escape(start) + ".?" + re.escape(message.format(place=place))
    with pytest.raises(UserError, match=f"^{pattern}"):
        called({"model": f"{place}:{name}"}, "model", str, x=1)


def test_a_module_that_is_not_there():
    with pytest.raises(UserError, match=r"^--config\.optimizer=nowhere:f cannot be imported: Modu"):
        imported({"optimizer": "nowhere:f"}, "optimizer")
