"""The graphs of models: what each calls, on what, and whether for training."""

from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

import keras

from keras_renorm import keras_internals

Layer: TypeAlias = keras.layers.Layer


class Use(NamedTuple):
    """One call in the graph of a model.

    Attributes:
        operation: The layer, model or other operation, such as `x + y`.
        inputs: The symbolic tensors that it receives; of a nested model in the order of its inputs.
        outputs: The symbolic tensors that it gives.
        training: Whether for training; None if that is left to the model's own call.
    """

    operation: Any
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]
    training: bool | None = None


class Graph(NamedTuple):
    """The calls in a Sequential or functional model; those of nested models are in their graphs.

    Attributes:
        uses: The calls, in the order in which the model makes them.
        inputs: The model's inputs.
        outputs: The model's outputs.
    """

    uses: list[Use]
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]

    def maker(self, tensor: Any) -> Use | None:
        """The call whose output a tensor is; None for an input of the model."""
        return next((use for use in self.uses if tensor in use.outputs), None)

    def readers(self, tensor: Any) -> int:
        """How many calls read a tensor, and whether it is an output of the model."""
        return sum(use.inputs.count(tensor) for use in self.uses) + (tensor in self.outputs)


def graph(model: Any) -> Graph | None:
    """The graph of a functional or built Sequential model; None for any other operation."""
    own = keras_internals.functional(model)
    if own is None:
        return None
    uses = [
        Use(node.operation, _inputs(node), tuple(node.outputs), _training(node.arguments))
        for node in keras_internals.nodes(own)
    ]
    return Graph(uses, tuple(own.inputs), tuple(own.outputs))


def is_graph(layer: Any) -> bool:
    """Whether `layer` is a Sequential or functional model."""
    is_functional = keras_internals.functional(layer) is not None
    return isinstance(layer, keras.Sequential) or (isinstance(layer, keras.Model) and is_functional)


def graphs_in(model: Layer) -> list[Graph]:
    """The graphs of a model and of the models in it, each once; none of what a class calls.

    A model may be called several times. What one of these calls has in training is so in its graph.
    """
    graphs: dict[int, Graph] = {}
    for key, found in _called(model, None, set()):
        before = graphs.get(key, found).uses
        uses = [a if a.training else b for a, b in zip(before, found.uses, strict=True)]
        graphs[key] = found._replace(uses=uses)
    return list(graphs.values())


def called_by(layer: Any) -> list[Any]:
    """An operation and the layers that it calls by itself, without those of graphs."""
    if type(layer) is keras.layers.TimeDistributed:
        return [layer, *called_by(layer.layer)]
    if not isinstance(layer, keras.layers.Layer) or _is_known(layer):
        return [layer]
    return keras_internals.flattened(layer)


def _called(
    layer: Any, training: bool | None, seen: set[tuple[int, bool | None]]
) -> Iterator[tuple[int, Graph]]:
    """The graphs in what is called so, with the ids of their models; each once for `training`."""
    if (id(layer), training) in seen:
        return
    seen.add((id(layer), training))
    if type(layer) is keras.layers.TimeDistributed:
        yield from _called(layer.layer, training, seen)
    if _is_known(layer):
        found = graph(layer) or _sequence(layer)
        if training is not None:
            # Keras has it override what the calls inside ask for.
            found = found._replace(uses=[use._replace(training=training) for use in found.uses])
        yield id(layer), found
        for use in found.uses:
            yield from _called(use.operation, use.training, seen)


def _is_known(model: Any) -> bool:
    """Whether the graph tells all calls in a model: it has one, and no `call` of its own class."""
    return is_graph(model) and keras_internals.is_keras_method(type(model), "call")


def _sequence(model: keras.Sequential) -> Graph:
    """The graph of a Sequential model for which Keras has none, with numbers for the tensors."""
    uses = [Use(layer, (i,), (i + 1,)) for i, layer in enumerate(model.layers)]
    return Graph(uses, (0,), (len(uses),))


def _inputs(node: Any) -> tuple[Any, ...]:
    """The tensors of a call, in the order in which a nested model takes them.

    A model that was made with a list of inputs takes those of a dictionary by their names.
    """
    inner = keras_internals.functional(node.operation)
    if inner is not None and not isinstance(inner.input, dict):
        given = [*node.arguments.args, *node.arguments.kwargs.values()][0]
        names = [tensor.name for tensor in inner.inputs]
        if isinstance(given, dict) and set(names) <= set(given):
            return tuple(given[name] for name in names)
    return tuple(node.input_tensors)


def _training(arguments: Any) -> bool | None:
    """Whether a call in a graph asks for training, or leaves it to a tensor; None for neither."""
    asked = arguments.kwargs.get("training")
    return None if asked is None else asked is not False
