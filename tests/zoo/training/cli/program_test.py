import configparser
import pathlib
import re

import pytest

from zoo.training.cli import program as programs

PROGRAM = """
import sys
from absl import logging
from zoo.training.cli import arguments, program
from zoo.errors import UserError, WorkerLostError

def main(parsed):
    logging.info("parsed %s", parsed)
    {body}

program.run(arguments.parse_flags, main, "What it is for.")
"""


def test_a_users_mistake_is_one_line_and_status_2(run_python):
    done = run_python(PROGRAM.format(body='raise UserError("no such\\n  thing: it is [red]")'))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: no such thing: it is [red]\n"


@pytest.mark.parametrize("flags", [[], ["--verbosity=0"]])
def test_warnings_of_the_zoo_are_shown_once_and_those_of_others_on_demand(run_python, flags):
    body = (
        "import logging as log; log.getLogger('zoo.weights').warning('of %s', 'ours'); "
        "log.getLogger('other').warning('of theirs'); return 0"
    )
    done = run_python(f"import sys; sys.argv += {flags}\n" + PROGRAM.format(body=body))
    assert done.returncode == 0
    assert done.stderr.count("warning: of ours\n") == done.stderr.count("ours") == 1
    assert done.stderr.count("of theirs") == len(flags)


def test_a_defect_keeps_its_traceback(run_python):
    done = run_python(PROGRAM.format(body='raise ValueError("a defect")'))
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ValueError: a defect" in done.stderr


@pytest.mark.parametrize(
    ("body", "status", "err"),
    [
        ("raise KeyboardInterrupt", 130, "error: interrupted.\n"),
        (
            "from zoo.training.cli.signals import Stopped; raise Stopped(15)",
            143,
            "error: interrupted.\n",
        ),
        (
            "import atexit, signal; atexit.register(signal.raise_signal, signal.SIGINT); "
            "raise KeyboardInterrupt",
            130,
            "error: interrupted.\n",
        ),
        ("return 143", 143, ""),
        ("return 0", 0, ""),
    ],
)
def test_the_exit_status_is_mains(run_python, body, status, err):
    done = run_python(PROGRAM.format(body=body))
    assert (done.returncode, done.stdout, done.stderr) == (status, "", err)


@pytest.mark.parametrize(
    "program", ["train", "evaluate", "predict", "export", "recalibrate", "plot"]
)
def test_what_takes_time_is_imported_where_a_ctrl_c_is_caught(run_python, program):
    done = run_python(
        "import sys\n"
        f"from zoo import {program}\n"
        "slow = {'absl', 'keras', 'ml_collections', 'rich', 'tensorflow'}\n"
        "assert not slow & set(sys.modules)\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'absl': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        f"{program}.run()\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "error: interrupted.\n")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("open('nowhere/x')", "No such file or directory: nowhere/x"),
        ("open('/dev/full', 'wb', 0).write(b'x')", "No space left on device"),
        ("raise OSError('odd')", "odd"),
    ],
)
def test_what_the_system_refuses_is_one_line(run_python, body, message):
    done = run_python(PROGRAM.format(body=body))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {message}\n"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("import numpy as np; np.ones(2**50)", "Unable to allocate 8.00 PiB"),
        ("return bytearray(2**60)", "MemoryError"),
        (
            "import tensorflow as tf; "
            "raise tf.errors.ResourceExhaustedError(None, None, '{{{{function_node x}}}} OOM when "
            "allocating [Op:Conv2D]\\nmore')",
            "OOM when allocating)",
        ),
    ],
)
def test_out_of_memory_is_one_line_with_a_remedy(run_warm_python, body, message):
    done = run_warm_python(PROGRAM.format(body=body))
    assert done.returncode == 2
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error:"))
    assert line.startswith(f"error: out of memory ({message}")
    assert line.endswith("a part of the batch at a time: --config.accumulate=2.")


def test_a_full_disk_is_not_taken_for_memory(run_warm_python):
    body = "import tensorflow as tf; tf.io.write_file('/dev/full', b'x' * 10**6)"
    done = run_warm_python(PROGRAM.format(body=body))
    assert done.returncode == 2
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error:"))
    assert line == "error: /dev/full; No space left on device"


def test_a_worker_that_lost_another_ends_at_once(run_python):
    body = (
        "import atexit; atexit.register(print, 'cleaned up'); print('said before')\n"
        "    raise WorkerLostError('lost worker 1')"
    )
    done = run_python(PROGRAM.format(body=body))
    assert (done.returncode, done.stdout) == (1, "said before\n")
    assert done.stderr == "error: lost worker 1\n"


@pytest.mark.parametrize("program", ["train", "evaluate", "plot", "list", "fetch"])
def test_a_package_of_the_extra_that_is_missing(run_python, program):
    done = run_python(
        "import sys\n"
        "from zoo.training.cli.program import NEEDS\n"
        "class Missing:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name in NEEDS: raise ModuleNotFoundError(f'No module {name}', name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        f"from zoo.{program} import run\n"
        "run()\n"
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(
        r"error: \w+ is not installed, which the programs need\. Install all of them by "
        r"pip install 'keras-renorm\[zoo\]', or '\.\[zoo\]' in a clone\.\n",
        done.stderr,
    )


def test_another_package_that_is_missing_is_a_defect(run_python):
    done = run_python(PROGRAM.format(body="import no_such_package"))
    assert done.returncode == 1
    assert "ModuleNotFoundError: No module named 'no_such_package'" in done.stderr


def test_the_packages_are_those_of_the_extra():
    config = configparser.ConfigParser()
    config.read(pathlib.Path(programs.__file__).parents[3] / "setup.cfg")
    lines = config["options.extras_require"]["zoo"].split("\n")
    names = {re.match(r"[\w-]+", line)[0].removesuffix("-py") for line in lines if line}
    installed = {name.replace("-", "_") for name in names} - {"keras_renorm"}
    installed = {"PIL" if name == "pillow" else name for name in installed}
    assert installed | {"keras", "tensorflow"} == programs.NEEDS
