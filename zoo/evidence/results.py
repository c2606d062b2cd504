"""Makes a document of what runs gave: numbers, verdicts, and what they were measured on."""

import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoo.evidence import percentiles
from zoo.evidence.claims import Claim
from zoo.evidence.experiment import Experiment
from zoo.evidence.runs import Measured


def document(
    name: str, experiment: Experiment, scale: str, measured: Sequence[Measured]
) -> dict[str, Any]:
    """Returns all that a page shows of an experiment, ready for JSON.

    Args:
        name: Name of the experiment.
        experiment: What was run.
        scale: Name of the scale.
        measured: What each run gave.
    """
    arms = {arm.name: _numbers(experiment, arm.name, measured) for arm in experiment.arms}
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


def steps_to(curve: Sequence[tuple[int, float]], accuracy: float) -> float:
    """Returns the step of the first evaluation with an accuracy.

    Args:
        curve: Step and accuracy of each evaluation.
        accuracy: What must be reached.

    Returns:
        The step. It is the last one, a lower bound, for a run that never gets there, and 0 for a
        run without evaluations.
    """
    reached = (step for step, value in curve if value >= accuracy)
    return float(next(reached, curve[-1][0] if curve else 0))


def _numbers(
    experiment: Experiment, arm: str, measured: Sequence[Measured]
) -> dict[str, list[float]]:
    """Returns each metric's numbers by seed."""
    runs = [run for run in measured if run.arm == arm]
    numbers = {metric: [run.numbers[metric] for run in runs] for metric in _shared(runs)}
    if experiment.target is not None:
        numbers["steps_to_target"] = [steps_to(run.curve, experiment.target) for run in runs]
    if all(run.percentiles for run in runs):
        for metric in (percentiles.drift, percentiles.widening):
            numbers[metric.__name__] = [metric(run.percentiles) for run in runs]
    return numbers


def _shared(runs: Sequence[Measured]) -> list[str]:
    """Returns the metrics that all of these runs have."""
    return [key for key in runs[0].numbers if all(key in run.numbers for run in runs)]


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
        "difference": difference,
        "error": None if error == float("inf") else error,
        "verdict": verdict,
    }


def _where() -> dict[str, Any]:
    """Returns the machine and the versions."""
    import keras
    import tensorflow as tf

    import keras_renorm
    from keras_renorm import ops

    return {
        "machine": f"{_processor()}, {os.cpu_count()} cores",
        "versions": {
            "keras_renorm": keras_renorm.__version__,
            "keras": keras.__version__,
            "tensorflow": tf.__version__,
            "python": platform.python_version(),
        },
        "kernels": ops.lowering(),
    }


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    names = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
