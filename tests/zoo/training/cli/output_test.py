import sys

from zoo.training.cli import output

LASTING = """
import os, sys
from rich.console import Console
from zoo.training.cli import output
output.install()
{before}
for line in range(3):
    {line}
    sys.stdout.flush()
print("goes on", file=sys.stderr)
"""


def test_a_full_disk_ends_the_output_and_not_the_program(run_python):
    for line in ("print(line)", "Console().print(line)"):
        before = "os.dup2(os.open('/dev/full', os.O_WRONLY), 1)"
        done = run_python(LASTING.format(before=before, line=line))
        assert (done.returncode, done.stdout) == (0, "")
        assert done.stderr == (
            "warning: /dev/full: No space left on device: the output ends here.\ngoes on\n"
        )


def test_a_reader_that_went_away_ends_the_output_and_not_the_program(run_python):
    before = "ends = os.pipe(); os.dup2(ends[1], 1); os.close(ends[0]); os.close(ends[1])"
    done = run_python(LASTING.format(before=before, line="Console().print(line)"))
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "warning: nobody reads the output: it ends here.\ngoes on\n"


def test_what_the_encoding_does_not_have_is_escaped(run_python):
    line = r"print('\u00e9', '\udcff')"
    done = run_python(LASTING.format(before="", line=line), PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "goes on\n")
    assert done.stdout == "\\xe9 \\udcff\n" * 3


def test_a_program_without_stdout_prints_nothing(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    output.install()
    assert sys.stdout is None
    print("x")
