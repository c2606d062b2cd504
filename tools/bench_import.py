"""Times what `import keras_renorm` adds to `import keras`, and what `import zoo` takes.

    python tools/bench_import.py [--backends tensorflow,jax,torch] [--rounds 15]

Each round starts a process that imports zoo, then Keras, and then the package: medians of its
milliseconds, as they pass and as the processor works. The latter are the package's own where other
programs share the machine. Bytecode is kept, as of a package that is installed.
"""

import argparse
import os
import statistics
import subprocess
import sys

from benchmarking import print_table

PROGRAM = """
import time
def now():
    return time.perf_counter(), time.thread_time()
started = now()
import zoo
after_zoo = now()
import keras
before = now()
import keras_renorm
done = now()
pairs = (started, after_zoo), (before, done)
print("@", *(1e3 * (end - start) for pair in pairs for start, end in zip(*pair)))
"""
COLUMNS = ("import zoo", "processor", "import keras_renorm", "its processor")


def measured(backend: str) -> list[float]:
    """Milliseconds for `import zoo`, and for `import keras_renorm` after Keras, in both clocks."""
    environment = os.environ | {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "2"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return list(map(float, done.stdout.rpartition("@")[2].split()))


def main() -> None:
    """Prints the medians of all backends, which take turns."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--backends", default="tensorflow,jax,torch")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    found: dict[str, list[list[float]]] = {name: [] for name in options.backends.split(",")}
    for _ in range(options.rounds):
        for backend, times in found.items():
            times.append(measured(backend))
    rows = {
        backend: dict(zip(COLUMNS, map(statistics.median, zip(*times, strict=True)), strict=True))
        for backend, times in found.items()
    }
    print_table("ms, the median", COLUMNS, rows)


if __name__ == "__main__":
    main()
