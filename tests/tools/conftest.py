"""Tools are scripts: they run here in the test's own process, which has imported TensorFlow."""

import pathlib
import runpy
import sys

import pytest

TOOLS = pathlib.Path(__file__).parents[2] / "tools"


@pytest.fixture
def run_tool(monkeypatch, capsys):
    """Runs `python tools/NAME.py ARGUMENTS`; returns its exit status, stdout and stderr."""

    def run(name, *arguments):
        monkeypatch.syspath_prepend(str(TOOLS))
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        status = 0
        try:
            runpy.run_path(str(TOOLS / f"{name}.py"), run_name="__main__")
        except SystemExit as exit_:
            # Python prints a message that is no number, and exits with 1.
            status = exit_.code if isinstance(exit_.code, int) else 1
            print("" if isinstance(exit_.code, int) else exit_.code, file=sys.stderr)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run
