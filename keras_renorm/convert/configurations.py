"""Layers made from the configurations of others."""

import inspect
from typing import Any, TypeAlias

import keras

from keras_renorm.keras_internals import is_keras_method, output_shape_of_lambda

Layer: TypeAlias = keras.layers.Layer


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
        raise no_copy(layer, error) from error
    if type(layer) is keras.layers.Lambda:
        held = {key: getattr(layer, key) for key in ("function", "mask", "arguments")}
        return config | held | {"output_shape": output_shape_of_lambda(layer)}
    if is_keras_method(type(layer), "from_config"):
        config |= _functions(layer, config)
    activation = layer_activation(layer)
    if activation is not None:
        config["activation"] = made_like(activation, config_of(activation))
    return config


def made_like(layer: Layer, config: dict[str, Any]) -> Layer:
    """A layer of the class of `layer`, from a configuration as `config_of` gives it.

    Raises:
        TypeError: If the class cannot be made from it.
    """
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
        raise no_copy(layer, error) from error


def deserialized(config: dict[str, Any], layer: Layer) -> Layer:
    """The layer that `config`, a part of the configuration of `layer`, stands for.

    Raises:
        TypeError: If it cannot be made.
    """
    try:
        return keras.saving.deserialize_keras_object(config)
    except (TypeError, ValueError) as error:
        raise no_copy(layer, error) from error


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


def no_copy(layer: Layer, error: Exception) -> TypeError:
    """The error for a layer that cannot be made from its configuration, for what Keras says."""
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
        "or convert in `keras.saving.custom_object_scope({'name': function})`; or convert the "
        "model itself with `in_place=True`, which takes no configuration."
    )


def _functions(layer: Layer, config: dict[str, Any]) -> dict[str, Any]:
    """The functions for which `config` has a name or code."""
    return {
        key: value
        for key in config
        if inspect.isfunction(value := getattr(layer, key, None))
        and not _is_name(config[key], value)
    }


def _is_name(config: Any, function: Any) -> bool:
    """Whether what a configuration has in the place of a function is the name of just that."""
    return isinstance(config, str) and getattr(keras.activations, config, function) is function
