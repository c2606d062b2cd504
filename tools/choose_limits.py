"""Compares rules for the limits of Batch Renorm on a fixed set of short runs.

python tools/choose_limits.py --json=FILE.json [--cases=dense] [--seeds=0,1,2] [--scale=0.1]

Each case trains a small net with every rule and every seed at once, in plain JAX, and tests it with
its moving statistics. A dense net sees Fashion-MNIST at 14x14. A ResNet-8 and a ResNet-20 see
CIFAR-10 at 8x8. --cases is a regular expression, and --scale shortens all runs, to try the script
out. docs/default_limits.md says what the cases are for, and what came out.
"""

import dataclasses
import math
import pathlib
import re
import statistics
from collections.abc import Iterator, Sequence

from benchmarking import machine, write_json
from limit_rules import BATCH_NORM, RAMPS, RULES
from limit_runs import Case, run

from zoo.errors import UserError
from zoo.training.cli import program


def fixed_set() -> Iterator[Case]:
    """The cases, as they were written down before the rules were tried on them."""
    kinds = ("iid", "2 labels", "ghosts of 2", "ghosts of 4")
    for net, rate, all_of in (("dense", 0.02, (500, 2000)), ("resnet8", 0.1, (500,))):
        for steps in all_of:
            for times, momentum in ((1, 0.99), (3, 0.99), (1, 0.9)):
                yield from (Case(net, kind, steps, times * rate, momentum) for kind in kinds)
    yield from (Case("resnet8", kind, 2000, 0.1, 0.99) for kind in kinds)
    yield from (Case("dense", kind, 8000, 0.02, 0.99) for kind in kinds[:2])
    yield from (Case("dense", kind, 2000, 0.001, 0.99, optimizer="adam") for kind in kinds[:2])
    yield Case("resnet20", "iid", 300, 0.1, 0.99, batch_size=64)


def small_minibatches() -> Iterator[Case]:
    """Cases that were added later: small minibatches that are not cut into ghosts."""
    for size, rate in ((2, 0.005), (4, 0.005), (4, 0.02), (8, 0.01)):
        yield Case("dense", "iid", 2000, rate, 0.99, batch_size=size)
    for rate in (0.01, 0.03):
        yield Case("resnet8", "iid", 2000, rate, 0.99, batch_size=4)


def standard_error(values: Sequence[float]) -> float:
    """The standard error of the mean; 0 of one value."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def row(case: str, rows: dict[str, list[float]]) -> str:
    """The mean accuracies in percent, with batch norm's standard error."""
    cells = {name: f"{100 * statistics.mean(values):.1f}" for name, values in rows.items()}
    cells[BATCH_NORM] += f" ± {100 * standard_error(rows[BATCH_NORM]):.1f}"
    return f"| {case} | " + " | ".join(cells.values()) + " |"


def shortfall(rows: dict[str, list[float]], name: str) -> float:
    """By how much a rule misses what is wanted in one case; 0 or less where it reaches it."""
    mean = {key: statistics.mean(values) for key, values in rows.items()}
    floor = mean[BATCH_NORM]
    gain = max(mean[ramp] for ramp in RAMPS) - floor
    error = standard_error(rows[BATCH_NORM])
    return floor + (0.9 * gain if gain > error else -error) - mean[name]


def verdicts(found: dict[str, dict[str, list[float]]]) -> str:
    """For each rule, in how many cases it reaches what is wanted, and its worst shortfall."""
    lines = [
        "| rule | cases reached | mean shortfall | worst shortfall | where |",
        "|---" * 5 + "|",
    ]
    for name in next(iter(found.values())):
        misses = {case: 100 * shortfall(rows, name) for case, rows in found.items()}
        reached = sum(miss <= 0 for miss in misses.values())
        worst = max(misses, key=lambda case: misses[case])
        mean = statistics.mean(max(0.0, miss) for miss in misses.values())
        lines.append(
            f"| {name} | {reached} of {len(found)} | {mean:.2f} | {misses[worst]:.1f} | {worst} |"
        )
    return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the flags say."""

    cases: str
    seeds: list[int]
    scale: float
    json: pathlib.Path | None


def parse(argv: list[str]) -> Settings:
    """Defines and reads the flags."""
    from absl import flags

    from zoo.training.cli import arguments

    flags.DEFINE_string("cases", "", "A regular expression for the cases to run.")
    flags.DEFINE_list("seeds", ["0", "1", "2"], "Comma-separated integers.")
    flags.DEFINE_float("scale", 1.0, "Share of the steps to do.", 0.0, 1.0)
    flags.DEFINE_string("json", None, "A new file for the results.")
    arguments.no_arguments(arguments.parse_flags(argv))
    seeds, path = flags.FLAGS["seeds"].value, flags.FLAGS["json"].value
    if not all(word.strip().isdecimal() for word in seeds):
        raise UserError(f"--seeds must be integers, as in --seeds=0,1; received {seeds}.")
    if path is not None and pathlib.Path(path).exists():
        raise UserError(f"--json must name a new file, but {path} is there already.")
    return Settings(
        flags.FLAGS["cases"].value,
        [int(word) for word in seeds],
        flags.FLAGS["scale"].value,
        None if path is None else pathlib.Path(path),
    )


def main(settings: Settings) -> int:
    """Runs the cases, and prints the tables."""
    cases = [*fixed_set(), *small_minibatches()]
    cases = [case for case in cases if re.search(settings.cases, str(case))]
    if not cases:
        raise UserError(f"--cases={settings.cases!r} matches none of the cases.")
    found: dict[str, dict[str, list[float]]] = {}
    print("| case | " + " | ".join(RULES) + " |", "|---" * (1 + len(RULES)) + "|", sep="\n")
    for case in cases:
        values = run(case, list(RULES.values()), settings.seeds, settings.scale)
        found[str(case)] = {name: one.tolist() for name, one in zip(RULES, values, strict=True)}
        print(row(str(case), found[str(case)]), flush=True)
    print("", verdicts(found), sep="\n")
    document = {"machine": machine(), "seeds": settings.seeds, "scale": settings.scale}
    write_json(settings.json, document | {"accuracy": found})
    return 0


if __name__ == "__main__":
    program.run(parse, main, __doc__)
