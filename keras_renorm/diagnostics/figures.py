"""Figures, where matplotlib is installed."""

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

# Letters of a name below an axis. 40 letters take up to 2.6 of a figure's 6 inches, 100 take all 6.
_LONGEST = 40


def figure(draw: Callable[[Any], None], path: str | pathlib.Path | None) -> Any:
    """A matplotlib figure of 8 by 6 inches, and its file if there is a path.

    Args:
        draw: A function that draws on the figure.
        path: Where to save the figure, or None. An existing file is replaced.

    Returns:
        A `matplotlib.figure.Figure`, made without pyplot. So no window opens, and nothing has to be
        closed. A notebook shows the figure if it is the value of a cell.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "`plot` needs matplotlib, which is not installed. Write `pip install matplotlib`, or "
            "use `print(report)` for the table and `report.to_dict()` for the numbers."
        ) from error
    result = Figure(figsize=(8.0, 6.0), layout="constrained")
    draw(result)
    if path is not None:
        result.savefig(path, dpi=150)
    return result


def label_layers(axes: Any, names: list[str]) -> None:
    """Writes the layers' names below the x axis: at most 40 names, and the ends of long ones."""
    every = max(1, -(-len(names) // 40))
    shown = range(0, len(names), every)
    size = "small" if len(shown) < 20 else "x-small"
    labels = [_shortened(names[i]) for i in shown]
    axes.set_xticks(np.asarray(shown), labels, rotation=90, fontsize=size)
    axes.grid(alpha=0.3)


def _shortened(name: str) -> str:
    """The end of a long name, which tells layers of one nested model apart."""
    return name if len(name) <= _LONGEST else "…" + name[1 - _LONGEST :]
