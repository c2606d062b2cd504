"""`docs/evidence.md`: what each experiment found, made from its document."""

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from zoo.evidence.experiment import Experiment
from zoo.training.cli.terminal import duration

#: Metrics that are no shares, and their decimals. The others are shown in per cent.
NUMBERS = {"drift": 2, "gap": 3, "kernel_norm": 1, "steps_to_target": 0, "widening": 2}

_HEAD = """# Evidence

This page says which claims of the papers hold in this package, at a scale that two cores can run.
Each section is generated from a file of results beside it: `python -m zoo.reproduce
--experiment=NAME --workdir=DIR` runs the experiment again, and `python tools/write_evidence.py`
writes this page.

A verdict follows from a rule that is written down before the runs. A claim that one number is
greater than another is *held* if the 95 % interval of the mean difference over the seeds
(Student's t, seed by seed) lies above 0, *not held* if it lies below, and *not decided* otherwise.
A claim that two are equal has the largest difference that counts as equal. What does not hold
stands here with its numbers. Accuracies are shares of the test images in %, with the deviation over
the seeds. A run that diverged counts with the accuracy of a guess, and with its full length as the
steps to a target. It has no other number, and a claim about one is *not decided*.

A picture shows the mean of the seeds that reached the end, within their range. Beside it stands the
first column of the table for each seed. More than four arms have a panel each, with the others in
grey.
"""


def page(sections: Sequence[str], documents: Sequence[Mapping[str, Any]]) -> str:
    """Returns the whole page.

    Args:
        sections: What `section` returns for each experiment.
        documents: The experiments' documents, in the same order.
    """
    verdicts = [claim["verdict"] for document in documents for claim in document["claims"]]
    counts = ", ".join(
        f"{verdicts.count(verdict)} {verdict}" for verdict in ("held", "not held", "not decided")
    )
    return "\n".join([_HEAD, f"Claims on this page: {counts}.\n", *sections])


def section(experiment: Experiment, document: Mapping[str, Any]) -> str:
    """Returns the section of one experiment.

    Args:
        experiment: What was run.
        document: What `zoo.evidence.results.document` made of it.
    """
    name = document["name"]
    parts = [
        f"## {experiment.title}\n",
        f"{experiment.source}. {experiment.about}\n",
        _claims(document["claims"]),
        _table(experiment, document),
        f"![{experiment.title}: accuracy against steps, and each seed](evidence/{name}.png)\n",
        _conditions(experiment, document),
    ]
    return "\n".join(parts)


def _claims(claims: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        f"| {claim['text']} | {claim['paper']} | {claim['rule']} | {found(claim)} "
        f"| **{claim['verdict']}** |"
        for claim in claims
    ]
    head = "| claim | the paper | rule | difference | verdict |\n|---|---|---|---|---|"
    return "\n".join([head, *rows, ""])


def found(claim: Mapping[str, Any]) -> str:
    """Returns the difference with its interval, in points for accuracies, or a dash for none."""
    if claim["difference"] is None:
        return "-"
    text = f"{shown(claim['metric'], claim['difference']):+}"
    return text if claim["error"] is None else f"{text} ± {shown(claim['metric'], claim['error'])}"


def shown(metric: str, value: float) -> float:
    """Returns a number of a metric as tables show it: steps, a gap, or an accuracy in per cent."""
    if metric not in NUMBERS:
        return round(100 * value, 1)
    return round(value, NUMBERS[metric] or None)


def _table(experiment: Experiment, document: Mapping[str, Any]) -> str:
    columns = experiment.columns
    head = f"| | {' | '.join(column.replace('_', ' ') for column in columns)} |"
    rows = [
        f"| {arm.name} | {' | '.join(cell(document['arms'][arm.name], c) for c in columns)} |"
        for arm in experiment.arms
    ]
    return "\n".join([head, f"|---{'|---' * len(columns)}|", *rows, ""])


def cell(numbers: Mapping[str, Sequence[float | None]], column: str) -> str:
    """Returns a mean and the deviation over the seeds that have a number, or a dash for none."""
    values = [value for value in numbers.get(column, ()) if value is not None]
    if not values:
        return "-"
    spread = f" ± {shown(column, stdev(values))}" if len(values) > 1 else ""
    diverged = numbers.get("diverged", ()).count(1.0)
    failed = f" ({diverged} diverged)" if diverged and column == "accuracy" else ""
    return f"{shown(column, fmean(values))}{spread}{failed}"


def _conditions(experiment: Experiment, document: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    first = document["commands"][experiment.arms[0].name]
    return (
        f"{document['runs']} runs, {document['seeds']} seeds, scale `{document['scale']}`, "
        f"{duration(document['training_seconds'])} of training on {document['machine']}; "
        f"{versions}. A run of the first line: `{first} --workdir=DIR`.\n"
    )
