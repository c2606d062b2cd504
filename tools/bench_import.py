"""Times what `import keras_renorm` adds to `import keras`, and what `import zoo` takes.

    python tools/bench_import.py [--backends tensorflow,jax,torch] [--rounds 15]

Each round starts a process that imports Keras, and then the package: medians of its milliseconds.
"""

import argparse
import os
import statistics
import subprocess
import sys

from benchmarking import print_table

PROGRAM = """
import time
started = time.perf_counter()
import zoo
after_zoo = time.perf_counter()
import keras
before = time.perf_counter()
import keras_renorm
print("@", 1e3 * (after_zoo - started), 1e3 * (time.perf_counter() - before))
"""


def measured(backend: str) -> tuple[float, float]:
    """Milliseconds for `import zoo`, and for `import keras_renorm` after Keras."""
    environment = os.environ | {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "2"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    zoo, package = done.stdout.rpartition("@")[2].split()
    return float(zoo), float(package)


def main() -> None:
    """Prints the medians of all backends, which take turns."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--backends", default="tensorflow,jax,torch")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in options.backends.split(",")}
    for _ in range(options.rounds):
        for backend, times in found.items():
            times.append(measured(backend))
    columns = ("import zoo", "import keras_renorm")
    rows = {
        backend: dict(zip(columns, map(statistics.median, zip(*times, strict=True)), strict=True))
        for backend, times in found.items()
    }
    print_table("ms, the median", columns, rows)


if __name__ == "__main__":
    main()
