"""Reruns experiments of the papers and says which of their claims hold.

python -m zoo.reproduce --experiment=NAME|all --workdir=DIR [--scale=smoke|default|full] [--seeds=K]
python -m zoo.reproduce --list

Each experiment trains several nets with several seeds by zoo.train, evaluates them, and judges each
claim by a rule that is written down beside it in zoo/experiments. DIR/NAME/SCALE gets results.json,
a picture, a section of the page docs/evidence.md, and a folder for each run. The same command
resumes what was interrupted. --list shows the experiments and what each costs.
"""

import os
from typing import Any

from zoo.training.cli import program
from zoo.training.cli.signals import as_interrupts


def parse(argv: list[str]) -> dict[str, Any] | None:
    """Returns what to run by the names of `reproduce`; None for a list of what there is."""
    from absl import flags

    from zoo.training.cli import arguments

    name = flags.DEFINE_string("experiment", None, "Name of the experiment, or all.")
    workdir = flags.DEFINE_string("workdir", None, "Folder for the runs and the results.")
    scale = flags.DEFINE_string("scale", "default", "How much is run: smoke, default, full.")
    seeds = flags.DEFINE_integer("seeds", None, "Number of seeds; the scale's by default.", 1, 1000)
    processes = flags.DEFINE_integer(
        "processes", os.cpu_count() or 1, "Runs at a time; by default one for each core.", 1, 1000
    )
    listed = flags.DEFINE_bool("list", False, "List the experiments instead.")
    arguments.no_arguments(arguments.parse_flags(argv))
    if listed.value:
        return None
    return {
        "name": arguments.required("experiment", name.value, "non_iid"),
        "path": arguments.required("workdir", workdir.value, "runs/evidence"),
        "scale": scale.value,
        "seeds": seeds.value,
        "processes": processes.value,
    }


def main(parsed: dict[str, Any] | None) -> int:
    """Runs an experiment, or lists all."""
    from rich.console import Console

    from zoo.evidence import reproduce

    if parsed is None:
        reproduce.listing(Console())
    else:
        from zoo.training.cli.runtime import load_tensorflow

        load_tensorflow()
        with as_interrupts():
            reproduce.reproduce(**parsed, console=Console())
    return 0


def run() -> None:
    """Runs the program with the arguments of the command line."""
    program.run(parse, main, __doc__)


if __name__ == "__main__":
    run()
