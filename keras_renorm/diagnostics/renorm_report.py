"""The corrections of every normalization layer, and the drift of its moving statistics."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_renorm.diagnostics import renorm_rules
from keras_renorm.diagnostics.corrections import LayerCorrections, watch
from keras_renorm.diagnostics.figures import label_layers
from keras_renorm.diagnostics.layer_traits import (
    BEGIN_AGAIN,
    begins_again,
    is_untouched,
    kind,
    uses_minibatch,
)
from keras_renorm.diagnostics.report import Finding, Report
from keras_renorm.diagnostics.tables import listing
from keras_renorm.diagnostics.train_inference_gap import output_findings, output_gap
from keras_renorm.models import is_batch_norm, named_layers, steps_so_far
from keras_renorm.ops import arguments

# Findings that explain a difference of the output.
_CAUSES = {"never updated", "not finite", "wrong domain"}

_LOOK = "keras_renorm.diagnostics.train_inference_gap shows where it comes from."


@dataclasses.dataclass(frozen=True)
class RenormReport(Report):
    """What `renorm_report` returns.

    Attributes:
        layers: Every call of a normalization layer, in the order of the calls.
        output_gap: The gap at the model's output, as in `train_inference_gap`.
    """

    layers: tuple[LayerCorrections, ...]
    output_gap: float

    def scalars(self) -> dict[str, float]:
        """Each layer's limits, clipped shares, extremes of r and d, and drift; the output's gap."""
        values: dict[str, float | None] = {"renorm/output_gap": self.output_gap}
        for layer in self.layers:
            values |= {
                f"renorm/{name}/{layer.layer}": getattr(layer, name)
                for name in ("r_max", "d_max", "r_clipped", "d_clipped", "typical_drift")
            }
            values[f"renorm/scale_drift/{layer.layer}"] = layer.scale_drift.median
            for name, spread in (("r", layer.r), ("d", layer.d)):
                if spread is not None:
                    values[f"renorm/{name}_smallest/{layer.layer}"] = spread.minimum
                    values[f"renorm/{name}_largest/{layer.layer}"] = spread.maximum
        return {name: value for name, value in values.items() if value is not None}

    def _table(self) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
        header = (
            *("layer", "kind", "values", "updates", "r_max", "r min", "med", "max", "clip"),
            *("d_max", "d min", "med", "max", "clip", "|drift|", "scale"),
        )
        return header, [_cells(layer) for layer in self.layers]

    def _draw(self, figure: Any) -> None:
        means, scales = figure.subplots(2, sharex=True)
        where = range(len(self.layers))
        for axes, name, label in (
            (means, "mean_drift", "(mu_B - mu) / sigma"),
            (scales, "scale_drift", "sigma_B / sigma"),
        ):
            spreads = [getattr(layer, name) for layer in self.layers]
            for low, high, alpha in (("minimum", "maximum", 0.2), ("p10", "p90", 0.4)):
                axes.vlines(
                    where,
                    [getattr(spread, low) for spread in spreads],
                    [getattr(spread, high) for spread in spreads],
                    colors="C0",
                    alpha=alpha,
                    linewidth=6,
                )
            axes.plot(where, [spread.median for spread in spreads], "C0o", markersize=4)
            axes.set_ylabel(label)
        for number, row in enumerate(self.layers):
            if row.d_max is not None and row.r_max is not None:
                ends = number - 0.4, number + 0.4
                means.hlines([-row.d_max, row.d_max], *ends, colors="C3")
                scales.hlines([1 / row.r_max, row.r_max], *ends, colors="C3")
        scales.set_yscale("log")
        low, high = scales.get_ylim()
        if high < 4 * low:  # few powers of ten, or none, to write beside the axis
            digits = 1 - math.floor(math.log10(high - low))
            ticks = np.unique(np.geomspace(low, high, 7)[1:-1].round(digits))
            scales.set_yticks(ticks, minor=False)
            scales.yaxis.set_major_formatter("{x:g}")
            scales.yaxis.set_minor_formatter("")
        means.set_title("all channels, 10 to 90 %, median (dot); limits of d and r in red")
        label_layers(scales, [layer.layer for layer in self.layers])
        means.grid(alpha=0.3)


def renorm_report(
    model: keras.Model, x: Any, *, steps: int | None = None, num_steps: int | None = None
) -> RenormReport:
    """The corrections r and d of every normalization layer, and its statistics' drift.

    ```
    mean drift = (mu_B - mu) / sigma        d = clip(mean drift, -d_max, d_max)
    scale drift = sigma_B / sigma           r = clip(scale drift, 1 / r_max, r_max)
    ```

    The minibatch goes through the model as in training, dropout included, because the moving
    statistics come from activations with dropout. Nothing in the model changes. For
    `BatchNormalization` r and d are the values that Batch Renormalization would have at the paper's
    final limits 3 and 5. For Keras's batch norms there is only the drift.

    It names

    - a frozen schedule: limits of 1 and 0 after the moving statistics have forgotten their initial
      values, a counter that does not advance, a schedule that does not end in `num_steps`;
    - an output that differs between training and inference by more than half of its size;
    - overshooting corrections: r or d at its limit in more than a quarter of the channels (the
      paper: few r and no d), or a limit beyond its schedule's bounds;
    - moving statistics of another domain: half of the channels off by more than a standard
      deviation, or by a factor of two in scale;
    - moving statistics that were never updated.

    Args:
        model: The model; its layers may lie in any model or layer within.
        x: A batch of its inputs, of the size that training uses.
        steps: Training steps so far, to compare the layers' counters with. By default those that a
            `LogDiagnostics` around this counts, or else the optimizer of a compiled model.
        num_steps: Steps of the whole training, to compare the schedules with.

    Returns:
        A `RenormReport`.

    Raises:
        TypeError: If `x` is not one batch, but a dataset or an iterator, or a number no integer.
        ValueError: If the model is not built, `steps` is less than 0, or `num_steps` less than 1.

    Example:
        >>> print(keras_renorm.diagnostics.renorm_report(model, images[:32]))

    Source: Ioffe 2017, Algorithm 1 and section 4.1.
    """
    names = {layer: name for name, layer in named_layers(model) if is_batch_norm(layer)}
    steps = arguments.optional_integer("steps", steps, low=0)
    num_steps = arguments.optional_integer("num_steps", num_steps, low=1)
    steps = steps_so_far(model) if steps is None else steps
    seen = watch(model, x, names)
    findings: list[Finding] = []
    for layer, name in names.items():
        findings += renorm_rules.schedule(name, layer, steps, num_steps)
        for row in seen.get(layer, ()):
            findings += renorm_rules.corrections(layer, row, steps)
    rows = [row for layer in seen for row in seen[layer]]
    output = output_gap(model, x)
    if not {finding.kind for finding in findings} & _CAUSES and not (
        steps == 0 and any(map(is_untouched, seen))  # there are no statistics yet
    ):
        findings += output_findings(model.name, output, _LOOK)
    return RenormReport(tuple(findings), tuple(_notes(names, seen)), tuple(rows), output)


def _notes(names: dict[Any, str], seen: dict[Any, list[LayerCorrections]]) -> Iterator[str]:
    """Notes on what the rows leave out, and on how to read them."""
    if not names:
        yield "The model has no batch normalization layers."
    parts: dict[str, Callable[[Any], bool]] = {
        "Not called on these inputs": lambda layer: layer not in seen,
        "Frozen: they train with their moving statistics": lambda layer: not uses_minibatch(layer),
        BEGIN_AGAIN: begins_again,
        "Of the whole minibatch, where training takes each ghost by itself": (
            lambda layer: getattr(layer, "virtual_batch_size", None) is not None
        ),
        "r and d are what BatchRenormalization would have at r_max=3, d_max=5": (
            lambda layer: kind(layer) == "BN"
        ),
    }
    for title, belongs in parts.items():
        found = [name for layer, name in names.items() if belongs(layer)]
        if found:
            yield f"{title}: {listing(found)}."


def _cells(row: LayerCorrections) -> list[Any]:
    """The cells of the table."""
    cells: list[Any] = [row.layer, row.kind, row.values, row.updates]
    for limit, spread, share in (
        (row.r_max, row.r, row.r_clipped),
        (row.d_max, row.d, row.d_clipped),
    ):
        extremes = [None] * 3 if spread is None else [spread.minimum, spread.median, spread.maximum]
        cells += [limit, *extremes, None if share is None else f"{share:.0%}"]
    return [*cells, row.typical_drift, row.scale_drift.median]
