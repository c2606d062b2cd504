"""Programs are tested as what they are: separate processes."""

import contextlib
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import zoo

#: A training of a second. Its ramps outlast it, and records come between checkpoints. Its numbers
#: of steps have no common divisor, so nothing is due together.
TINY = (
    "--config.num_steps=120",
    "--config.batch_size=20",
    "--config.log_every_steps=7",
    "--config.eval_every_steps=50",
    "--config.checkpoint_every_steps=10",
    "--config.augment",
    "--config.weight_decay=1e-4",
    "--config.warmup_steps=20",
    "--config.r_max=3",
    "--config.r_max_ramp=10,1050",
    "--config.d_max_ramp=10,750",
)


NOBODY = 65534

ROOT = Path(zoo.__file__).parent.parent


def environment(*folders):
    """The environment of a program: the package under test, and nothing of pytest's.

    Args:
        *folders: Where modules are, beside the package.
    """
    cleared = {"TF_CPP_MIN_LOG_LEVEL", "KERAS_BACKEND", "TF_CONFIG"}
    kept = {name: value for name, value in os.environ.items() if name not in cleared}
    return kept | {"PYTHONPATH": os.pathsep.join(map(str, [ROOT, *folders]))}


def command(module, *arguments):
    return [sys.executable, "-m", module, *map(str, arguments)]


@pytest.fixture
def unprivileged():
    """Runs a body as a user whom file permissions bind, and who owns a folder with all in it."""

    @contextlib.contextmanager
    def run(folder):
        if os.geteuid() != 0:
            yield
            return
        for path in [folder, *folder.rglob("*")]:
            os.chown(path, NOBODY, -1)
        for path in folder.resolve().parents:  # pytest closes them to others
            path.chmod(path.stat().st_mode | 0o011)
        os.seteuid(NOBODY)
        try:
            yield
        finally:
            os.seteuid(0)

    return run


@pytest.fixture
def little_space():
    """Runs a body that may write files of a number of bytes, as on a disk that is almost full."""

    @contextlib.contextmanager
    def run(size):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return run


@pytest.fixture(scope="session")
def start_program(tmp_path_factory):
    """Starts `python -m MODULE ARGUMENTS` and returns the process."""
    folder = tmp_path_factory.mktemp("cwd")

    def start(module, *arguments, stderr=subprocess.PIPE):
        return subprocess.Popen(
            command(module, *arguments),
            cwd=folder,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )

    return start


@pytest.fixture(scope="session")
def run_program(start_program):
    """Runs `python -m MODULE ARGUMENTS` to its end."""

    def run(module, *arguments):
        process = start_program(module, *arguments)
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    return run


@pytest.fixture(scope="session")
def start_cluster(tmp_path_factory):
    """Starts workers on this machine and returns the process of their launcher."""
    folder = tmp_path_factory.mktemp("cluster")

    def start(count, *arguments, code="from zoo import train\ntrain.run()"):
        (folder / "worker.py").write_text(code)
        launcher = str(ROOT / "tools" / "launch_local_cluster.py")
        return subprocess.Popen(
            [sys.executable, launcher, f"-n{count}", "--module=worker", "--", *arguments],
            cwd=folder,
            env=environment(folder),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


@pytest.fixture(scope="session")
def run_python(tmp_path_factory):
    """Runs a piece of Python in a process of its own."""
    folder = tmp_path_factory.mktemp("cwd")

    def run(code, *, timeout=120, **variables):
        return subprocess.run(
            [sys.executable, "-c", code],
            cwd=folder,
            env=environment() | variables,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def tiny_arguments():
    """The arguments of a tiny training."""
    return TINY


@pytest.fixture(scope="session")
def finished_run(run_program, tmp_path_factory):
    """The working directory of a tiny training, and what the program printed. Not to be changed."""
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    return workdir, run_program("zoo.train", f"--workdir={workdir}", *TINY)
