"""The graphs of models: their calls, with inputs, outputs and the mode."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import keras

from keras_renorm import keras_internals
from keras_renorm.typing import Layer


class Use(NamedTuple):
    """One call in the graph of a model.

    Attributes:
        operation: The layer, model or other operation, such as `x + y`.
        inputs: Its symbolic inputs; for a nested model in the order of that model's inputs.
        outputs: Its symbolic outputs.
        training: Whether the call asks for training; None if the model's own call decides.
    """

    operation: Any
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]
    training: bool | None = None


class Graph(NamedTuple):
    """The calls in a Sequential or functional model. Nested models have graphs of their own.

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
    """The graphs of a model and of the models in it, each once, without the calls of own classes.

    A model may be called several times. A use that is in training in one of these calls is in
    training in the graph.
    """
    graphs: dict[int, Graph] = {}
    for key, found in _called(model, None, set()):
        before = graphs.get(key, found).uses
        uses = [a if a.training else b for a, b in zip(before, found.uses, strict=True)]
        graphs[key] = found._replace(uses=uses)
    return list(graphs.values())


def called_by(layer: Any) -> list[Any]:
    """An operation and the layers that it calls itself, without those in graphs."""
    if type(layer) is keras.layers.TimeDistributed:
        return [layer, *called_by(layer.layer)]
    if not isinstance(layer, keras.layers.Layer) or _is_known(layer):
        return [layer]
    return keras_internals.flattened(layer)


def _called(
    layer: Any, training: bool | None, seen: set[tuple[int, bool | None]]
) -> Iterator[tuple[int, Graph]]:
    """The graphs in a called layer, with the ids of their models; each once for `training`."""
    if (id(layer), training) in seen:
        return
    seen.add((id(layer), training))
    if type(layer) is keras.layers.TimeDistributed:
        yield from _called(layer.layer, training, seen)
    if _is_known(layer):
        found = graph(layer) or _sequence(layer)
        if training is not None:
            # In Keras it overrides the mode of the calls inside.
            found = found._replace(uses=[use._replace(training=training) for use in found.uses])
        yield id(layer), found
        for use in found.uses:
            yield from _called(use.operation, use.training, seen)


def _is_known(model: Any) -> bool:
    """Whether a graph tells all calls in a model: the model has one, and no `call` of its own."""
    return is_graph(model) and keras_internals.is_keras_method(type(model), "call")


def _sequence(model: keras.Sequential) -> Graph:
    """The graph of a Sequential model for which Keras has none, with numbers for the tensors."""
    uses = [Use(layer, (i,), (i + 1,)) for i, layer in enumerate(model.layers)]
    return Graph(uses, (0,), (len(uses),))


def _inputs(node: Any) -> tuple[Any, ...]:
    """The tensors of a call, in the order of a nested model's inputs.

    A model that was made with a list of inputs takes a dictionary's tensors by their names.
    """
    inner = keras_internals.functional(node.operation)
    if inner is not None and not isinstance(inner.input, dict):
        given = [*node.arguments.args, *node.arguments.kwargs.values()][0]
        names = [tensor.name for tensor in inner.inputs]
        if isinstance(given, dict) and set(names) <= set(given):
            return tuple(given[name] for name in names)
    return tuple(node.input_tensors)


def _training(arguments: Any) -> bool | None:
    """Whether a call in a graph asks for training, or a tensor decides; None for neither."""
    asked = arguments.kwargs.get("training")
    return None if asked is None else asked is not False
