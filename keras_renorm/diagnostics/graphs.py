"""A model as a list of calls: nested models unfolded, shared layers once for each call."""

import collections
import dataclasses
from collections.abc import Iterator
from typing import Any

import keras

from keras_renorm.diagnostics.norms import is_norm


@dataclasses.dataclass(eq=False)
class Value:
    """A tensor between two calls.

    Attributes:
        shape: Its shape, with None for unknown sizes.
        dtype: The type of its values.
        producer: The call it comes from; None for an input of the model.
        consumers: The calls it goes into.
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
        name: Its name, behind those of the models that it lies in.
        inputs: What it is called on.
        outputs: What it returns.
        index: How many calls of the same operation come before this one.
    """

    operation: Any
    name: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    index: int


@dataclasses.dataclass(frozen=True)
class Graph:
    """The calls of a model.

    Attributes:
        calls: In the order in which the model makes them.
        unknown: A sentence for each part of the model whose calls are not known.
    """

    calls: tuple[Call, ...]
    unknown: tuple[str, ...]


def graph(model: keras.Model) -> Graph:
    """The calls of a functional or Sequential model and of the models nested in it.

    What happens inside a subclassed model or a composite layer is not recorded anywhere; if there
    is a normalization layer inside, or it is the model itself, that is said in `unknown`.

    Args:
        model: Any Keras model.
    """
    _require_model(model)
    builder = _Builder()
    own = functional(model)
    if own is None:
        return Graph((), (_unknown(model, model.name),))
    values = tuple(Value(tuple(tensor.shape), tensor.dtype) for tensor in own.inputs)
    for output in builder.add(own, values, ""):
        output.is_output = True
    return Graph(tuple(builder.calls), tuple(builder.unknown))


def functional(operation: Any) -> Any:
    """The functional model that an operation is, or that a built Sequential holds, or None."""
    if isinstance(operation, keras.Sequential):
        return operation._functional
    return operation if hasattr(operation, "_nodes_by_depth") else None


def layers(model: keras.Model) -> Iterator[tuple[str, keras.layers.Layer]]:
    """Each layer of a model once, with its name behind those of the layers that it lies in."""
    _require_model(model)
    seen = {id(model)}
    names: collections.Counter[str] = collections.Counter()

    def walk(parent: keras.layers.Layer, prefix: str) -> Iterator[tuple[str, keras.layers.Layer]]:
        for layer in parent._flatten_layers(include_self=False, recursive=False):
            if id(layer) in seen:
                continue
            seen.add(id(layer))
            name = prefix + layer.name
            names[name] += 1
            if names[name] > 1:  # a subclassed model may give one name to many
                name += f"#{names[name]}"
            yield name, layer
            yield from walk(layer, f"{name}/")

    return walk(model, "")


def _require_model(model: Any) -> None:
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"`model` must be a Keras model, received {model!r} of type {type(model).__name__}. "
            "For a single layer, give keras.Sequential([keras.Input(shape), layer])."
        )


class _Builder:
    """Collects calls."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.unknown: list[str] = []
        self._counts: dict[int, int] = {}

    def add(self, model: Any, inputs: tuple[Value, ...], prefix: str) -> list[Value]:
        """Adds the calls of a functional model on `inputs`; returns its outputs."""
        values = {id(t): value for t, value in zip(model.inputs, inputs, strict=True)}
        for depth in sorted(model._nodes_by_depth, reverse=True):
            for node in model._nodes_by_depth[depth]:
                if not node.is_input and all(id(t) in values for t in node.input_tensors):
                    arguments = tuple(values[id(t)] for t in _inputs(node))
                    outputs = self._call(node, arguments, prefix)
                    values.update(zip(map(id, node.outputs), outputs, strict=True))
        return [values[id(tensor)] for tensor in model.outputs]

    def _call(self, node: Any, inputs: tuple[Value, ...], prefix: str) -> list[Value]:
        """Adds the call of a node, or of a nested model's nodes."""
        operation, name = node.operation, prefix + node.operation.name
        inner = functional(operation)
        if inner is not None and len(inner.inputs) == len(inputs):
            return self.add(inner, inputs, f"{name}/")
        index = self._counts.setdefault(id(operation), 0)
        self._counts[id(operation)] += 1
        if index == 0 and _holds_norm(operation):
            self.unknown.append(_unknown(operation, name))
        outputs = tuple(Value(tuple(tensor.shape), tensor.dtype) for tensor in node.outputs)
        call = Call(operation, name, inputs, outputs, index)
        self.calls.append(call)
        for value in inputs:
            value.consumers.append(call)
        for value in outputs:
            value.producer = call
        return list(outputs)


def _inputs(node: Any) -> list[Any]:
    """The tensors of a call, in the order in which a nested model takes them.

    A model that was made with a list of inputs takes those of a dictionary by their names.
    """
    inner = functional(node.operation)
    if inner is not None and not isinstance(inner._inputs_struct, dict):
        given = [*node.arguments.args, *node.arguments.kwargs.values()][0]
        names = [tensor.name for tensor in inner.inputs]
        if isinstance(given, dict) and set(names) <= set(given):
            return [given[name] for name in names]
    return list(node.input_tensors)


def _holds_norm(operation: Any) -> bool:
    if not isinstance(operation, keras.layers.Layer) or is_norm(operation):
        return False
    return any(map(is_norm, operation._flatten_layers(include_self=False)))


def _unknown(operation: Any, name: str) -> str:
    if isinstance(operation, keras.Sequential):
        return (
            f"The graph of {name!r} is not known, for the Sequential model is not built: call it "
            "once on a batch, or begin it with keras.Input."
        )
    return (
        f"What {name!r} ({type(operation).__name__}) does inside is not known: only functional "
        "and Sequential models record which layer comes after which. Its layers were not checked "
        "for what depends on that."
    )
