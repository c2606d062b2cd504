"""What a conversion did, layer by layer."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias


class Change(NamedTuple):
    """What became of one layer.

    Attributes:
        layer: Its path in the model that was converted.
        before: Its class.
        after: The class of the layer in its place. Empty if there is none.
        note: Anything else worth knowing. Empty if there is nothing.
    """

    layer: str
    before: str
    after: str
    note: str = ""


class Report(NamedTuple):
    """What a conversion did to the normalization layers of a model, in the model's order.

    Printed, it is a line for each layer.

    Attributes:
        replaced: The layers that were replaced, folded or removed.
        kept: The other layers that normalise, as they were.
    """

    replaced: tuple[Change, ...]
    kept: tuple[Change, ...]

    def __str__(self) -> str:
        width = max((len(change.layer) for change in self.replaced + self.kept), default=0)
        lines = [
            f"  {change.layer:{width}}  {_outcome(change, f' -> {change.after}')}"
            for change in self.replaced
        ]
        lines += [f"  {change.layer:{width}}  {_outcome(change, ' kept')}" for change in self.kept]
        return "\n".join([f"{len(self.replaced)} layers replaced, {len(self.kept)} kept", *lines])


# What is called with the report: `print`, for one.
Reporter: TypeAlias = Callable[[Report], object]


def check_reporter(reporter: Any) -> None:
    """Raises unless `reporter`, what the user gave as `report=`, can be called."""
    if reporter is not None and not callable(reporter):
        raise TypeError(
            "`report` must be a function that is called with the Report, or None, received "
            f"{reporter!r} of type {type(reporter).__name__}. Write `report=print` to see it."
        )


def _outcome(change: Change, verb: str) -> str:
    """A layer's class and what became of it."""
    if not change.after and verb != " kept":
        return f"{change.before} {change.note}"
    return f"{change.before}{verb}" + (f" ({change.note})" if change.note else "")


def deliver(report: Report, reporter: Reporter | None, *, failed: frozenset[str]) -> None:
    """Hands a report over, or warns of what could not be converted if nobody asked for one.

    Args:
        report: The report.
        reporter: What the user gave as `report=`.
        failed: Paths of the layers that should have been converted and were not.
    """
    if reporter is not None:
        reporter(report)
        return
    for change in report.kept:
        if change.layer in failed:
            warnings.warn(
                f"The {change.before} layer {change.layer!r} is kept as it is: {change.note}",
                stacklevel=4,
            )
