"""The gap between what a model computes in training and what it computes in inference."""

import collections
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from keras_renorm.diagnostics.figures import label_layers
from keras_renorm.diagnostics.forward_pass import forward, left_out, noise
from keras_renorm.diagnostics.layer_traits import (
    BEGIN_AGAIN,
    begins_again,
    is_untouched,
    kind,
    uses_minibatch,
)
from keras_renorm.diagnostics.report import Finding, Report
from keras_renorm.diagnostics.tables import listing
from keras_renorm.models import LayerCall, is_batch_norm, named_layers, steps_so_far
from keras_renorm.ops import Moments, backends
from keras_renorm.statistics import moving_statistics
from keras_renorm.statistics.moments_pass import moments_of
from keras_renorm.statistics.trained_with import Change, leads_away, square_distances

# Half of the output's size. The noise of a minibatch alone makes a gap of about 1/sqrt(m) with m
# values: 0.35 for 8 values.
_LARGE = 0.5

# The largest gap beside which small ones can be read on a linear axis.
_READABLE = 10


@dataclasses.dataclass(frozen=True)
class LayerGap:
    """The gap at one call of a normalization layer.

    Attributes:
        layer: Name of the layer, with the call's number if there are several.
        kind: "BRN", "BN", "Keras BN" or "Keras renorm".
        own: The gap of this layer alone: its output in both modes on the same inputs, which are
            its inputs in inference.
        total: The gap at its output, with the gaps of all layers before it.
    """

    layer: str
    kind: str
    own: float
    total: float


@dataclasses.dataclass(frozen=True)
class TrainInferenceGapReport(Report):
    """What `train_inference_gap` returns.

    Attributes:
        layers: Every call of a normalization layer, in the order of the calls.
        output: The gap at the model's output; with several outputs, the largest gap.
    """

    layers: tuple[LayerGap, ...]
    output: float

    def scalars(self) -> dict[str, float]:
        """The gap at the output, and each layer's own and total gap."""
        values = {"gap/output": self.output}
        for layer in self.layers:
            values[f"gap/own/{layer.layer}"] = layer.own
            values[f"gap/total/{layer.layer}"] = layer.total
        return values

    def _table(self) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
        rows = [*map(dataclasses.astuple, self.layers), ("(output)", "", None, self.output)]
        return ("layer", "kind", "own gap", "total gap"), rows

    def _draw(self, figure: Any) -> None:
        axes = figure.subplots()
        axes.plot([layer.own for layer in self.layers], "o", label="of the layer itself")
        axes.plot([layer.total for layer in self.layers], ".-", label="with those before it")
        axes.axhline(self.output, color="C2", linestyle=":", label="at the model's output")
        if any(_READABLE < gap < np.inf for row in self.layers for gap in (row.own, row.total)):
            axes.set_yscale("symlog", linthresh=1)
        axes.set_ylim(bottom=0)
        axes.set_ylabel("|training - inference| / |inference|, root mean squares")
        axes.legend()
        label_layers(axes, [layer.layer for layer in self.layers])


def train_inference_gap(model: keras.Model, x: Any) -> TrainInferenceGapReport:
    """How far the outputs in training mode are from the outputs in inference, on the same batch.

    ```
    gap = sqrt(mean((y_training - y_inference)^2) / mean(y_inference^2))
    ```

    at the output of every normalization layer and of the model. Dropout, noise and augmentation
    are off in both modes, so the normalization alone makes the gap. With Batch Renormalization the
    gap is 0 where r and d are not clipped. A note then warns if the moving statistics lag so far
    behind these inputs that `statistics.precise` is likely to harm. Nothing in the model changes.

    It names layers whose own gap is above 0.5. Gaps add up, so without such layers it names the
    model if the gap at its output is above 0.5.

    Args:
        model: The model; its layers may lie in any model or layer within.
        x: A batch of its inputs, of the size that training uses. With fewer examples the gap of
            Batch Normalization is larger.

    Returns:
        A `TrainInferenceGapReport`.

    Raises:
        TypeError: If `x` is not one batch, but a dataset or an iterator.
        ValueError: If the model is not built.

    Example:
        >>> keras_renorm.diagnostics.train_inference_gap(model, images[:32]).output

    Source: Ioffe 2017, section 3.
    """
    names = {layer: name for name, layer in named_layers(model) if is_batch_norm(layer)}
    inference, own, changes, inference_output = _run(model, x, names, training=False)
    training, _, _, training_output = _run(model, x, names, training=True)
    rows = tuple(
        _row(names[layer], layer, number, len(outputs), own[layer][number], gap(other, output))
        for layer, outputs in inference.items()
        for number, (output, other) in enumerate(zip(outputs, training[layer], strict=False))
    )
    untouched = [name for layer, name in names.items() if is_untouched(layer)]
    # Before the first step of a training there are no statistics yet, which is no fault.
    faulty = [] if untouched and steps_so_far(model) == 0 else rows
    output = _largest_gap(training_output, inference_output)
    findings = [*_findings(faulty, left_out(model))]
    if faulty and not findings:
        worst = max(rows, key=lambda row: row.total)
        remedy = f"Gaps add up from layer to layer. {_remedy(worst.kind, left_out(model))}"
        findings += output_findings(model.name, output, remedy)
    unequal = [name for x, name in names.items() if len(inference[x]) != len(training[x])]
    notes = (*_notes(model, names, untouched, unequal), *_lag(*square_distances(changes)))
    return TrainInferenceGapReport(tuple(findings), notes, rows, output)


def output_gap(model: keras.Model, x: Any) -> float:
    """The gap at the model's output; see `train_inference_gap`."""
    outputs = [forward(model, x, {}, training=training) for training in (True, False)]
    return _largest_gap(*outputs)


def output_findings(name: str, output: float, remedy: str) -> Iterator[Finding]:
    """The finding for a gap at a model's output, or for an output that is not finite.

    Args:
        name: The model's name.
        output: The gap.
        remedy: Advice that may close the gap.
    """
    if np.isnan(output):
        yield Finding(
            name,
            "not finite",
            f"The output of {name} holds NaN or infinity on these inputs: the inputs or weights "
            "are not finite, or a layer behind the last normalization makes it so.",
        )
    elif output > _LARGE:
        yield Finding(
            name,
            "large output gap",
            f"The output of {name} in training differs from that in inference by {output:.0%} of "
            f"its size, on the same inputs: evaluation runs another net than training. {remedy}",
        )


def _largest_gap(training: Any, inference: Any) -> float:
    """The gap of two outputs; the largest for several."""
    ends = zip(*map(keras.tree.flatten, (training, inference)), strict=True)
    # NumPy's maximum is NaN where any gap is, Python's only where the first is.
    return float(np.max([gap(_array(other), _array(one)) for other, one in ends]))


def gap(y: npt.NDArray[np.float64], reference: npt.NDArray[np.float64]) -> float:
    """The root mean square of `y - reference` over that of `reference`; 0 if both are equal."""
    with np.errstate(all="ignore"):  # what is not finite is a finding
        difference = float(np.sqrt(np.mean(np.square(y - reference))))
        size = float(np.sqrt(np.mean(np.square(reference))))
    if difference == 0:
        return 0.0
    return difference / size if size else float("inf")


_Outputs = collections.defaultdict[Any, list[npt.NDArray[np.float64]]]


def _run(
    model: keras.Model, x: Any, layers: dict[Any, str], *, training: bool
) -> tuple[_Outputs, dict[Any, list[float]], list[Change], Any]:
    """The outputs of the layers' calls, and the model's output.

    In inference also the calls' own gaps, and the moments of their inputs beside the moving
    statistics: these come second and third.
    """
    outputs: _Outputs = collections.defaultdict(list)
    own: dict[Any, list[float]] = collections.defaultdict(list)
    changes: list[Change] = []

    def around(call: LayerCall) -> Any:
        layer, result = call.layer, call.run()
        outputs[layer].append(_array(result))
        if not training:
            changes.append(_change(layer, moments_of(layer, *call.args, **call.kwargs)))
            # In a scope of its own, so that a shared layer's next call sees the same statistics.
            with keras.StatelessScope():
                other = call.run(training=True)
            own[layer].append(gap(_array(other), _array(result)))
        return result

    output = forward(model, x, dict.fromkeys(layers, around), training=training)
    return outputs, own, changes, output


def _change(layer: Any, moments: Moments) -> Change:
    """The moments in the place of the moving statistics, where the call had values."""
    before, seen = moving_statistics.read(layer), _array(moments.count) > 0
    mean = _array(moments.mean) + _array(moments.mean_remainder)
    new = np.where(seen, mean, before[0]), np.where(seen, _array(moments.variance), before[1])
    return layer, before, new


def _lag(to_before: float, to_new: float) -> Iterator[str]:
    """A warning where `statistics.precise` of these inputs would lead away from training."""
    if leads_away(to_before, to_new):
        yield (
            "Training corrects towards moving statistics that differ from these inputs' moments: "
            f"inference is {to_before**0.5:.2f} deviations from training now, and would be "
            f"{to_new**0.5:.2f} with these moments. So if these inputs are like all examples "
            "together, keras_renorm.statistics.precise is likely to harm: let the learning rate "
            "fall first."
        )


def _array(x: Any) -> npt.NDArray[np.float64]:
    """A tensor's numbers; of a ragged one its values."""
    ragged = backends.current().ragged(x)
    x = x if ragged is None else ragged.values
    return np.asarray(keras.ops.convert_to_numpy(x), np.float64)


def _row(name: str, layer: Any, number: int, calls: int, own: float, total: float) -> LayerGap:
    suffix = f" (call {number + 1})" if calls > 1 else ""
    return LayerGap(name + suffix, kind(layer), own, total)


def _notes(
    model: keras.Model, names: dict[Any, str], untouched: list[str], unequal: list[str]
) -> Iterator[str]:
    """Notes on what was left out, and on what explains a gap."""
    yield from noise(model)
    if not names:
        yield "The model has no batch normalization layers."
    frozen = [name for layer, name in names.items() if not uses_minibatch(layer)]
    if frozen:
        yield f"Frozen, so without a gap of their own: {listing(frozen)}."
    if again := [name for layer, name in names.items() if begins_again(layer)]:
        yield f"{BEGIN_AGAIN}: {listing(again)}."
    if untouched:
        yield f"With moving statistics that no step has updated yet: {listing(untouched)}."
    if unequal:
        yield (
            "Not called as often in training as in inference, so only the calls of both are "
            f"compared: {listing(unequal)}."
        )


def _findings(rows: Sequence[LayerGap], left_out: Sequence[str]) -> Iterator[Finding]:
    for row in rows:
        if np.isnan(row.own):
            yield Finding(
                row.layer,
                "not finite",
                f"{row.layer} computes NaN or infinity on these inputs: the inputs, the weights or "
                "the moving statistics are not finite, in this layer or before it.",
            )
        elif row.own > _LARGE:
            yield Finding(
                row.layer,
                "large gap",
                f"The output of {row.layer} in training differs from inference by {row.own:.0%} "
                "of its size, on the same inputs: its moving statistics do not fit this batch. "
                f"Look at its drift in renorm_report. {_remedy(row.kind, left_out)}",
            )


def _remedy(kind: str, left_out: Sequence[str]) -> str:
    """Advice that may close a layer's gap."""
    if left_out:
        return (
            f"The moving statistics may come from activations with {listing(left_out)}, whose "
            f"randomness adds variance that inference lacks. Move {listing(left_out)} behind the "
            "last normalization, or run keras_renorm.statistics.precise."
        )
    if kind in ("BRN", "Keras renorm"):
        return (
            "Run keras_renorm.statistics.precise if training is over or the data has changed; "
            "during the first steps the limits of r and d are meant to be tight."
        )
    return (
        "Run keras_renorm.statistics.precise, train with larger batches, or use "
        "keras_renorm.layers.BatchRenormalization."
    )
