"""A lint of a model's normalization: faults that show without running the model."""

import collections
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras

from keras_renorm import models
from keras_renorm.diagnostics import lint_rules
from keras_renorm.diagnostics.figures import label_layers
from keras_renorm.diagnostics.layer_traits import kind, positions
from keras_renorm.diagnostics.report import Finding, Report
from keras_renorm.models import is_batch_norm
from keras_renorm.ops import arguments


@dataclasses.dataclass(frozen=True)
class NormUse:
    """One call of a normalization layer.

    Attributes:
        layer: Name of the layer, with the names of the models around it in front.
        kind: "BRN", "BN", "Keras BN" or "Keras renorm".
        call: Number of the call, from 1.
        positions: Values per channel and example; None where a size is unknown.
        values: Values behind a channel's statistics in training; None where a size is unknown. With
            an id per example, the values of one domain, if all have equal shares of the batch.
    """

    layer: str
    kind: str
    call: int
    positions: int | None
    values: int | None


@dataclasses.dataclass(frozen=True)
class LintReport(Report):
    """What `lint` returns.

    Attributes:
        norms: Every call of a normalization layer.
    """

    norms: tuple[NormUse, ...]

    def scalars(self) -> dict[str, float]:
        """The number of findings, and each layer's values per channel."""
        values = {
            f"lint/values_per_channel/{norm.layer}": float(norm.values)
            for norm in self.norms
            if norm.values is not None
        }
        return {"lint/findings": float(len(self.findings))} | values

    def _table(self) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
        header = ("layer", "kind", "call", "positions/example", "values/channel")
        return header, [dataclasses.astuple(norm) for norm in self.norms]

    def _draw(self, figure: Any) -> None:
        axes = figure.subplots()
        faulty = {f.layer for f in self.findings} & {norm.layer for norm in self.norms}
        axes.bar(
            range(len(self.norms)),
            [norm.values or norm.positions or 0 for norm in self.norms],
            color=["C3" if norm.layer in faulty else "C0" for norm in self.norms],
        )
        axes.set(yscale="log", ylim=(1, None))
        known = any(norm.values for norm in self.norms)
        axes.set_ylabel("values per channel" + (" in a batch" if known else " and example"))
        count = len(self.findings)
        axes.set_title(f"{count} finding{'s'[: count != 1]}" + (", layers in red" * bool(faulty)))
        label_layers(axes, [norm.layer for norm in self.norms])


def lint(
    model: keras.Model,
    batch_size: int | None = None,
    *,
    num_steps: int | None = None,
    replicas: int = 1,
) -> LintReport:
    """Names faults in how a model's normalization layers are set up.

    It finds

    - a bias before a normalization that subtracts it again;
    - statistics of fewer than a handful of values: 8 for Batch Normalization, because a standard
      deviation of 8 values has an error of 1/sqrt(2*8) = 25 %; 3 for Batch Renormalization, because
      two values pass almost no gradient (the sums of dL/dx and x*dL/dx are 0);
    - a normalization directly after another;
    - one layer called on several inputs, which have their own minibatch statistics but share the
      population's; a `DomainBatchNormalization` whose two kinds of statistics differ;
    - a normalization inside of `TimeDistributed`, or with an `axis` other than the channels in the
      `data_format` of the layer beside it;
    - moving statistics that no data has: NaN, infinity, a negative variance;
    - limits above 1.5 and 0.5 with initial moving statistics;
    - a momentum of 0 or 1, or one at which the initial values 0 and 1 would still make up more than
      5 % of the moving statistics after `num_steps`; schedules that do not end in `num_steps` more.

    It does not run the model, and changes nothing in it.

    Args:
        model: The model. In parts that are neither functional nor Sequential the order of the
            layers is unknown, and the report says so.
        batch_size: Examples in a training step, over all replicas. Without it, the number of
            values is not checked.
        num_steps: Steps still to train. Without it, schedules and momentum are not checked.
        replicas: Number of replicas that share a batch.

    Returns:
        A `LintReport`.

    Raises:
        TypeError: If `model` is no Keras model, or a number is no integer.
        ValueError: If `batch_size`, `num_steps` or `replicas` is less than 1.

    Example:
        >>> print(keras_renorm.diagnostics.lint(model, batch_size=4))

    Source: Ioffe & Szegedy 2015, section 3.2 (bias); Wu & Johnson 2021, section 5 (domains).
    """
    replicas = arguments.integer("replicas", replicas, low=1)
    batch_size = arguments.optional_integer("batch_size", batch_size, low=1)
    num_steps = arguments.optional_integer("num_steps", num_steps, low=1)
    graph = models.calls(model)
    batch = None if batch_size is None else lint_rules.Batch(batch_size, replicas)
    calls = [call for call in graph.calls if is_batch_norm(call.operation)]
    layers = list(models.named_layers(model))
    norms = {name: layer for name, layer in layers if is_batch_norm(layer)}
    times = collections.Counter(call.operation for call in calls)  # none where calls are unknown
    findings = [
        *_each(calls, lambda call: lint_rules.useless_bias(call, graph.calls)),
        *_each(calls, lint_rules.norm_after_norm),
        *_each(calls, lint_rules.wrong_axis),
        *_each(calls, lambda call: lint_rules.few_values(call, batch)),
        *lint_rules.shared(calls),
        *(
            found
            for name, layer in norms.items()
            for found in lint_rules.settings(name, layer, num_steps, max(1, times[layer]))
        ),
        *(found for item in norms.items() for found in lint_rules.open_limits(*item)),
        *(found for item in norms.items() for found in lint_rules.broken_statistics(*item)),
        *(found for item in layers for found in lint_rules.by_frames(*item)),
    ]
    notes = (*graph.unknown, *_notes(norms, batch, num_steps))
    return LintReport(tuple(findings), notes, tuple(_use(call, batch) for call in calls))


def _each(
    calls: Sequence[models.Call], rule: Callable[[models.Call], Finding | None]
) -> Iterable[Finding]:
    """A rule's findings in calls; each once, even if a layer is called several times."""
    return dict.fromkeys(filter(None, map(rule, calls)))


def _use(call: models.Call, batch: lint_rules.Batch | None) -> NormUse:
    layer = call.operation
    return NormUse(
        layer=call.name,
        kind=kind(layer),
        call=call.index + 1,
        positions=positions(layer, call.inputs[0].shape),
        values=lint_rules.values_per_channel(call, batch),
    )


def _notes(
    norms: dict[str, keras.layers.Layer], batch: lint_rules.Batch | None, num_steps: int | None
) -> list[str]:
    notes = []
    if not norms:
        notes.append("The model has no batch normalization layers.")
    if batch is None:
        notes.append("Values per channel were not checked: give batch_size.")
    if num_steps is None:
        notes.append("Schedules and momentum were not held against the training: give num_steps.")
    return notes
