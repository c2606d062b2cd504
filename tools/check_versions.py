"""Runs the goldens with older and newer backends, and writes docs/support.md.

    python tools/check_versions.py [--rows PATTERN] [--wheel FOLDER]
    python tools/check_versions.py --oldest

builds a wheel, and for each row makes an environment (by uv where it is at hand, else by venv and
pip) from the wheel and the row's versions, runs the goldens of tests/goldens in it, and removes it.
PATTERN chooses rows, as in --rows 'JAX*' or --rows 'TensorFlow 2.16, Keras 3.4*'; the lines of the
others stay as they are. --oldest is for CI: it builds and writes nothing, and runs the oldest row
of each backend at the same time, on this tree and the library that is built in it. That of PyTorch
fetches 3 GB, because an index has its wheels with CUDA only. The exit status is 1 if a row is
neither green nor explained here.
"""

import argparse
import concurrent.futures
import dataclasses
import fnmatch
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "support.md"
GOLDENS = [f"tests/goldens/{name}_checks.py" for name in ("case", "structure")]
OPTIONS = ["-q", "-Wignore", "-pno:cacheprovider", "-ofilterwarnings="]
OPTIONS += ["-oaddopts=--import-mode=importlib"]
# What pip knows of each backend. TensorFlow's wheel for CPUs is the
# same code, and a third of the size.
PACKAGES = {"TensorFlow": "tensorflow-cpu", "JAX": "jax", "PyTorch": "torch"}
TABLE = tuple(f"| {backend} " for backend in PACKAGES)
KERAS = ("3.4", "3.10", "3.15")
# Newer versions of TensorFlow demand a newer Keras.
KERAS_OF = {
    "2.16": KERAS,
    "2.17": KERAS,
    "2.18": ("3.6", "3.10", "3.15"),
    "2.19": ("3.6", "3.10", "3.15"),
    "2.20": ("3.10", "3.12", "3.15"),
    "2.21": ("3.12", "3.14", "3.15"),
}
# Enough to fetch PyTorch over 2 MB/s.
SECONDS = 1800


@dataclasses.dataclass(frozen=True)
class Row:
    """Versions that are tried together.

    Attributes:
        backend: A key of `PACKAGES`.
        version: The version of its package; its newest patch is taken.
        keras: The version of Keras, likewise.
        python: The version of Python.
        lowering: What computes there.
    """

    backend: str
    version: str
    keras: str
    python: str = "3.11"
    lowering: str = "native"

    def __str__(self) -> str:
        return f"{self.backend} {self.version}, Keras {self.keras}, Python {self.python}"

    @property
    def requirements(self) -> list[str]:
        """What pip is asked for."""
        versions = {PACKAGES[self.backend]: self.version, "keras": self.keras}
        return [f"{name}=={version}.*" for name, version in versions.items()]


def numbers(version: str) -> tuple[int, ...]:
    """A version, to be compared."""
    return tuple(map(int, version.split(".")))


ROWS = [
    *(
        Row(
            "TensorFlow",
            version,
            keras,
            lowering="native" if numbers(version) >= (2, 18) else "fused",
        )
        for version, oldest_to_newest in KERAS_OF.items()
        for keras in oldest_to_newest
    ),
    Row("TensorFlow", "2.16", "3.4", "3.10", "fused"),
    Row("TensorFlow", "2.20", "3.12", "3.10"),
    Row("TensorFlow", "2.21", "3.15", "3.12"),
    Row("TensorFlow", "2.21", "3.15", "3.13"),
    Row("TensorFlow", "2.21", "3.15", "3.14"),
    *(
        Row("JAX", version, keras)
        for version in ("0.5", "0.6", "0.7", "0.8", "0.9", "0.10")
        for keras in ("3.4", "3.15")
    ),
    Row("JAX", "0.6", "3.12", "3.10"),
    Row("JAX", "0.10", "3.15", "3.13"),
    # From 0.11 on JAX demands Python 3.12.
    Row("JAX", "0.11", "3.15", "3.12"),
    Row("JAX", "0.12", "3.4", "3.12"),
    Row("JAX", "0.12", "3.15", "3.12"),
    Row("JAX", "0.12", "3.15", "3.13"),
    Row("PyTorch", "2.4", "3.4", "3.10"),
    Row("PyTorch", "2.8", "3.10"),
    *(Row("PyTorch", "2.13", keras) for keras in KERAS),
    Row("PyTorch", "2.14", "3.15"),
    Row("PyTorch", "2.14", "3.15", "3.13"),
]
ROWS.sort(
    key=lambda row: (
        list(PACKAGES).index(row.backend),
        *map(numbers, (row.version, row.keras, row.python)),
    )
)
OLDEST = [next(row for row in ROWS if row.backend == backend) for backend in PACKAGES]

# Why a row is not green, by a pattern of its name.
REASONS: dict[str, str] = {
    "JAX 0.[!5]*, Keras 3.4,*": (
        "Keras 3.4's own `fit` calls `jax.spmd_mode`, which JAX took away in 0.6."
    ),
}


class NotGreenError(Exception):
    """What a row lacks, in a sentence."""


def run(command: Sequence[str | pathlib.Path], **options: str) -> subprocess.CompletedProcess[str]:
    """Runs a command; its output comes back as text."""
    # Without bytecode each process would compile the backend's thousands of modules again.
    dropped = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE")
    environment = {name: os.environ[name] for name in os.environ if name not in dropped}
    try:
        return subprocess.run(
            [str(word) for word in command],
            cwd=options.pop("cwd", str(ROOT)),
            env=environment | options,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NotGreenError(f"A command took more than {SECONDS} s.") from None


def interpreter(version: str) -> str:
    """The path of a Python of a version, from the PATH or from pyenv."""
    folders = pathlib.Path.home().glob(f".pyenv/versions/{version}.*/bin")
    paths = os.pathsep.join([*map(str, folders), os.environ["PATH"]])
    found = shutil.which(f"python{version}", path=paths)
    if found is None:
        raise NotGreenError(f"There is no Python {version} on the machine that ran this.")
    return found


def make(folder: pathlib.Path, python: str, packages: Sequence[str]) -> pathlib.Path:
    """Makes an environment with packages; returns the folder of its programs."""
    uv, programs = shutil.which("uv"), folder / "bin"
    pip = [uv, "pip", "install", "--python", str(programs / "python")] if uv else []
    pip = pip or [str(programs / "python"), "-m", "pip", "install"]
    made = run([uv, "venv", "--python", python, folder] if uv else [python, "-m", "venv", folder])
    if made.returncode != 0:
        raise NotGreenError(f"There is no environment: {made.stdout.strip()[-200:]}")
    done = run([*pip, "--quiet", *packages])
    if done.returncode != 0:
        lines = [
            re.sub(r"[^ -~]", "", line).strip() for line in done.stdout.splitlines() if line.strip()
        ]
        raise NotGreenError(f"The versions exclude each other: {' '.join(lines[-4:])}")
    return programs


def check(row: Row, wheel: pathlib.Path | None, folder: pathlib.Path) -> str:
    """Runs the goldens of a row, with this tree where there is no wheel; returns what passed.

    Raises:
        NotGreenError: Something did not pass.
    """
    packages = [*row.requirements, "pytest", "matplotlib"] + [str(wheel)] * (wheel is not None)
    programs = make(folder, interpreter(row.python), packages)
    environment = {
        "PYTHONPATH": "" if wheel else str(ROOT),
        "KERAS_BACKEND": {"PyTorch": "torch"}.get(row.backend, row.backend.lower()),
        "JAX_PLATFORMS": "cpu",
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }
    code = "import keras_renorm as k; print('@', k.__path__[0], k.ops.lowering().name)"
    probe = run([programs / "python", "-W", "ignore", "-c", code], **environment, cwd=str(folder))
    found = re.search(r"^@ (.*) (\w+)$", probe.stdout, re.MULTILINE)
    if found is None:
        raise NotGreenError(f"The import fails: {(probe.stdout.strip().splitlines() or ['?'])[-1]}")
    if found[2] != row.lowering:
        raise NotGreenError(f"It computes by {found[2]}, not {row.lowering}.")
    done = run(
        [programs / "pytest", *OPTIONS, *GOLDENS],
        **environment,
        GOLDENS_EXPECT=f"{found[1]} {row.lowering}",
    )
    summary = (done.stdout.strip().splitlines() or ["nothing"])[-1].strip("= ")
    if done.returncode != 0:
        sys.stderr.write(done.stdout[-6000:])
        raise NotGreenError(f"The goldens: {re.sub(r' in .*', '', summary)}.")
    return re.sub(r",? \d+ warnings?| in .*", "", summary)


def line_of(row: Row, result: str) -> str:
    """A row of the page's table."""
    names = f"{row.backend} {row.version}", row.keras, row.python, row.lowering
    return f"| {' | '.join(names)} | {result} |"


def key_of(line: str) -> tuple[str, ...]:
    """The versions that a line of the table is about."""
    return tuple(cell.strip() for cell in line.split("|")[1:4])


def write(line: str) -> None:
    """Puts a line into the table that ends the page, in the order of the rows."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    table = [one for one in lines if one.startswith(TABLE)]
    known = {key_of(one): one for one in [*table, line]}
    keys = [key_of(line_of(row, "")) for row in ROWS]
    kept = [known[key] for key in keys if key in known]
    rest = [one for one in lines if one not in table]
    PAGE.write_text("".join(f"{one}\n" for one in [*rest, *kept]), encoding="utf-8")


def result_of(row: Row, wheel: pathlib.Path | None) -> tuple[bool, str]:
    """Whether a row is green or explained, and what the table says of it."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            return True, check(row, wheel, pathlib.Path(folder, "env"))
        except NotGreenError as failure:
            reasons = [REASONS[name] for name in REASONS if fnmatch.fnmatch(str(row), name)]
            return bool(reasons), f"not green. {' '.join(reasons) or failure}"


def check_oldest() -> bool:
    """Checks the oldest rows at the same time; returns whether all are green or explained."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        results = list(pool.map(lambda row: result_of(row, None), OLDEST))
    for row, (_, result) in zip(OLDEST, results, strict=True):
        print(f"{row}: {result}")
    return all(good for good, _ in results)


def check_all(pattern: str, wheels: pathlib.Path) -> bool:
    """Checks the rows of a pattern and writes them; returns whether all are green or explained."""
    chosen = [row for row in ROWS if fnmatch.fnmatch(str(row), pattern)]
    (wheel,) = wheels.glob("keras_renorm-*.whl")
    good = bool(chosen)
    for row in chosen:
        explained, result = result_of(row, wheel)
        good &= explained
        print(f"{row}: {result}", flush=True)
        write(line_of(row, result))
    return good


def main() -> None:
    """Checks the rows that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", default="*")
    parser.add_argument("--oldest", action="store_true")
    parser.add_argument("--wheel", type=pathlib.Path, help="a folder with a wheel that was built")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.oldest:
            raise SystemExit(not check_oldest())
        if options.wheel is None:
            built = run([sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", folder, ROOT])
            print(built.stdout if built.returncode else "built a wheel", flush=True)
        raise SystemExit(not check_all(options.rows, options.wheel or pathlib.Path(folder)))


if __name__ == "__main__":
    main()
