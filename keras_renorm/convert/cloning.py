"""Copies of models in which layers are replaced, removed or followed by others."""

import contextlib
import inspect
import itertools
import tempfile
from collections.abc import Iterator
from typing import Any, TypeAlias

import keras
import numpy as np

from keras_renorm.statistics import freeze, is_frozen
from keras_renorm.statistics.norms import NORMS

Layer: TypeAlias = keras.layers.Layer


class Rewrite:
    """What a conversion does with the layers of a model. As it stands: nothing.

    A layer may be asked about more than once, and also be a copy without weights, from a
    configuration.
    """

    def replace(self, layer: Layer) -> Layer | None:
        """A new layer, without weights, for the place of `layer`; None to keep that."""
        return None

    def follow(self, layer: Layer) -> Layer | None:
        """What is put after a layer that is replaced or left out; None for nothing.

        It is a new layer, without weights; or the layer that is the activation of `layer`, of which
        a copy is put there. Where its name is taken, it gets a number.
        """
        return None

    def removes(self, layer: Layer) -> bool:
        """Whether `layer` is left out; what came in goes out, or into what follows."""
        return False

    def transfer(self, old: Layer, new: Layer) -> None:
        """Gives a layer from `replace` the weights that it is to have."""
        raise NotImplementedError

    def trainable(self, layer: Layer) -> bool:
        """The `trainable` of what replaces `layer`."""
        return layer.trainable


def rewritten(model: keras.Model, rewrite: Rewrite) -> keras.Model:
    """A copy of `model` with replaced layers, its weights and its `trainable` flags.

    Args:
        model: The model; it stays as it is.
        rewrite: What is to be done with its layers.

    Returns:
        The copy, not compiled.

    Raises:
        TypeError: If `model` is no Keras model, or of a class that a copy would lose.
        ValueError: If a layer that is to be replaced lies where it cannot be, or one that is shared
            would not be any more.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"Only Keras models can be converted, received {model!r} of type "
            f"{type(model).__name__}. For a single layer, convert keras.Sequential([layer])."
        )
    copier = _Copier(rewrite, _names(model))
    with _uncompiled(model):
        (new_model,) = copier(model)
    _build(model, new_model)
    pairs = list(copier.pairs(model, set()))
    copies: dict[int, Layer] = {}
    for old, new in pairs:
        _check(old, new, rewrite)
        if copies.setdefault(id(old), new) is not new and _has_weights(old):
            raise _no_sharing(old)
    # What holds others sets theirs, too; it has more layers than they, and so comes before them.
    for old, new in sorted(pairs, key=lambda pair: -len(pair[0]._flatten_layers())):
        new.trainable = rewrite.trainable(old)
    for old, new in pairs:
        _hand_over(old, new, rewrite)
    return new_model


def is_graph(layer: Any) -> bool:
    """Whether `layer` is a Sequential or functional model."""
    # Keras has no public name for the class of functional models; they alone have operations.
    return isinstance(layer, keras.Sequential) or (
        isinstance(layer, keras.Model) and hasattr(layer, "operations")
    )


def is_keras_method(kind: type, method: str) -> bool:
    """Whether a method of a class is as Keras wrote it."""
    base = next(base for base in kind.__mro__ if method in vars(base))
    return base.__module__.partition(".")[0] == "keras"


def config_of(layer: Layer) -> dict[str, Any]:
    """The configuration of a layer, with its functions as they are, and a copy of its activation.

    In what `get_config` gives functions are names, which Keras finds if they are registered, or
    code without the names around it. The copy is of an activation that is a layer, and has no
    weights: from what `get_config` gives they would be made before their layer has its place.

    Raises:
        TypeError: If `layer` has no configuration.
    """
    try:
        config = dict(layer.get_config())
    except NotImplementedError as error:
        raise _no_copy(layer, error) from error
    if type(layer) is keras.layers.Lambda:
        held = {key: getattr(layer, key) for key in ("function", "mask", "arguments")}
        return config | held | {"output_shape": layer._output_shape}
    if is_keras_method(type(layer), "from_config"):
        config |= {
            key: value
            for key in config
            if inspect.isfunction(value := getattr(layer, key, None))
            and not _is_name(config[key], value)
        }
    activation = layer_activation(layer)
    if activation is not None:
        config["activation"] = _from_config(activation, config_of(activation))
    return config


def layer_activation(layer: Layer) -> Layer | None:
    """The activation of a layer, if that is a layer, too, which the constructor was given."""
    activation = getattr(layer, "activation", None)
    if not isinstance(activation, keras.layers.Layer):
        return None
    if not is_keras_method(type(layer), "from_config"):
        return None
    config = layer.get_config().get("activation")
    given = isinstance(config, dict) and config.get("class_name") == type(activation).__name__
    return activation if given else None


class _Copier:
    """Copies layers and models, each once, however often it is used."""

    def __init__(self, rewrite: Rewrite, names: dict[str, set[int]]) -> None:
        self._rewrite = rewrite
        self._names = names
        self._chains: dict[int, tuple[Any, ...]] = {}
        self._moved: dict[int, Layer] = {}  # activations that follow, by the layers that had them

    def __call__(self, operation: Any) -> tuple[Any, ...]:
        """What stands in the place of a model, layer or other operation, one after the other.

        First its copy, or None if it is left out; then what follows.
        """
        if id(operation) not in self._chains:
            self._chains[id(operation)] = self._chain(operation)
        return self._chains[id(operation)]

    def pairs(self, old: Layer, seen: set[int]) -> Iterator[tuple[Layer, Layer]]:
        """Each model and layer in `old`, outer ones first, with its copy."""
        if id(old) not in self._chains or id(old) in seen:
            return
        seen.add(id(old))
        new = self._chains[id(old)][0]
        if is_graph(old):
            yield old, new
            for layer in old._layers:
                if id(layer) not in self._chains and not _is_input(layer):
                    _refuse_class(old)
                yield from self.pairs(layer, seen)
        elif type(old) is keras.layers.TimeDistributed:
            yield old, new
            yield from self.pairs(old.layer, seen)
        elif id(old) in self._moved:
            if new is not None:
                yield old, new
            yield from self.pairs(self._moved[id(old)], seen)
        elif new is not None:
            yield from _pairs_inside(old, new)

    def _chain(self, operation: Any) -> tuple[Any, ...]:
        if not isinstance(operation, keras.layers.Layer):
            return (_same_operation(operation),)
        if self._rewrite.removes(operation):
            return (None, *self._following(operation))
        if isinstance(operation, keras.Sequential):
            return (self._sequential(operation),)
        if is_graph(operation):
            return (self._functional(operation),)
        new = self._rewrite.replace(operation)
        if new is None:
            return (self._layer(operation),)
        return (self._with_activation(operation, new), *self._following(operation))

    def _following(self, layer: Layer) -> tuple[Layer, ...]:
        """What follows a layer that is replaced or left out."""
        after = self._rewrite.follow(layer)
        if after is None:
            return ()
        is_new = after is not layer_activation(layer)
        if is_new:
            after.name = self._free(after.name, None)
            return (after,)
        self._moved[id(layer)] = after
        copy, *rest = self(after)
        copy.name = self._free(after.name, after)
        # As in the norm, which hands a mask on whatever its activation is.
        copy.supports_masking = True
        return (copy, *rest)

    def _with_activation(self, layer: Layer, new: Layer) -> Layer:
        """`new`, in the place of `layer`, with the one copy of its activation."""
        activation = layer_activation(layer)
        if activation is None or layer_activation(new) is None:
            return new
        return _from_config(new, config_of(new) | {"activation": self._inner(activation, layer)})

    def _inner(self, inner: Layer, layer: Layer) -> Layer:
        """The copy of a layer that `layer` calls."""
        copy, *following = self(inner)
        if following:
            raise _no_room(inner, layer)
        return copy

    def _free(self, name: str, owner: Layer | None) -> str:
        """A name that nothing in the model has but `owner`: `name`, if need be with a number.

        Without an owner it may be given again, for it is made from one that is unique in its graph.
        """
        numbered = (f"{name}_{number}" for number in itertools.count(1))
        free = next(
            one
            for one in itertools.chain([name], numbered)
            if self._names.get(one, set()) <= {id(owner)}
        )
        self._names.setdefault(free, set()).add(id(owner))
        return free

    def _functional(self, model: keras.Model) -> keras.Model:
        return keras.models.clone_model(
            model, _inputs(model), clone_function=self, call_function=_call
        )

    def _sequential(self, model: keras.Sequential) -> keras.Sequential:
        layers = [_input(layer) for layer in model._layers[:1] if _is_input(layer)]
        for layer in model.layers:
            layers += [part for part in self(layer) if part is not None]
        if type(model).__init__ is not keras.Sequential.__init__:
            return keras.Sequential(layers, name=model.name)
        return type(model)(layers, name=model.name)

    def _layer(self, layer: Layer) -> Layer:
        """A layer from the configuration of another, with the layers in that replaced."""
        config = config_of(layer)
        if type(layer) is keras.layers.TimeDistributed:
            options = {key: value for key, value in config.items() if key != "layer"}
            return type(layer)(self._inner(layer.layer, layer), **options)
        activation = layer_activation(layer)
        if activation is not None:
            config["activation"] = self._inner(activation, layer)
        replaceable = {
            type(inner).__name__
            for inner in layer._flatten_layers()
            if inner is not layer and self._rewrite.replace(inner) is not None
        }
        new = _from_config(layer, self._replaced_in(config, replaceable, layer))
        before, after = layer._flatten_layers(), new._flatten_layers()
        # A class without the argument `name` loses it, and layers that one makes count on.
        for part, copy in zip(before, after if len(before) == len(after) else [new], strict=False):
            copy.name = part.name
        return new

    def _replaced_in(self, config: Any, replaceable: set[str], layer: Layer) -> Any:
        """A configuration of `layer`, with the layers that are serialised in it replaced."""
        if isinstance(config, list | tuple):
            return type(config)(self._replaced_in(item, replaceable, layer) for item in config)
        if not isinstance(config, dict):
            return config
        # "build_config" would make the weights before the layer has its place, and so its path.
        config = {key: value for key, value in config.items() if key != "build_config"}
        if config.get("class_name") in replaceable:
            try:
                inner = keras.saving.deserialize_keras_object(config)
            except (TypeError, ValueError) as error:
                raise _no_copy(layer, error) from error
            new = self._rewrite.replace(inner)
            if new is not None and self._rewrite.follow(inner) is not None:
                raise _no_room(inner, layer)
            return config if new is None else config | keras.saving.serialize_keras_object(new)
        return {key: self._replaced_in(v, replaceable, layer) for key, v in config.items()}


@contextlib.contextmanager
def _uncompiled(model: keras.Model) -> Iterator[None]:
    """Has Keras clone `model` without its loss, which for a Python lambda it refuses."""
    compiled = [m for m in model._flatten_layers() if getattr(m, "compiled", False)]
    try:
        for part in compiled:
            part.compiled = False
        yield
    finally:
        for part in compiled:
            part.compiled = True


def _call(chain: tuple[Any, ...], *args: Any, **kwargs: Any) -> Any:
    """Calls what stands in the place of an operation in the graph of a functional model."""
    copy, *following = chain
    given = args[0] if args else kwargs.get("inputs")
    outputs = given if copy is None else copy(*args, **kwargs)
    # An activation in a norm is called for what the norm is called for.
    training = kwargs.get("training", args[1] if len(args) > 1 else None)
    options = {} if training is None else {"training": training}
    for layer in following:
        outputs = layer(outputs, **options)
    return outputs


def _names(model: keras.Model) -> dict[str, set[int]]:
    """The names of all layers and other operations in a model, with their ids."""
    parts = model._flatten_layers()
    operations = [
        one for part in parts if is_graph(part) for one in getattr(part, "operations", ())
    ]
    names: dict[str, set[int]] = {}
    for operation in (*parts, *operations):
        names.setdefault(operation.name, set()).add(id(operation))
    return names


def _same_operation(operation: Any) -> Any:
    """A copy of an operation that is no layer, without its place in a graph.

    It has no weights, and a configuration could not hold its functions and arrays.
    """
    new = object.__new__(type(operation))
    vars(new).update(vars(operation))
    new._inbound_nodes, new._outbound_nodes = [], []
    return new


def _is_name(config: Any, function: Any) -> bool:
    """Whether what a configuration has in the place of a function is the name of just that."""
    return isinstance(config, str) and getattr(keras.activations, config, function) is function


def _from_config(layer: Layer, config: dict[str, Any]) -> Layer:
    kind: Any = type(layer)
    options = {}
    if kind is keras.layers.Lambda:
        # Its own `from_config` takes code, not functions.
        kind = super(keras.layers.Lambda, kind)
    elif isinstance(layer, keras.layers.Lambda):
        options = {"safe_mode": False}  # for code: it is not from a file
    try:
        return kind.from_config(config, **options)
    except (TypeError, ValueError) as error:
        raise _no_copy(layer, error) from error


def _no_copy(layer: Layer, error: Exception) -> TypeError:
    # Keras wraps what a constructor says in the whole configuration.
    cause: BaseException = error
    while cause.__context__ is not None:
        cause = cause.__context__
    # What follows the first paragraph is an example.
    reason = " ".join(str(cause).strip().partition("\n\n")[0].split()).rstrip(".")
    return TypeError(
        f"The {type(layer).__name__} {layer.name!r} cannot be copied from its configuration "
        f"({reason}). Give a class of your own `get_config` and `from_config`; register a function "
        "or class that the configuration names, with `keras.saving.register_keras_serializable()`, "
        "or convert in `keras.saving.custom_object_scope({'name': function})`; or build the model "
        "again with the layers that you want, and hand its weights over: "
        "`new_model.set_weights(model.get_weights())`."
    )


def _no_room(inner: Layer, layer: Layer) -> ValueError:
    return ValueError(
        f"The layer {inner.name!r} would become two layers, for which there is no room in the "
        f"{type(layer).__name__} layer {layer.name!r} that holds it. Give it no activation, and "
        "put a keras.layers.Activation where that layer calls it."
    )


def _has_weights(layer: Layer) -> bool:
    """Whether a layer has weights, or may have them later."""
    return not layer.built or bool(layer.variables)


def _no_sharing(layer: Layer) -> ValueError:
    return ValueError(
        f"The {type(layer).__name__} {layer.name!r} is used in several places, one of them inside "
        "a class of its own, whose configuration does not tell that: the copies would not share "
        "their weights. Call the layer in the functional model instead, or build the model anew "
        "with the layers that you want."
    )


def _is_input(layer: Any) -> bool:
    return isinstance(layer, keras.layers.InputLayer)


def _input(layer: Layer) -> Layer:
    return type(layer).from_config(layer.get_config())


def _inputs(model: keras.Model) -> Any:
    """New inputs for a copy of a functional model. Keras's own are never sparse or optional."""
    return keras.tree.map_structure(
        lambda tensor: _input(tensor._keras_history.operation).output, model.input
    )


def _build(model: keras.Model, new_model: keras.Model) -> None:
    """Gives a copy weights if `model` has any."""
    if not model.built or new_model.built:
        return
    if isinstance(model, keras.Sequential):
        new_model.build(model.input_shape)
        return
    config = model.get_build_config() or {}
    if type(model).build_from_config is not keras.Model.build_from_config:
        new_model.build_from_config(config)
    elif "input_shape" in config:
        new_model(_symbols(config["input_shape"]))
    elif config:
        shapes = config["shapes_dict"].items()
        new_model(**{key.removesuffix("_shape"): _symbols(shape) for key, shape in shapes})


def _symbols(shapes: Any) -> Any:
    """Symbolic inputs; a call with them gives weights their paths, as `build` does not."""
    return keras.tree.map_shape_structure(keras.KerasTensor, _plain(shapes))


def _plain(structure: Any) -> Any:
    """A structure with the dicts and lists that Keras tracks, which JAX does not know, as plain."""
    if isinstance(structure, dict):
        return {key: _plain(value) for key, value in structure.items()}
    if isinstance(structure, list | tuple):
        kind = list if isinstance(structure, list) else tuple
        return kind(_plain(value) for value in structure)
    return structure


def _pairs_inside(old: Layer, new: Layer) -> Iterator[tuple[Layer, Layer]]:
    """A layer and those in it with their copies, where a copy comes from a configuration."""
    before, after = old._flatten_layers(), new._flatten_layers()
    if len(before) != len(after):
        raise ValueError(
            f"The {type(old).__name__} {old.name!r} has {len(before) - 1} layers in it, and a copy "
            f"of it from its configuration {len(after) - 1}: it does not keep them in "
            "`get_config`, or uses one twice."
        )
    return zip(before, after, strict=True)


def _check(old: Layer, new: Layer, rewrite: Rewrite) -> None:
    """Raises unless `new` is what `old` should have become."""
    expected = rewrite.replace(old) or old
    if type(new) is not type(expected):
        if isinstance(old, keras.Model):
            _refuse_class(old)
        _refuse(old)
    if expected is old:
        return
    if _comparable(new) != _comparable(expected):
        _refuse(old)


def _comparable(layer: Layer) -> dict[str, Any]:
    """A configuration without what copies of one layer may have otherwise."""
    # `_hand_over` sets what a configuration of Keras's does not tell of a frozen layer.
    config = layer.get_config() | {"frozen_statistics": None}
    # Whether its weights are made is in its configuration, too.
    return config if layer_activation(layer) is None else config | {"activation": None}


def _refuse_class(model: Layer) -> None:
    raise TypeError(
        f"The model {model.name!r} is of the class {type(model).__name__}, which a copy would "
        "lose. Give its constructor the arguments (self, *args, **kwargs) and no layers of its "
        "own, or convert `keras.Model(model.inputs, model.outputs)`."
    )


def _refuse(layer: Layer) -> None:
    raise ValueError(
        f"The {type(layer).__name__} at {layer.path!r} cannot be replaced, because the layer or "
        "model around it makes it by itself and does not keep it in `get_config`. Give that class "
        "an argument for its normalization, and build the model anew."
    )


def _own_variables(layer: Layer) -> list[Any]:
    """The variables of a layer that are not of a layer in it."""
    inner = {id(v) for part in layer._flatten_layers() if part is not layer for v in part.variables}
    return [variable for variable in layer.variables if id(variable) not in inner]


def _in_one_order(before: list[Any], after: list[Any]) -> tuple[list[Any], list[Any]]:
    """The variables of two layers by their names, if those are the same, or as they are.

    A layer that was quantized makes them in another order from its configuration.
    """
    by_name = [sorted(variables, key=lambda v: v.name) for variables in (before, after)]
    if [v.name for v in by_name[0]] == [v.name for v in by_name[1]]:
        return by_name[0], by_name[1]
    return before, after


def _hand_over(old: Layer, new: Layer, rewrite: Rewrite) -> None:
    """Gives `new` the weights of `old`, as `rewrite` has it."""
    if old.built and not new.built and not isinstance(old, keras.Model):
        # What Keras's layers have as their activation is built in a call that is not symbolic.
        new.build_from_config(old.get_build_config() or {})
    if old.built and not new.built:
        raise ValueError(
            f"A copy of the {type(old).__name__} {old.name!r} has no weights, because Keras cannot "
            "build it from the shapes that the model was called with. Write its "
            "`get_build_config` and `build_from_config`."
        )
    expected = rewrite.replace(old) or old
    if isinstance(expected, NORMS) and is_frozen(expected):
        freeze(new)
    if expected is not old:
        if old.built:
            rewrite.transfer(old, new)
        return
    before, after = _in_one_order(_own_variables(old), _own_variables(new))
    if [v.shape for v in before] != [v.shape for v in after]:
        raise ValueError(
            f"The {type(old).__name__} {old.name!r} has weights of the shapes "
            f"{[tuple(v.shape) for v in before]}, and a copy of it from its configuration of "
            f"{[tuple(v.shape) for v in after]}. Make `get_config` and `build` of that class "
            "create the same weights."
        )
    if old.built:
        _hand_over_state(old, new)
    for variable, value in zip(after, before, strict=True):
        variable.assign(np.asarray(keras.ops.convert_to_numpy(value)))
        variable.trainable = value.trainable and new.trainable


def _hand_over_state(old: Layer, new: Layer) -> None:
    """Gives `new` what `old` keeps beside its variables, as a file of the model does.

    So have it what `adapt` found: the mean that a `Normalization` subtracts, a vocabulary.
    """
    if type(new).load_own_variables is not keras.layers.Layer.load_own_variables:
        store: dict[str, Any] = {}
        old.save_own_variables(store)
        new.load_own_variables(store)
    if hasattr(old, "save_assets") and hasattr(new, "load_assets"):
        with tempfile.TemporaryDirectory() as folder:
            old.save_assets(folder)
            new.load_assets(folder)
