"""Times forward + backward of normalisation layers, each contender in a process of its own.

    python tools/bench_norm.py --json norm.json
    python tools/bench_norm.py --shapes 32x56x56x64,256x256 --contenders native,tf_fused,floor
    python tools/bench_norm.py --layers 8

The processes take turns of about 40 ms, the first half of which warms up, so that what else the
machine does falls on all alike. A figure is the median of a contender's turns. `native`, `fused`
and `composite` are our layer by its lowerings under TensorFlow, `jax` and `torch_layer` are the
layer under JAX and PyTorch, whose own batch norm is `torch`; all with the paper's limits, and
`adaptive` and `jax_adaptive` with the layer's default ones. With `--layers`, as many of them follow
each other in a call, and a figure is a layer's share: in a network the cost of the call itself
(0.25 ms for a tf.function) falls on many layers. Forward reads x twice and writes y, backward reads
x and dy twice and writes dx. `floor` is as many passes, 8, at the speed of copying: four copies,
with stores past the cache where that is faster. `traffic` is the lower bound, for memory reads
faster than it writes: the 6 passes that read and the 2 that write, as two copies and four sums. It
re-reads what the last pass left in the cache, as the kernels may. Both are C (memory_speed.c), on
all cores.
"""

import argparse
import json
import math
import os
import pathlib
import random
import statistics
import subprocess
import sys
from typing import Any, NamedTuple

from benchmarking import machine, print_table, write_json

SHAPES = (
    "32x112x112x64,32x56x56x64,32x28x28x128,32x14x14x256,32x7x7x2048,128x32x32x16,128x8x8x64,"
    "256x256,16x1024"
)
CONTENDERS = (
    "native,fused,composite,adaptive,keras,keras_renorm,tf_fused,torch,jax,jax_adaptive,jax_keras,"
    "jax_keras_renorm,"
    "torch_layer,torch_keras,floor,traffic"
)
LARGE = 1_000_000  # bytes of float32 from which a shape counts in the geometric means


class Setting(NamedTuple):
    """One line of the table."""

    shape: tuple[int, ...]
    dtype: str
    relu: bool
    layers: int

    def __str__(self) -> str:
        return f"{'x'.join(map(str, self.shape))} {self.dtype}{' relu' if self.relu else ''}"

    @property
    def large(self) -> bool:
        """Whether the shape counts in the geometric means."""
        return 4 * math.prod(self.shape) >= LARGE


class Contender:
    """A process that prepares a setting and times it, one repeat per request."""

    def __init__(self, name: str) -> None:
        self.name = name
        worker = pathlib.Path(__file__).with_name("bench_norm_worker.py")
        # Each chooses its backend and lowering itself.
        own = ("KERAS_BACKEND", "KERAS_RENORM_LOWERING")
        environment = {key: value for key, value in os.environ.items() if key not in own}
        self._process = subprocess.Popen(
            [sys.executable, str(worker), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment | {"TF_CPP_MIN_LOG_LEVEL": "3"},
            text=True,
        )

    def ask(self, request: Any) -> Any:
        """Sends one request and returns the answer; None where the contender cannot do it.

        Raises:
            SystemExit: The process has ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise SystemExit(
                f"The contender {self.name} ended with status {self._process.wait()}. To see why, "
                f"give tools/bench_norm_worker.py {self.name} this line: {json.dumps(request)}"
            )
        return json.loads(line)

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()


def measure(contenders: list[Contender], setting: Setting, seconds: float) -> dict[str, float]:
    """Returns each contender's median, in milliseconds, of repeats taken in turns."""
    ready = [c for c in contenders if c.ask(setting._asdict()) is not None]
    times: dict[str, list[float]] = {c.name: [] for c in ready}
    spent = 0.0
    while ready and (spent < seconds or len(times[ready[0].name]) < 5):
        for contender in random.sample(ready, len(ready)):
            times[contender.name].append(contender.ask("time"))
            spent += max(2 * setting.layers * times[contender.name][-1], 0.04)
        if len(times[ready[0].name]) >= 51:
            break
    return {name: 1e3 * statistics.median(values) for name, values in times.items()}


def ratios(results: dict[Setting, dict[str, float]], ours: str) -> dict[str, float]:
    """Geometric means of ours over each contender, over large shapes, per type and with ReLU."""
    logs: dict[str, list[float]] = {}
    for setting, medians in results.items():
        if setting.large and ours in medians:
            for name, value in medians.items():
                key = f"{name} {setting.dtype}{' relu' if setting.relu else ''}"
                logs.setdefault(key, []).append(math.log(medians[ours] / value))
    return {key: math.exp(statistics.fmean(values)) for key, values in logs.items()}


def parse() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shapes", default=SHAPES)
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--relu", default="no,yes", help="no, yes or no,yes")
    parser.add_argument("--contenders", default=CONTENDERS)
    parser.add_argument("--ours", default="native,jax", help="the contenders that ratios are of")
    parser.add_argument("--layers", type=int, default=1, help="that follow each other in a call")
    parser.add_argument("--seconds", type=float, default=10.0, help="about, per line")
    parser.add_argument("--json", type=pathlib.Path)
    arguments = parser.parse_args()
    for given, known in (
        (arguments.contenders, CONTENDERS),
        (arguments.ours, CONTENDERS),
        (arguments.relu, "no,yes"),
    ):
        unknown = set(given.split(",")) - set(known.split(","))
        if unknown:
            parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {known}")
    if arguments.layers < 1:
        parser.error(f"--layers={arguments.layers} is not at least 1")
    if arguments.json is not None and arguments.json.exists():
        parser.error(f"{arguments.json} exists; name another file")
    return arguments


def main() -> None:
    """Measures, prints the table and writes the JSON."""
    arguments = parse()
    contenders = [Contender(name) for name in arguments.contenders.split(",")]
    results = {}
    for dtype in arguments.dtypes.split(","):
        for relu in arguments.relu.split(","):
            for shape in arguments.shapes.split(","):
                sizes = tuple(map(int, shape.split("x")))
                setting = Setting(sizes, dtype, relu == "yes", arguments.layers)
                results[setting] = measure(contenders, setting, arguments.seconds)
                print(setting, {k: round(v, 2) for k, v in results[setting].items()}, flush=True)
    for contender in contenders:
        contender.close()
    print_table("ms", [c.name for c in contenders], results)
    summary = {ours: ratios(results, ours) for ours in arguments.ours.split(",")}
    for ours, values in summary.items():
        print(*(f"{ours} / {key}: {value:.2f}" for key, value in values.items()), sep="\n")
    rows = [setting._asdict() | {"ms": medians} for setting, medians in results.items()]
    write_json(arguments.json, {"machine": machine(), "results": rows, "ratios": summary})


if __name__ == "__main__":
    main()
