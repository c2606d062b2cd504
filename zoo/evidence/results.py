"""Makes a document of what runs gave: numbers, verdicts, and what they were measured on."""

import math
import os
import platform
from collections.abc import Sequence
from typing import Any

from zoo.evidence import percentiles
from zoo.evidence.claims import Claim
from zoo.evidence.experiment import Experiment, Run
from zoo.evidence.runs import Measured
from zoo.training.cli.recipes import load_recipe


def document(
    name: str, experiment: Experiment, scale: str, measured: Sequence[Measured]
) -> dict[str, Any]:
    """Returns all that a page shows of an experiment, ready for JSON.

    `arms[arm][metric]` has a number for each seed, or None where a run that diverged has none.
    `diverged` is 1 for such a run, and 0 for the others of its arm.

    Args:
        name: Name of the experiment.
        experiment: What was run.
        scale: Name of the scale.
        measured: What each run gave.
    """
    firsts = list(experiment.runs(scale, seeds=1))
    arms = {first.arm.name: _numbers(experiment, first, measured) for first in firsts}
    curves = {arm.name: _curves(arm.name, measured) for arm in experiment.arms}
    return {
        "name": name,
        "scale": scale,
        "seeds": len({run.seed for run in measured}),
        "runs": len(measured),
        "training_seconds": round(sum(run.seconds for run in measured)),
        "arms": arms,
        "curves": curves,
        "percentiles": {run.arm: run.percentiles[0] for run in measured if run.percentiles},
        "commands": _commands(experiment, scale),
        "claims": [_claim(claim, arms) for claim in experiment.claims],
        **_where(),
    }


def steps_to(curve: Sequence[tuple[int, float]], accuracy: float, num_steps: int) -> float:
    """Returns the step of the first evaluation with an accuracy.

    Args:
        curve: Step and accuracy of each evaluation.
        accuracy: What must be reached.
        num_steps: Length of a whole run.

    Returns:
        The step. It is the length of a whole run, a lower bound, for a run that never gets there,
        also where it diverged before.
    """
    return float(next((step for step, value in curve if value >= accuracy), num_steps))


def _numbers(
    experiment: Experiment, first: Run, measured: Sequence[Measured]
) -> dict[str, list[float | None]]:
    """Returns each metric's numbers by seed.

    Args:
        experiment: What was run.
        first: The arm's run with the first seed.
        measured: What each run gave.
    """
    arm = first.arm
    runs = [run for run in measured if run.arm == arm.name]
    names = [*dict.fromkeys(name for run in runs for name in run.numbers), *arm.measures]
    numbers: dict[str, list[float | None]]
    numbers = {name: [run.numbers.get(name) for run in runs] for name in names}
    if "diverged" in numbers:
        numbers["diverged"] = [value or 0.0 for value in numbers["diverged"]]
    if experiment.target is not None:
        length = {**load_recipe(first.recipe), **first.keys}["num_steps"]
        reached = (steps_to(run.curve, experiment.target, length) for run in runs)
        numbers["steps_to_target"] = list(reached)
    if arm.follows:
        for metric in (percentiles.drift, percentiles.widening):
            found = (metric(run.percentiles) if run.percentiles else None for run in runs)
            numbers[metric.__name__] = list(found)
    return numbers


def _curves(arm: str, measured: Sequence[Measured]) -> list[list[tuple[int, float]]]:
    return [run.curve for run in measured if run.arm == arm]


def _commands(experiment: Experiment, scale: str) -> dict[str, str]:
    """Returns the command that trains each arm's first seed."""
    runs = experiment.runs(scale, seeds=1)
    return {run.arm.name: " ".join(["python -m zoo.train", *run.flags]) for run in runs}


def _claim(claim: Claim, arms: dict[str, Any]) -> dict[str, Any]:
    difference, error, verdict = claim.find(arms)
    return {
        "text": claim.text,
        "paper": claim.paper,
        "rule": claim.rule,
        "metric": claim.left.metric,
        "difference": _finite(difference),
        "error": _finite(error),
        "verdict": verdict,
    }


def _finite(number: float) -> float | None:
    """Returns a number as JSON has it."""
    return number if math.isfinite(number) else None


def _where() -> dict[str, Any]:
    """Returns the machine and the versions."""
    import keras
    import tensorflow as tf

    import keras_renorm
    from keras_renorm import ops
    from zoo.training.records.environment import processor

    return {
        "machine": f"{processor()}, {os.cpu_count()} cores",
        "versions": {
            "keras_renorm": keras_renorm.__version__,
            "keras": keras.__version__,
            "tensorflow": tf.__version__,
            "python": platform.python_version(),
        },
        "kernels": ops.lowering(),
    }
