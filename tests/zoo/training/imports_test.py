import re

import pytest

from zoo.errors import UserError
from zoo.training.imports import called, imported, is_path


def test_a_path_has_a_colon():
    assert is_path("module:name")
    assert not is_path("adam")


def test_modules_and_files_give_what_they_hold(tmp_path, monkeypatch):
    (tmp_path / "my_own_module.py").write_text("def make(x):\n    return x + 1\n")
    assert called({"model": f"{tmp_path}/my_own_module.py:make"}, "model", int, x=1) == 2
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [path for path in __import__("sys").path if path])
    assert called({"model": "my_own_module:make"}, "model", int, x=1) == 2


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        (None, "make", "cannot be imported: FileNotFoundError: "),
        ("1 / 0", "make", "cannot be imported: ZeroDivisionError: division by zero"),
        ("make = 5", "make", ": {place} has no function or class 'make'."),
        ("def made(): pass", "make", ": {place} has no function or class 'make'."),
        ("def make(y): pass", "make", "failed, called with x: TypeError: make() got an unexpected"),
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
