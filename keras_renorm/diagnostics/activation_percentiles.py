"""Percentiles of a unit's input over training."""

import dataclasses
import difflib
import inspect
import itertools
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from keras_renorm import keras_internals
from keras_renorm.diagnostics.forward_pass import forward
from keras_renorm.diagnostics.report import Finding, Report
from keras_renorm.diagnostics.step_callback import StepCallback
from keras_renorm.models import LayerCall, is_linear, named_layers, watched
from keras_renorm.ops import arguments


@dataclasses.dataclass(frozen=True)
class PercentileRecord:
    """The percentiles at one step.

    Attributes:
        step: Training steps so far.
        percentiles: The unit's input at each of the percentages.
    """

    step: int
    percentiles: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class ActivationPercentilesReport(Report):
    """What `ActivationPercentiles` has recorded.

    Attributes:
        unit: The layer and the unit, for titles.
        percentages: Which percentiles, in rising order.
        records: A record for each time.
    """

    unit: str
    percentages: tuple[float, ...]
    records: tuple[PercentileRecord, ...]

    def scalars(self) -> dict[str, float]:
        """The percentiles of the last record."""
        if not self.records:
            return {}
        last = self.records[-1].percentiles
        return {
            f"percentiles/{self.unit}/{percentage:g}": value
            for percentage, value in zip(self.percentages, last, strict=True)
        }

    def _table(self) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
        header = ("step", *(f"{percentage:g} %" for percentage in self.percentages))
        return header, [(record.step, *record.percentiles) for record in self.records]

    def _draw(self, figure: Any) -> None:
        axes = figure.subplots()
        steps = [record.step for record in self.records]
        values = np.array([record.percentiles for record in self.records])
        for percentage, line in reversed(list(zip(self.percentages, values.T, strict=False))):
            axes.plot(steps, line, label=f"{percentage:g} %")
        axes.set(xlabel="steps", ylabel=f"input of {self.unit}")
        if self.records:
            axes.legend(title="percentile")
        axes.grid(alpha=0.3)


class ActivationPercentiles(StepCallback):
    """Records percentiles of one unit's input over training.

    It draws Figure 1 (b, c) of the Batch Normalization paper: the {15, 50, 85}th percentiles of a
    sigmoid's input drift during training, and stay put with Batch Normalization.

    The unit's input is the input of its layer's activation; for a layer without an activation, the
    layer's input. It is taken over all examples and positions of a batch, in training mode without
    dropout. Nothing in the model changes.

    Give the callback to `fit`. In a loop of your own, call `set_model(model)`, then `record(step)`.
    `print(recorder.report())` shows the table, `recorder.plot()` draws the figure, and
    `recorder.data` holds the records. The report names a unit that has drifted: its middle
    percentile has left the range between the outer percentiles of the first record. It also names a
    unit whose input is constant.

    Args:
        layer: The layer, or its name, with the names of the models around it in front
            (`"encoder/dense"`); or a tensor of a functional model, for the tensor's values.
        unit: Index of the unit on the last axis.
        x: A batch of the model's inputs to look at. Or a `tf.data.Dataset` or an iterator of
            batches `x`, `(x, y)` or `(x, y, w)`. Each record then takes the next batch, and so
            follows the training data.
        percentiles: Percentages in [0, 100], in rising order.
        every_n_steps: Steps between two records. There is also a record before the first step, and
            one at the end.
        log_dir: Folder for TensorBoard, or None.
        optimizer: The optimizer whose steps count, by default the model's. Needed where a
            `train_step` uses another.

    Raises:
        TypeError: If `layer`, `unit`, `percentiles` or `every_n_steps` has the wrong type.
        ValueError: If `percentiles` or `every_n_steps` is out of range. When training begins, if
            the model has no such layer or tensor, the layer no such unit, or the activation belongs
            to a part of the layer, such as an LSTM's cell.

    Example:
        >>> recorder = keras_renorm.diagnostics.ActivationPercentiles("last_sigmoid", 0, images)
        >>> model.fit(dataset, callbacks=[recorder])
        >>> recorder.plot("figure1.png")

    Source: Ioffe & Szegedy 2015, section 4.1 and Figure 1.
    """

    def __init__(
        self,
        layer: str | keras.layers.Layer | keras.KerasTensor,
        unit: int,
        x: Any,
        percentiles: Sequence[float] = (15, 50, 85),
        *,
        every_n_steps: int = 100,
        log_dir: str | pathlib.Path | None = None,
        optimizer: keras.optimizers.Optimizer | None = None,
    ) -> None:
        super().__init__(every_n_steps, log_dir, optimizer)
        self._percentages = _percentages(percentiles)
        self._layer = _layer(layer)
        self._unit = arguments.integer("unit", unit)
        self._x = iter(x.repeat()) if hasattr(x, "as_numpy_iterator") else x
        self._records: list[PercentileRecord] = []

    @property
    def data(self) -> tuple[PercentileRecord, ...]:
        """The records so far."""
        return tuple(self._records)

    def record(self, step: int) -> None:
        """Adds the present percentiles.

        Args:
            step: Training steps so far.
        """
        values = _unit_values(self.model, self._layer, self._unit, self._batch())
        percentiles = np.percentile(values, self._percentages).tolist()
        self._records.append(PercentileRecord(int(step), tuple(percentiles)))
        self.log(self.report(), step)

    def report(self) -> ActivationPercentilesReport:
        """The records as a report."""
        name = self._layer if isinstance(self._layer, str) else self._layer.name
        unit = f"{name}[{self._unit}]"
        findings = tuple(_findings(unit, self._percentages, self._records))
        return ActivationPercentilesReport(findings, (), unit, self._percentages, self.data)

    def plot(self, path: str | pathlib.Path | None = None) -> Any:
        """Draws the records; see `Report.plot`."""
        return self.report().plot(path)

    def _batch(self) -> Any:
        """The inputs to look at: the given batch, or the iterator's next batch."""
        if not isinstance(self._x, Iterator):
            return self._x
        try:
            return keras.utils.unpack_x_y_sample_weight(next(self._x))[0]
        except StopIteration as error:
            raise ValueError(
                f"The iterator `x` ended after {len(self._records)} records. Give one that goes "
                "on, e.g. iter(dataset.repeat()), or one batch."
            ) from error


def _layer(layer: Any) -> Any:
    if not isinstance(layer, str | keras.layers.Layer | keras.KerasTensor):
        raise TypeError(
            "`layer` must be a layer, its name or a tensor of a functional model, received "
            f"{layer!r} of type {type(layer).__name__}. Write e.g. "
            '"encoder/dense" or model.layers[3].'
        )
    return layer


def _percentages(percentiles: Any) -> tuple[float, ...]:
    given = percentiles
    if isinstance(percentiles, Iterable) and not isinstance(percentiles, str):
        percentiles = tuple(percentiles)
    if not isinstance(percentiles, tuple) or not all(map(arguments.is_number, percentiles)):
        raise TypeError(
            "`percentiles` must be a sequence of numbers, such as (15, 50, 85); received "
            f"{given!r} of type {type(given).__name__}."
        )
    values = tuple(map(float, percentiles))
    rising = all(low <= high for low, high in itertools.pairwise((0.0, *values, 100.0)))
    if not values or not rising:
        raise ValueError(
            "`percentiles` must be percentages in [0, 100] in rising order, such as "
            f"(15, 50, 85); received {percentiles!r}."
        )
    return values


def _unit_values(model: keras.Model, layer: Any, unit: int, x: Any) -> npt.NDArray[np.float64]:
    """All values of the unit's input for a batch."""
    if isinstance(layer, keras.KerasTensor):
        return _of_unit([_tensor_value(model, layer, x)], unit, layer.name)
    layer = _find(model, layer)
    activation: Any = getattr(layer, "activation", None)
    handed_on = inspect.getattr_static(type(layer), "activation", None)
    if not is_linear(activation) and isinstance(handed_on, property):
        raise ValueError(
            f"The activation of the layer {layer.name!r} cannot be watched, because it belongs to "
            "a part of the layer, such as a cell. Give a tensor of a functional model instead, "
            "such as `layer.input`, or another layer."
        )
    seen: list[Any] = []

    def around(call: LayerCall) -> Any:
        if is_linear(activation):
            seen.append(keras.tree.flatten((call.args, call.kwargs))[0])
            return call.run()

        def recording(inner: LayerCall) -> Any:
            seen.append(inner.args[0])
            return activation(*inner.args)

        with watched({layer: recording}, "activation"):
            return call.run()

    forward(model, x, {layer: around}, training=True)
    return _of_unit(seen, unit, layer.name)


def _tensor_value(model: keras.Model, tensor: keras.KerasTensor, x: Any) -> Any:
    """The value of a tensor of a functional model for a batch."""
    own = keras_internals.functional(model)
    if own is None:
        raise ValueError(
            f"{tensor!r} is no tensor of {model.name!r}, because {model.name!r} is neither a "
            "functional model nor a built Sequential model. Name a layer instead."
        )
    try:
        part = keras.Model(own.input, tensor)
    except ValueError as error:
        raise ValueError(
            f"{tensor!r} is no tensor of {model.name!r}: it lies in an inner model, or in another "
            'model. Name its layer instead, e.g. "encoder/dense".'
        ) from error
    return forward(part, x, {}, training=True)


def _of_unit(tensors: Sequence[Any], unit: int, name: str) -> npt.NDArray[np.float64]:
    """One unit's values in tensors `[..., units]`, as a vector."""
    if not tensors:
        raise ValueError(f"The layer {name!r} is not called on the inputs `x`.")
    units = tensors[0].shape[-1]
    if not -units <= unit < units:
        raise ValueError(
            f"`unit` must be in [{-units}, {units - 1}], because {name!r} has {units} units; "
            f"received {unit!r}."
        )
    arrays = [keras.ops.convert_to_numpy(tensor)[..., unit] for tensor in tensors]
    return np.concatenate([np.ravel(array) for array in arrays]).astype(np.float64)


def _find(model: keras.Model, layer: str | keras.layers.Layer) -> keras.layers.Layer:
    names = dict(named_layers(model))
    if isinstance(layer, str) and layer in names:
        return names[layer]
    if any(layer is one for one in names.values()):
        return layer
    given = layer if isinstance(layer, str) else layer.name
    near = difflib.get_close_matches(given, names, n=3, cutoff=0)
    raise ValueError(
        f"The model {model.name!r} has no layer {given!r}. The nearest names are {near}."
    )


def _findings(
    unit: str, percentages: Sequence[float], records: Sequence[PercentileRecord]
) -> Iterator[Finding]:
    """Whether the unit has drifted, or its input is constant."""
    if len(records) < 2:
        return
    first, last = records[0].percentiles, records[-1]
    for record in (records[0], last):
        if not np.all(np.isfinite(record.percentiles)):
            yield Finding(
                unit,
                "not finite",
                f"The input of {unit} is not finite at step {record.step}: look for NaN in the "
                "inputs and the weights.",
            )
            return
    low, middle, high = first[0], last.percentiles[len(first) // 2], first[-1]
    if last.percentiles[0] == last.percentiles[-1] and len(percentages) > 1:
        yield Finding(
            unit,
            "constant input",
            f"The input of {unit} is {middle:.3g} for all examples at step {last.step}. The unit "
            "cannot tell them apart. Look for a weight or gamma of 0, or statistics of one value.",
        )
    elif not low <= middle <= high:
        yield Finding(
            unit,
            "drift",
            f"The input of {unit} has drifted: its {percentages[len(first) // 2]:g}th percentile "
            f"is {middle:.3g} at step {last.step}, outside of [{low:.3g}, {high:.3g}], the "
            f"{percentages[0]:g}th to {percentages[-1]:g}th at step {records[0].step}. Put a "
            "normalization before its activation.",
        )
