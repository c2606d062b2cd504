"""Programs are tested as what they are: separate processes."""

import concurrent.futures
import contextlib
import json
import os
import resource
import select
import signal
import socket
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


def ended(process, timeout=120):
    """A process that has come to its end, with what it printed."""
    out, err = process.communicate(timeout=timeout)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@pytest.fixture(scope="session")
def run_program(start_program):
    """Runs `python -m MODULE ARGUMENTS` to its end."""
    return lambda module, *arguments: ended(start_program(module, *arguments))


#: The level is what a program would set. NumPy would start threads.
OF_SERVER = environment() | {"TF_CPP_MIN_LOG_LEVEL": "2", "OPENBLAS_NUM_THREADS": "1"}


class Forked:
    """A process that warm_programs.py has forked, with what tests use of `subprocess.Popen`."""

    def __init__(self, args, stdout, stderr, report):
        self.args, self.stdout, self.stderr, self._report = args, stdout, stderr, report
        self.pid, self.returncode = int(report.readline()), None

    def poll(self):
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout=None):
        if self.returncode is None:
            if not select.select([self._report], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout)
            self.returncode = int(self._report.readline())
            self._report.close()
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout=None):
        """Reads what is left of the outputs. A process that takes longer is ended."""
        files = [file for file in (self.stdout, self.stderr) if file is not None]
        with self, concurrent.futures.ThreadPoolExecutor(2) as pool:
            found = [pool.submit(file.read) for file in files]
            try:
                self.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
                raise
            out, *err = (text.result() for text in found)
        return out, err[0] if err else None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for file in (self.stdout, self.stderr):
            if file is not None:
                file.close()
        self.wait()


@pytest.fixture(scope="session")
def fork(tmp_path_factory):
    """Has warm_programs.py start a program, or a piece of Python, and returns the process."""
    folder = tmp_path_factory.mktemp("cwd")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("warm_programs.py"), str(theirs.fileno())],
        env=OF_SERVER,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=[theirs.fileno()],
    )
    theirs.close()

    def start(request, stderr=subprocess.PIPE, **variables):
        request = request | {"folder": str(folder), "environment": environment() | variables}
        pipes = [os.pipe() for _ in range(3)]
        files = [write for _, write in pipes]
        out, err, report = (os.fdopen(read) for read, _ in pipes)
        if stderr == subprocess.STDOUT:
            err.close()
            err, files = None, [files[0], files[0], files[2]]
        try:
            socket.send_fds(ours, [json.dumps(request).encode()], files)
            for _, write in pipes:
                os.close(write)
            return Forked(request, out, err, report)
        except (BrokenPipeError, ValueError):  # no number of a process
            raise AssertionError(server.communicate()[1]) from None

    with ours:
        yield start
    server.communicate()


@pytest.fixture(scope="session")
def start_warm_program(fork):
    """As `start_program`, with TensorFlow imported already: for what comes after the import."""

    def start(module, *arguments, **options):
        return fork({"module": module, "arguments": [*map(str, arguments)]}, **options)

    return start


@pytest.fixture(scope="session")
def run_warm_program(start_warm_program):
    """As `run_program`, with TensorFlow imported already: for what comes after the import."""
    return lambda module, *arguments: ended(start_warm_program(module, *arguments))


@pytest.fixture(scope="session")
def run_warm_python(fork):
    """As `run_python`, with TensorFlow imported already: for what comes after the import."""

    def run(code, *, timeout=120, **variables):
        return ended(fork({"code": code}, **variables), timeout)

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
