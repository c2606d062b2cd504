"""An experiment as a picture: test accuracy against steps, where each seed ended, percentiles."""

import itertools
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from zoo.evidence.experiment import Experiment
from zoo.evidence.page import NUMBERS, shown
from zoo.training.storage import files

_WIDTH, _LEAST_HEIGHT, _ROW_HEIGHT, _PANEL_HEIGHT = 11.0, 4.0, 0.32, 1.6
_PERCENTILES = ("15 %", "50 %", "85 %")
_MOST_CURVES = 4  # more of them in one panel hide each other
_GREY = {"color": "0.75", "linewidth": 0.8}


def draw(experiment: Experiment, document: Mapping[str, Any], path: Path) -> None:
    """Draws an experiment into a file.

    Args:
        experiment: What was run.
        document: What `zoo.evidence.results.document` made of it.
        path: The picture's file.
    """
    with files.replacing(path) as temporary:
        figure(experiment, document).savefig(temporary, dpi=110)


def figure(experiment: Experiment, document: Mapping[str, Any]) -> Any:
    """Returns the curves of all arms, next to them what each seed gave, and percentiles below.

    More than four arms have a panel each, with the others' curves in grey. Next to them stands the
    first column, or all shares where there is one arm only.

    Args:
        experiment: What was run.
        document: What `zoo.evidence.results.document` made of it.
    """
    from matplotlib.figure import Figure

    arms = [arm.name for arm in experiment.arms]
    colors = {arm: f"C{number % 10}" for number, arm in enumerate(arms)}
    panels = _panels(arms)
    rows = _rows(arms, document["arms"], experiment.columns)
    height = max(_LEAST_HEIGHT, 1 + _ROW_HEIGHT * len(rows), _PANEL_HEIGHT * len(panels))
    followed = document.get("percentiles", {})
    whole = Figure(figsize=(_WIDTH, height * (2 if followed else 1)), layout="constrained")
    upper, *lower = whole.subfigures(2 if followed else 1, 1, squeeze=False)[:, 0]
    for part in lower:
        _draw_percentiles(part, followed)
    left, right = upper.subfigures(1, 2, width_ratios=(5, 4))
    _draw_panels(left, panels, document["curves"], colors)
    _draw_ends(right.subplots(), rows, colors)
    return whole


def _panels(arms: Sequence[str]) -> list[list[list[str]]]:
    """Returns which arms stand in each panel, by rows of panels."""
    if len(arms) <= _MOST_CURVES:
        return [[list(arms)]]
    across = 2 if len(arms) <= 2 * _MOST_CURVES else 3
    alone = [[arm] for arm in arms]
    return [alone[first : first + across] for first in range(0, len(alone), across)]


def _draw_panels(
    figure: Any, panels: list[list[list[str]]], curves: Mapping[str, Any], colors: dict[str, str]
) -> None:
    grid = figure.subplots(len(panels), len(panels[0]), sharex=True, sharey=True, squeeze=False)
    panel_count = sum(map(len, panels))
    for axes in grid.flat[panel_count:]:
        axes.set_axis_off()
    for axes in grid.flat[max(panel_count - len(panels[0]), 0) : panel_count]:
        axes.tick_params(labelbottom=True)  # the last of each column
    for axes, own in zip(grid.flat, itertools.chain(*panels), strict=False):
        for arm in [arm for arm in colors if arm not in own]:
            _draw_curve(axes, curves[arm], _GREY, band=False)
        for arm in own:
            _draw_curve(axes, curves[arm], {"color": colors[arm]})
        if panel_count > 1:
            axes.set_title(own[0], fontsize="small", color=colors[own[0]])
        axes.grid(alpha=0.3)
    figure.supxlabel("steps", fontsize="medium")
    figure.supylabel("test accuracy (%): mean and range of the seeds", fontsize="medium")


def _draw_curve(
    axes: Any, curves: Sequence[Sequence[tuple[int, float]]], style: Any, *, band: bool = True
) -> None:
    """Draws the mean over the seeds that reached the end, and with `band` their range."""
    longest = max(map(len, curves), default=0)
    whole = [curve for curve in curves if len(curve) == longest]
    if not longest:
        return
    steps = [step for step, _ in whole[0]]
    columns = list(zip(*([100 * value for _, value in curve] for curve in whole), strict=True))
    axes.plot(steps, [fmean(column) for column in columns], **style)
    if band:
        ranges = [min(column) for column in columns], [max(column) for column in columns]
        axes.fill_between(steps, *ranges, color=style["color"], alpha=0.15, linewidth=0)


class _Row(NamedTuple):
    """What the seeds gave of one metric of one arm."""

    label: str
    arm: str
    metric: str
    values: list[float]


def _rows(arms: Sequence[str], numbers: Mapping[str, Any], columns: Sequence[str]) -> list[_Row]:
    """Returns the first column of each arm, or all shares of the only one."""
    shares = [column for column in columns if column not in NUMBERS]
    metrics = shares if len(arms) == 1 and shares else columns[:1]
    rows = []
    for arm, metric in itertools.product(arms, metrics):
        label = arm if len(arms) > 1 else metric.replace("_", " ")
        values = [one for one in numbers[arm].get(metric, []) if one is not None]
        rows.append(_Row(label, arm, metric, [shown(metric, one) for one in values]))
    return rows


def _draw_ends(axes: Any, rows: Sequence[_Row], colors: dict[str, str]) -> None:
    for number, row in enumerate(rows):
        color = colors[row.arm]
        axes.plot(row.values, [number] * len(row.values), "o", color=color, alpha=0.4, markersize=4)
        if row.values:
            mean = fmean(row.values)
            axes.plot(mean, number, "|", color=color, markersize=14, markeredgewidth=2)
    axes.set_yticks(range(len(rows)), [row.label for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel(_label({row.metric for row in rows}) + ": each seed, and the mean", loc="right")
    axes.grid(alpha=0.3)


def _draw_percentiles(figure: Any, followed: Mapping[str, Sequence[Sequence[float]]]) -> None:
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


def _label(metrics: Collection[str]) -> str:
    if len(metrics) > 1:
        return "shares (%)"
    (metric,) = metrics
    return metric.replace("_", " ") + ("" if metric in NUMBERS else " (%)")
