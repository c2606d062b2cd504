"""An experiment as a picture: test accuracy against steps, where each seed ended, percentiles."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from zoo.evidence.page import NUMBERS, shown
from zoo.training.storage import files

_WIDTH, _LEAST_HEIGHT, _ARM_HEIGHT = 11.0, 4.0, 0.32
_PERCENTILES = ("15 %", "50 %", "85 %")


def draw(document: dict[str, Any], metric: str, path: Path) -> None:
    """Draws the curves of all arms, next to them a metric of each seed, and percentiles below.

    Args:
        document: What `zoo.evidence.results.document` returns.
        metric: The metric of the right half.
        path: The picture's file.
    """
    from matplotlib.figure import Figure

    arms = list(document["arms"])
    height = max(_LEAST_HEIGHT, 1 + _ARM_HEIGHT * len(arms))
    followed = document["percentiles"]
    figure = Figure(figsize=(_WIDTH, height * (2 if followed else 1)), layout="constrained")
    upper, *lower = figure.subfigures(2 if followed else 1, 1, squeeze=False)[:, 0]
    for part in lower:
        _draw_percentiles(part, followed)
    curves, ends = upper.subplots(1, 2, width_ratios=(5, 4))
    for number, arm in enumerate(arms):
        style = {"color": f"C{number % 10}", "linestyle": ("-", "--", ":")[number // 10 % 3]}
        _draw_curve(curves, document["curves"][arm], style)
        numbers = document["arms"][arm].get(metric, [])
        values = [shown(metric, number) for number in numbers if number is not None]
        _draw_ends(ends, number, values, style["color"])
    curves.set_xlabel("steps")
    curves.set_ylabel("test accuracy (%): mean and range of the seeds")
    ends.set_yticks(range(len(arms)), arms)
    ends.invert_yaxis()
    ends.set_xlabel(_label(metric) + ": each seed, and the mean")
    for axes in (curves, ends):
        axes.grid(alpha=0.3)
    with files.replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)


def _draw_curve(axes: Any, curves: Sequence[Sequence[tuple[int, float]]], style: Any) -> None:
    """Draws the mean over the seeds that reached the end, within their range."""
    longest = max(map(len, curves), default=0)
    whole = [curve for curve in curves if len(curve) == longest]
    if not longest:
        return
    steps = [step for step, _ in whole[0]]
    columns = list(zip(*([100 * value for _, value in curve] for curve in whole), strict=True))
    axes.plot(steps, [fmean(column) for column in columns], **style)
    ranges = [min(column) for column in columns], [max(column) for column in columns]
    axes.fill_between(steps, *ranges, color=style["color"], alpha=0.15, linewidth=0)


def _draw_ends(axes: Any, row: int, values: Sequence[float], color: str) -> None:
    axes.plot(values, [row] * len(values), "o", color=color, alpha=0.4, markersize=4)
    if values:
        axes.plot(fmean(values), row, "|", color=color, markersize=14, markeredgewidth=2)


def _draw_percentiles(figure: Any, followed: dict[str, Sequence[Sequence[float]]]) -> None:
    """Draws what comes into one unit, as figures 1b and 1c of Batch Norm's paper do."""
    panels = figure.subplots(1, len(followed), sharey=True, squeeze=False)[0]
    for axes, (arm, rows) in zip(panels, followed.items(), strict=True):
        steps, *lines = zip(*rows, strict=True)
        for label, line in reversed(list(zip(_PERCENTILES, lines, strict=True))):
            axes.plot(steps, line, label=label)
        axes.set(title=arm, xlabel="steps")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("input of one unit: percentiles")
    panels[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5))


def _label(metric: str) -> str:
    unit = "" if metric in NUMBERS else " (%)"
    return metric.replace("_", " ") + unit
