"""What synchronized moments cost: a layer of ours, local and synchronized, beside Keras's.

For 1, 2 and 4 replicas of a MirroredStrategy on logical CPU devices, each in a process of its own:
a layer forward and backward in a `tf.function`, the contenders interleaved, medians. The replicas
share the machine's cores, and each has the whole shape: compare within a row.

    python tools/bench_sync.py --json=sync.json
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarking import machine, write_json

CONTENDERS = ("local", "synchronized", "keras_local", "keras_synchronized")


def contenders(replicas: int, shape: tuple[int, ...]) -> dict[str, Callable[[], Any]]:
    """Returns a training step of each contender's layer, on every replica."""
    import keras
    import tensorflow as tf

    from keras_renorm import layers

    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * replicas,
    )
    strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)])
    ours, theirs = layers.BatchNormalization, keras.layers.BatchNormalization

    def step_of(layer_class: type, synchronized: bool) -> Callable[[], Any]:
        with strategy.scope():
            layer = layer_class(synchronized=synchronized)
            layer.build(shape)
        x = tf.random.normal(shape)

        def replica_step() -> Any:
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = layer(x, training=True)
            return tape.gradient(y, [x, layer.gamma, layer.beta], output_gradients=x)

        return tf.function(lambda: strategy.run(replica_step))

    kinds = ((kind, flag) for kind in (ours, theirs) for flag in (False, True))
    return dict(zip(CONTENDERS, (step_of(*kind) for kind in kinds), strict=True))


def measure(replicas: int, shape: tuple[int, ...], rounds: int) -> dict[str, float]:
    """Returns each contender's median time of a step, in milliseconds."""
    steps = contenders(replicas, shape)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 3):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if number >= 3:  # the first ones trace and compile
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def show(rows: list[dict[str, Any]], name: str) -> None:
    """Prints the table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"ms per step, forward and backward; {name}")
    columns = ("shape", "replicas", *CONTENDERS, "synchronized/local", "keras/ours synchronized")
    for column in columns:
        table.add_column(column, justify="right")
    for row in rows:
        ms = [row[name] for name in CONTENDERS]
        values = (*(f"{t:.2f}" for t in ms), f"{ms[1] / ms[0]:.2f}", f"{ms[3] / ms[1]:.2f}")
        table.add_row("x".join(map(str, row["shape"])), str(row["replicas"]), *values)
    Console(width=140).print(table)


def main() -> None:
    """Runs a process for each number of replicas and shape, and shows what they measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shapes", nargs="+", default=["32x56x56x64", "32x14x14x256", "256x256"])
    parser.add_argument("--replicas", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--json", type=pathlib.Path, help="file to write the figures to")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    shapes = [tuple(map(int, shape.split("x"))) for shape in options.shapes]
    if options.worker:
        print(json.dumps(measure(options.replicas[0], shapes[0], options.rounds)))
        return
    rows: list[dict[str, Any]] = []
    for shape in options.shapes:
        for replicas in options.replicas:
            arguments = [f"--shapes={shape}", f"--replicas={replicas}", "--worker"]
            command = [sys.executable, __file__, *arguments, f"--rounds={options.rounds}"]
            result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            figures = json.loads(result.stdout.splitlines()[-1])
            row = {"shape": list(map(int, shape.split("x"))), "replicas": replicas}
            rows.append(row | figures)
    show(rows, machine())
    write_json(options.json, {"machine": machine(), "rows": rows})


if __name__ == "__main__":
    main()
