"""Copies of the layers and models in a model, without weights."""

from collections.abc import Iterator
from typing import Any, TypeAlias

import keras

from keras_renorm import keras_internals
from keras_renorm.convert.checks import lost_class, no_room, paired
from keras_renorm.convert.configurations import config_of, deserialized, layer_activation, made_like
from keras_renorm.convert.free_names import FreeNames
from keras_renorm.convert.rewrite import Rewrite
from keras_renorm.models import is_graph
from keras_renorm.typing import Layer

#: The operations in the place of a model, layer or other operation, in order: first its copy, or
#: None if it is left out; then the layers that follow.
Chain: TypeAlias = tuple[Any, ...]


class Copier:
    """Copies the layers in a model, each once, however often the model uses it.

    Args:
        model: The model.
        rewrite: What happens to its layers.
    """

    def __init__(self, model: keras.Model, rewrite: Rewrite) -> None:
        self._rewrite = rewrite
        self._names = FreeNames(model)
        self._chains: dict[int, Chain] = {}
        self._moved: dict[int, Layer] = {}  # activations that follow, by the layers that had them

    def copy(self, model: keras.Model) -> keras.Model:
        """The copy of a model."""
        return self._chain(model)[0]

    def pairs(self, model: keras.Model) -> Iterator[tuple[Layer, Layer]]:
        """Each model and layer in a copied model, outer ones first, with its copy.

        Raises:
            TypeError: If a model has a layer that is not in its graph.
            ValueError: If a copy has other layers in it.
        """
        return self._pairs(model, set())

    def _chain(self, operation: Any) -> Chain:
        if id(operation) not in self._chains:
            self._chains[id(operation)] = self._new_chain(operation)
        return self._chains[id(operation)]

    def _new_chain(self, operation: Any) -> Chain:
        if not isinstance(operation, keras.layers.Layer):
            return (keras_internals.same_operation(operation),)
        if self._rewrite.removes(operation):
            return (None, *self._following(operation))
        if is_graph(operation):
            return (self._graph(operation),)
        new = self._rewrite.replace(operation)
        if new is None:
            return (self._layer(operation),)
        return (self._with_activation(operation, new), *self._following(operation))

    def _following(self, layer: Layer) -> Chain:
        """The layers that follow a layer that is replaced or left out."""
        after = self._rewrite.follow(layer)
        if after is None:
            return ()
        if after is layer_activation(layer):
            return self._activation_after(layer, after)
        after.name = self._names.free(after.name)
        return (after,)

    def _activation_after(self, layer: Layer, activation: Layer) -> Chain:
        """The layers in the place of an activation that its layer has lost."""
        self._moved[id(layer)] = activation
        copy, *following = self._chain(activation)
        copy.name = self._names.free(activation.name, activation)
        # The norm hands a mask on, whatever its activation is.
        copy.supports_masking = True
        return (copy, *following)

    def _with_activation(self, layer: Layer, new: Layer) -> Layer:
        """`new`, in the place of `layer`, with the one copy of its activation."""
        activation = layer_activation(layer)
        if activation is None or layer_activation(new) is None:
            return new
        return made_like(new, config_of(new) | {"activation": self._inner(activation, layer)})

    def _inner(self, inner: Layer, layer: Layer) -> Layer:
        """The copy of a layer that `layer` calls."""
        copy, *following = self._chain(inner)
        if following:
            raise no_room(inner, layer)
        return copy

    def _graph(self, model: keras.Model) -> keras.Model:
        if isinstance(model, keras.Sequential):
            return self._sequential(model)
        return keras.models.clone_model(
            model, new_inputs(model), clone_function=self._chain, call_function=_call
        )

    def _sequential(self, model: keras.Sequential) -> keras.Sequential:
        layers = [_input(layer) for layer in keras_internals.children(model) if is_input(layer)]
        for layer in model.layers:
            layers += [part for part in self._chain(layer) if part is not None]
        if type(model).__init__ is not keras.Sequential.__init__:
            return keras.Sequential(layers, name=model.name)
        return type(model)(layers, name=model.name)

    def _layer(self, layer: Layer) -> Layer:
        """A copy of a layer from its configuration, with its inner layers replaced."""
        config = config_of(layer)
        if type(layer) is keras.layers.TimeDistributed:
            return type(layer)(**config | {"layer": self._inner(layer.layer, layer)})
        activation = layer_activation(layer)
        if activation is not None:
            config["activation"] = self._inner(activation, layer)
        new = made_like(layer, self._replaced_in(config, self._replaceable(layer), layer))
        before, after = map(keras_internals.flattened, (layer, new))
        # A class without the argument `name` loses its name, and Keras numbers the layers that it
        # makes anew.
        for part, copy in zip(before, after if len(before) == len(after) else [new], strict=False):
            copy.name = part.name
        return new

    def _replaceable(self, layer: Layer) -> set[str]:
        """The names of the classes of layers in `layer` that may be replaced."""
        return {
            type(inner).__name__
            for inner in keras_internals.flattened(layer)
            if inner is not layer and self._rewrite.replace(inner) is not None
        }

    def _replaced_in(self, config: Any, replaceable: set[str], layer: Layer) -> Any:
        """A configuration of `layer`, with the serialised layers in it replaced."""
        if isinstance(config, list | tuple):
            return type(config)(self._replaced_in(item, replaceable, layer) for item in config)
        if not isinstance(config, dict):
            return config
        # "build_config" would make the weights before the layer has its place, and so its path.
        config = {key: value for key, value in config.items() if key != "build_config"}
        if config.get("class_name") in replaceable:
            inner = deserialized(config, layer)
            new = self._rewrite.replace(inner)
            if new is not None and self._rewrite.follow(inner) is not None:
                raise no_room(inner, layer)
            return config if new is None else config | keras.saving.serialize_keras_object(new)
        return {key: self._replaced_in(v, replaceable, layer) for key, v in config.items()}

    def _pairs(self, old: Layer, seen: set[int]) -> Iterator[tuple[Layer, Layer]]:
        if id(old) not in self._chains or id(old) in seen:
            return
        seen.add(id(old))
        new = self._chains[id(old)][0]
        parts = self._parts(old)
        if parts is None:
            yield from paired(old, new)
            return
        if new is not None:
            yield old, new
        for part in parts:
            yield from self._pairs(part, seen)

    def _parts(self, old: Layer) -> list[Layer] | None:
        """The layers in a layer that were copied apart, or None if its configuration made them."""
        if is_graph(old):
            layers = [one for one in keras_internals.children(old) if not is_input(one)]
            if any(id(layer) not in self._chains for layer in layers):
                raise lost_class(old)
            return layers
        if type(old) is keras.layers.TimeDistributed:
            return [old.layer]
        if id(old) in self._moved:
            return [self._moved[id(old)]]
        return [] if self._rewrite.removes(old) else None


def _call(chain: Chain, *args: Any, **kwargs: Any) -> Any:
    """Calls the operations in the place of one in the graph of a functional model."""
    copy, *following = chain
    given = args[0] if args else kwargs.get("inputs")
    outputs = given if copy is None else copy(*args, **kwargs)
    # An activation runs in the mode in which its norm is called.
    options = {key: value for key, value in kwargs.items() if key == "training"}
    for layer in following:
        outputs = layer(outputs, **options)
    return outputs


def is_input(layer: Any) -> bool:
    """Whether a layer only stands for an input of a functional model."""
    return isinstance(layer, keras.layers.InputLayer)


def _input(layer: Layer) -> Layer:
    return type(layer).from_config(layer.get_config())


def new_inputs(model: keras.Model) -> Any:
    """New inputs for a copy of a functional model. Those of Keras are never sparse or optional."""
    return keras.tree.map_structure(
        lambda tensor: _input(keras_internals.operation_of(tensor)).output, model.input
    )
