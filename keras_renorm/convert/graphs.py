"""The graphs of models: what they call, on what, and whether for training."""

from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

import keras

from keras_renorm.convert.configurations import is_keras_method

Layer: TypeAlias = keras.layers.Layer


class Use(NamedTuple):
    """One call of a layer in a graph, with tensors by their ids.

    Attributes:
        layer: The layer, or another operation.
        inputs: The tensors that it takes.
        outputs: The tensors that it gives.
        training: Whether for training; None if that is left to the model's own call.
    """

    layer: Any
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    training: bool | None


class Graph(NamedTuple):
    """The calls in a Sequential or functional model.

    Attributes:
        uses: The calls.
        results: The tensors that the model gives.
    """

    uses: list[Use]
    results: set[int]

    def maker(self, tensor: int) -> Use | None:
        """The call whose output a tensor is; None for an input of the model."""
        return next((use for use in self.uses if tensor in use.outputs), None)

    def readers(self, tensor: int) -> int:
        """How many calls read a tensor, and whether it is an output of the model."""
        return sum(use.inputs.count(tensor) for use in self.uses) + (tensor in self.results)


def is_graph(layer: Any) -> bool:
    """Whether `layer` is a Sequential or functional model."""
    # Keras has no public name for the class of functional models; they alone have operations.
    return isinstance(layer, keras.Sequential) or (
        isinstance(layer, keras.Model) and hasattr(layer, "operations")
    )


def graphs_in(model: Layer) -> list[Graph]:
    """The graphs of a model and of the models in it, each once; none of what a class calls.

    A model may be called several times. What one of these calls has in training is so in its graph.
    """
    graphs: dict[int, Graph] = {}
    for key, graph in _called(model, None, set()):
        before = graphs.get(key, graph).uses
        uses = [a if a.training else b for a, b in zip(before, graph.uses, strict=True)]
        graphs[key] = graph._replace(uses=uses)
    return list(graphs.values())


def used_by(layer: Layer) -> list[Layer]:
    """A layer and those that it calls by itself, without those of graphs."""
    if type(layer) is keras.layers.TimeDistributed:
        return [layer, *used_by(layer.layer)]
    return [layer] if not _is_layer(layer) or _is_known(layer) else layer._flatten_layers()


def _called(
    layer: Layer, training: bool | None, seen: set[tuple[int, bool | None]]
) -> Iterator[tuple[int, Graph]]:
    """The graphs in what is called so, with the ids of their models; each once for `training`."""
    if (id(layer), training) in seen:
        return
    seen.add((id(layer), training))
    if type(layer) is keras.layers.TimeDistributed:
        yield from _called(layer.layer, training, seen)
    if _is_known(layer):
        graph = _sequence(layer) if isinstance(layer, keras.Sequential) else _network(layer)
        if training is not None:
            # Keras has it override what the calls inside ask for.
            graph = graph._replace(uses=[use._replace(training=training) for use in graph.uses])
        yield id(layer), graph
        for use in graph.uses:
            yield from _called(use.layer, use.training, seen)


def _is_known(model: Layer) -> bool:
    """Whether the graph tells all calls in a model: it has one, and no `call` of its own class."""
    return is_graph(model) and is_keras_method(type(model), "call")


def _is_layer(operation: Any) -> bool:
    return isinstance(operation, keras.layers.Layer)


def _sequence(model: keras.Sequential) -> Graph:
    uses = [Use(layer, (i,), (i + 1,), None) for i, layer in enumerate(model.layers)]
    return Graph(uses, {len(uses)})


def _network(model: keras.Model) -> Graph:
    uses = [
        Use(
            node.operation,
            tuple(id(tensor) for tensor in node.input_tensors),
            tuple(id(tensor) for tensor in node.outputs),
            _training(node.arguments),
        )
        for nodes in model._nodes_by_depth.values()
        for node in nodes
        if not node.is_input
    ]
    return Graph(uses, {id(tensor) for tensor in model.outputs})


def _training(arguments: Any) -> bool | None:
    """Whether a call in a graph asks for training, or leaves it to a tensor; None for neither."""
    if any(value is True for value in arguments.args[1:]):
        return True
    asked = arguments.kwargs.get("training")
    return None if asked is None else asked is not False
