import fnmatch
import importlib.util
import pathlib
import sys

import pytest

PAGE = """# Versions

| backend | Keras | Python | lowering | goldens |
|---|---|---|---|---|
| TensorFlow 2.21 | 3.15 | 3.11 | native | 1 passed |
| JAX 0.1 | 3.15 | 3.11 | native | 1 passed |
"""


@pytest.fixture
def tool(monkeypatch):
    path = pathlib.Path(__file__).parents[2] / "tools" / "check_versions.py"
    spec = importlib.util.spec_from_file_location("check_versions", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "check_versions", module)
    spec.loader.exec_module(module)
    return module


def test_lines_stand_in_the_order_of_the_rows(tool, monkeypatch, tmp_path):
    """One of a row that is no more goes."""
    monkeypatch.setattr(tool, "PAGE", tmp_path / "support.md")
    tool.PAGE.write_text(PAGE)
    tool.write(tool.line_of(tool.Row("JAX", "0.5", "3.4"), "2 passed"))
    tool.write(tool.line_of(tool.Row("TensorFlow", "2.16", "3.4", lowering="fused"), "3 passed"))
    tool.write(tool.line_of(tool.Row("TensorFlow", "2.21", "3.15"), "4 passed"))
    *head, first, second, third = tool.PAGE.read_text().splitlines()
    assert head == PAGE.splitlines()[:4]
    assert first == "| TensorFlow 2.16 | 3.4 | 3.11 | fused | 3 passed |"
    assert second == "| TensorFlow 2.21 | 3.15 | 3.11 | native | 4 passed |"
    assert third == "| JAX 0.5 | 3.4 | 3.11 | native | 2 passed |"


def test_the_rows_are_sorted_and_none_stands_twice(tool):
    assert len(set(tool.ROWS)) == len(tool.ROWS)
    for backend in tool.PACKAGES:
        rows = [row for row in tool.ROWS if row.backend == backend]
        keys = [[*map(tool.numbers, (row.version, row.keras, row.python))] for row in rows]
        assert keys == sorted(keys)
    assert [*map(str, tool.OLDEST)] == [
        "TensorFlow 2.16, Keras 3.4, Python 3.10",
        "JAX 0.5, Keras 3.4, Python 3.11",
        "PyTorch 2.4, Keras 3.4, Python 3.10",
    ]
    for pattern in tool.REASONS:
        assert fnmatch.filter(map(str, tool.ROWS), pattern), f"no row is {pattern}"


def test_what_a_row_lacks_is_said(tool, monkeypatch, tmp_path):
    row = tool.Row("JAX", "0.5", "3.4", "3.99")
    good, result = tool.result_of(row, tmp_path)
    assert (good, result) == (
        False,
        "not green. There is no Python 3.99 on the machine that ran this.",
    )
    monkeypatch.setitem(tool.REASONS, "JAX 0.5*3.99", "It was never released.")
    assert tool.result_of(row, tmp_path) == (True, "not green. It was never released.")
