"""Replaces layers of a model in the model itself, without a copy."""

import contextlib
from collections.abc import Callable
from typing import Any

import keras

from keras_renorm import keras_internals
from keras_renorm.convert.checks import lost_class, no_room
from keras_renorm.convert.cloning import uncompiled
from keras_renorm.convert.configurations import config_of, layer_activation, made_like
from keras_renorm.convert.copier import is_input, new_inputs
from keras_renorm.convert.holding import exchange, holds, holds_in_function
from keras_renorm.convert.rewrite import Rewrite
from keras_renorm.convert.weights import hand_over
from keras_renorm.models import is_graph, joins, require_model
from keras_renorm.statistics.hooks import retrace
from keras_renorm.typing import Layer


class InPlace:
    """A plan that replaces layers of a model. It is complete before any change.

    A functional model cannot get another graph. So a functional model inside is replaced like a
    layer, by a new model that keeps the other layers.

    Args:
        model: The model.
        rewrite: What happens to its layers.

    Raises:
        TypeError: If `model` is no Keras model, or a functional model in it would lose its class.
        ValueError: If a layer cannot be replaced where it lies.
    """

    def __init__(self, model: keras.Model, rewrite: Rewrite) -> None:
        require_model(model)
        self._model, self._rewrite = model, rewrite
        self._pairs: dict[int, tuple[Layer, Layer]] = {}
        if self._plan(model) is not model:
            raise ValueError(
                f"The functional model {model.name!r} cannot be converted in place, because its "
                "graph cannot change. Leave `in_place` out, and use the copy that is returned."
            )
        for holder in self._holders():
            self._check(holder)

    def apply(self) -> None:
        """Changes the model."""
        for holder in self._holders():
            if isinstance(holder, keras.Sequential):
                self._refill(holder)
            elif not is_graph(holder):
                for child in self._leaving(holder):
                    keras_internals.replace_child(holder, child, self._new(child))
            exchange(holder, self._new)
        for old, new in self._pairs.values():
            if new is not old:
                joins(new, self._model)
        for layer in keras_internals.flattened(self._model):
            if layer.built:
                keras_internals.show_parameters(layer)
        retrace(self._model)

    def _plan(self, layer: Any) -> Any:
        """Settles what takes the place of a layer: a new layer, or the layer itself."""
        if isinstance(layer, keras.layers.Layer) and id(layer) not in self._pairs:
            self._pairs[id(layer)] = layer, layer
            self._pairs[id(layer)] = layer, self._made(layer)
        return self._new(layer)

    def _new(self, layer: Any) -> Any:
        """The layer that `_plan` settled. A new layer stays."""
        return self._pairs.get(id(layer), (layer, layer))[1]

    def _made(self, layer: Layer) -> Layer:
        new = self._rewrite.replace(layer)
        if new is not None:
            return _with_weights(layer, new, self._rewrite)
        for child in keras_internals.children(layer):
            if self._plan(child) is not child and self._rewrite.follow(child) is not None:
                raise no_room(child, layer)
        is_functional = is_graph(layer) and not isinstance(layer, keras.Sequential)
        return _with_graph(layer, self._plan) if is_functional and self._leaving(layer) else layer

    def _leaving(self, holder: Layer) -> list[Layer]:
        """The layers directly in a layer that are to be replaced."""
        return [
            child for child in keras_internals.children(holder) if self._new(child) is not child
        ]

    def _holders(self) -> list[Layer]:
        """The layers that stay, including the model."""
        layers = keras_internals.flattened(self._model)
        return [layer for layer in layers if self._new(layer) is layer]

    def _check(self, holder: Layer) -> None:
        """Raises unless each leaving layer is in an attribute of `holder`."""
        for child in self._leaving(holder):
            what = f"The {type(child).__name__} {child.name!r} cannot be replaced in place: the "
            what += f"{type(holder).__name__} {holder.name!r}"
            function = holds_in_function(holder, child)
            if function is not None:
                raise ValueError(
                    f"{what} also holds it in the function `{function}`. Let the function take it "
                    "from `self` when it is called."
                )
            if not is_graph(holder) and not holds(holder, child):
                raise ValueError(
                    f"{what} around it holds it in no attribute, list, tuple, dict or set. Give "
                    "that class an attribute for the layer."
                )

    def _refill(self, model: keras.Sequential) -> None:
        """Changes the layers of a Sequential model, if some leave."""
        if not self._leaving(model):
            return
        layers = [self._new(layer) for layer in model.layers]
        for _ in layers:
            model.pop(rebuild=False)
        for layer in layers[:-1]:
            model.add(layer, rebuild=False)
        model.add(layers[-1])


def _with_weights(old: Layer, new: Layer, rewrite: Rewrite) -> Layer:
    """`new` with the activation and weights of `old`. Gamma and beta stay the same variables.

    So an optimizer goes on, like anything else with a state for each variable.
    """
    activation = layer_activation(old)
    if activation is not None and layer_activation(new) is not None:
        new = made_like(new, config_of(new) | {"activation": activation})
    new.trainable = rewrite.trainable(old)
    with _scope_around(old):
        hand_over(old, new, rewrite)
    if old.built:
        shared = {name: getattr(old, name) for name in ("gamma", "beta")}
        keras_internals.adopt_variables(
            new, {name: variable for name, variable in shared.items() if variable is not None}
        )
    return new


def _scope_around(layer: Layer) -> contextlib.AbstractContextManager[Any]:
    """A context in which new weights get paths like those of `layer`."""
    *outer, parent = (layer.path or layer.name).split("/")[:-1] or [""]
    if not parent:
        return contextlib.nullcontext()
    return keras.name_scope(parent, override_parent="/".join(outer))


def _with_graph(model: keras.Model, new_of: Callable[[Any], Any]) -> keras.Model:
    """A functional model like `model`, with the same layers except those that leave."""
    with uncompiled(model):
        new = keras.models.clone_model(model, new_inputs(model), clone_function=new_of)
    kept = {id(layer) for layer in keras_internals.children(new)}
    lost = [one for one in model.layers if id(new_of(one)) not in kept]
    if type(new) is not type(model) or any(not is_input(one) for one in lost):
        raise lost_class(model)
    keras_internals.copy_trainable(model, new)
    return new
