"""What a conversion did, layer by layer."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from keras_renorm import callers
from keras_renorm.convert.counterparts import normalizations
from keras_renorm.typing import Layer


class Change(NamedTuple):
    """What became of one layer.

    Attributes:
        layer: Its path in the model that was converted.
        before: Its class.
        after: The class of the layer in its place. Empty if there is none.
        note: What else is worth knowing; may be empty.
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
        kept: The other layers that normalise. They are unchanged.
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
        count = len(self.replaced)
        head = f"{count} layer{'s'[: count != 1]} replaced, {len(self.kept)} kept"
        return "\n".join([head, *lines])


# A function that takes the report, such as `print`.
Reporter: TypeAlias = Callable[[Report], object]


def check_reporter(reporter: Any) -> None:
    """Raises unless `reporter`, the user's `report=`, can be called."""
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


def report_of(model: Layer, outcome: Callable[[Layer], tuple[str | None, str]]) -> Report:
    """The report on a model's layers that normalise.

    Args:
        model: The model.
        outcome: Gives a layer's `after`, or None if it stays, and its `note`.
    """
    replaced: list[Change] = []
    kept: list[Change] = []
    for layer in normalizations(model):
        after, note = outcome(layer)
        change = Change(layer.path or layer.name, type(layer).__name__, after or "", note)
        (kept if after is None else replaced).append(change)
    return Report(tuple(replaced), tuple(kept))


def deliver(report: Report, reporter: Reporter | None, *, warns: bool = False) -> None:
    """Hands a report over. Without a reporter, may warn of each layer that stays, with the reason.

    Args:
        report: The report.
        reporter: The user's `report=`.
        warns: Whether the layers that stay with a note could not be converted.
    """
    if reporter is not None:
        reporter(report)
        return
    for change in report.kept:
        if warns and change.note:
            callers.warn(
                f"The {change.before} layer {change.layer!r} stays as it is: {change.note}"
            )
