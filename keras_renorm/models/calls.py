"""A model as a list of calls: nested models unfolded, shared layers once for each call."""

import dataclasses
from typing import Any

import keras

from keras_renorm import keras_internals
from keras_renorm.models.graphs import Graph, Use, graph
from keras_renorm.models.members import is_batch_norm, require_model


@dataclasses.dataclass(eq=False)
class Value:
    """A tensor between two calls.

    Attributes:
        shape: Its shape, with None for unknown sizes.
        dtype: The type of its values.
        producer: The call that makes it; None for an input of the model.
        consumers: The calls that read it.
        is_output: Whether it is an output of the model.
    """

    shape: tuple[int | None, ...]
    dtype: str
    producer: "Call | None" = None
    consumers: list["Call"] = dataclasses.field(default_factory=list)
    is_output: bool = False


@dataclasses.dataclass(eq=False)
class Call:
    """One call of a layer, or of an operation such as `x + y`.

    Attributes:
        operation: The layer or operation.
        name: Its name, with the names of the models around it in front.
        inputs: Its inputs.
        outputs: Its outputs.
        index: How many calls of the same operation come before this one.
    """

    operation: Any
    name: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    index: int


@dataclasses.dataclass(frozen=True)
class Calls:
    """The calls of a model.

    Attributes:
        calls: In the order in which the model makes them.
        unknown: A sentence for each part of the model whose calls are unknown.
    """

    calls: tuple[Call, ...]
    unknown: tuple[str, ...]


def calls(model: keras.Model) -> Calls:
    """The calls of a functional or Sequential model and of the models nested in it.

    Keras does not record the calls inside a subclassed model or a composite layer. If one holds a
    batch norm, or is the model itself, `unknown` says so.

    Args:
        model: Any Keras model.

    Raises:
        TypeError: If `model` is not a Keras model.
    """
    require_model(model)
    own = graph(model)
    if own is None:
        return Calls((), (_unknown(model, model.name),))
    builder = _Builder()
    for output in builder.add(own, _values(own.inputs), ""):
        output.is_output = True
    return Calls(tuple(builder.calls), tuple(builder.unknown))


class _Builder:
    """Collects calls."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.unknown: list[str] = []
        self._counts: dict[int, int] = {}

    def add(self, own: Graph, inputs: tuple[Value, ...], prefix: str) -> tuple[Value, ...]:
        """Adds the calls of a graph on `inputs`; returns its outputs."""
        values = dict(zip(own.inputs, inputs, strict=True))
        for use in own.uses:
            if all(tensor in values for tensor in use.inputs):
                outputs = self._call(use, tuple(values[tensor] for tensor in use.inputs), prefix)
                values.update(zip(use.outputs, outputs, strict=True))
        return tuple(values[tensor] for tensor in own.outputs)

    def _call(self, use: Use, inputs: tuple[Value, ...], prefix: str) -> tuple[Value, ...]:
        """Adds a call, or the calls of a nested model."""
        operation, name = use.operation, prefix + use.operation.name
        inner = graph(operation)
        if inner is not None and len(inner.inputs) == len(inputs):
            return self.add(inner, inputs, f"{name}/")
        index = self._counts.setdefault(id(operation), 0)
        self._counts[id(operation)] += 1
        if index == 0 and _holds_norm(operation):
            self.unknown.append(_unknown(operation, name))
        call = Call(operation, name, inputs, _values(use.outputs), index)
        self.calls.append(call)
        for value in inputs:
            value.consumers.append(call)
        for value in call.outputs:
            value.producer = call
        return call.outputs


def _values(tensors: tuple[Any, ...]) -> tuple[Value, ...]:
    return tuple(Value(tuple(tensor.shape), tensor.dtype) for tensor in tensors)


def _holds_norm(operation: Any) -> bool:
    if not isinstance(operation, keras.layers.Layer) or is_batch_norm(operation):
        return False
    return any(map(is_batch_norm, keras_internals.flattened(operation)))


def _unknown(operation: Any, name: str) -> str:
    if isinstance(operation, keras.Sequential):
        return (
            f"The graph of {name!r} is unknown, because the Sequential model is not built. Call it "
            "once on a batch, or begin it with keras.Input."
        )
    return (
        f"The order of the layers in {name!r} ({type(operation).__name__}) is unknown: only "
        "functional and Sequential models record it. What depends on that order was not checked."
    )
