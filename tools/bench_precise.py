"""Times `statistics.precise` of a ResNet-20 with each of its ways, in turns, and compares results.

[KERAS_BACKEND=jax] python tools/bench_precise.py [IMAGES [ROUNDS]]

Prints the median seconds, the sweeps, and how many deviations the statistics are off at most from
those of sweeps batch by batch.
"""

import statistics
import sys
import time
from typing import Any

import numpy as np
from benchmarking import machine, print_table

import zoo
from keras_renorm.models import batch_norms
from keras_renorm.statistics import moving_statistics, precise

WAYS: dict[str, dict[str, Any]] = {
    "batch by batch": {"memory_budget": 0},
    "default": {},
    "single": {"passes": "single"},
}


def main(images: int = 200, rounds: int = 3) -> None:
    """Measures, and prints a table."""
    model = zoo.create_model("resnet20", input_shape=(32, 32, 3), num_classes=10)
    x = np.random.default_rng(0).normal(size=(images, 32, 32, 3)).astype("float32")
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    rows: dict[str, dict[str, float]] = {}
    exact: list[Any] = []
    start = model.get_weights()
    for _ in range(rounds):
        for way, options in WAYS.items():
            model.set_weights(start)
            began = time.perf_counter()
            report = precise(model, x, verbose=0, **options)
            times[way].append(time.perf_counter() - began)
            found = [moving_statistics.read(norm) for norm in batch_norms(model)]
            exact = exact or found
            off = max(
                np.max(np.abs(own[0] - mean) / np.sqrt(variance + 1e-3))
                for own, (mean, variance) in zip(found, exact, strict=True)
            )
            rows[way] = {"seconds": statistics.median(times[way]), "sweeps": report.sweeps}
            rows[way] |= {"off, 1e-6": 1e6 * float(off)}
    print(machine())
    print_table(f"{images} images", ["seconds", "sweeps", "off, 1e-6"], rows)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
