"""The report that every gauge returns."""

import abc
import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from keras_renorm.diagnostics.figures import figure
from keras_renorm.diagnostics.tables import bullets, listing, table

# How many findings of one kind are printed in full.
_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class Finding:
    """A fault that a gauge names.

    Attributes:
        layer: Name of the layer, or of the model.
        kind: The sort of fault, in a few words that are the same in every report.
        message: A sentence with the layer's name, the number, and what to do.
    """

    layer: str
    kind: str
    message: str

    def __str__(self) -> str:
        return self.message


@dataclasses.dataclass(frozen=True)
class Report(abc.ABC):
    """Plain data that prints as a table and can be drawn.

    Attributes:
        findings: The faults that were found; a healthy model has none.
        notes: What the gauge left out, and how to read its numbers.
    """

    findings: tuple[Finding, ...]
    notes: tuple[str, ...]

    @abc.abstractmethod
    def scalars(self) -> dict[str, float]:
        """Numbers for a log such as TensorBoard's, by names with slashes."""

    @abc.abstractmethod
    def _table(self) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
        """Header and rows of the table."""

    @abc.abstractmethod
    def _draw(self, figure: Any) -> None:
        """Draws the report on a matplotlib figure."""

    def to_dict(self) -> dict[str, Any]:
        """The report as dictionaries, tuples, strings and numbers, for `json.dumps`."""
        return dataclasses.asdict(self)

    def plot(self, path: str | pathlib.Path | None = None) -> Any:
        """Draws the report.

        Args:
            path: Where to save the figure, or None. An existing file is replaced.

        Returns:
            A `matplotlib.figure.Figure`.

        Raises:
            ImportError: If matplotlib is not installed.
        """
        return figure(self._draw, path)

    def sentences(self) -> list[str]:
        """The first three messages of each kind of finding, then the names of the other layers."""
        sentences = []
        for kind in dict.fromkeys(finding.kind for finding in self.findings):
            alike = [finding for finding in self.findings if finding.kind == kind]
            sentences += [finding.message for finding in alike[:_SHOWN]]
            others = list(dict.fromkeys(finding.layer for finding in alike[_SHOWN:]))
            if others:
                sentences.append(f"The same ({kind}) in {len(others)} more: {listing(others)}.")
        return sentences

    def __str__(self) -> str:
        header, rows = self._table()
        parts = [
            table(header, rows) if rows else "",
            bullets("Notes:", self.notes),
            bullets("Findings:", self.sentences()) or "Findings: none.",
        ]
        return "\n\n".join(filter(None, parts))
