"""Layers made from the configurations of others."""

import inspect
from typing import Any

import keras

from keras_renorm.keras_internals import is_keras_method, output_shape_of_lambda
from keras_renorm.typing import Layer


def config_of(layer: Layer) -> dict[str, Any]:
    """A layer's configuration, with its functions as they are and a copy of its activation.

    `get_config` turns functions into names, which Keras finds only if they are registered, or into
    code without the names around it. An activation that is a layer is copied without weights,
    because `get_config` would have its weights made before the layer has its place.

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
        TypeError: If the configuration does not make the layer.
    """
    kind: Any = type(layer)
    options = {}
    if kind is keras.layers.Lambda:
        # Its own `from_config` takes code, not functions.
        kind = super(keras.layers.Lambda, kind)
    elif isinstance(layer, keras.layers.Lambda):
        options = {"safe_mode": False}  # the code comes from no file
    try:
        return kind.from_config(config, **options)
    except (TypeError, ValueError) as error:
        raise no_copy(layer, error) from error


def deserialized(config: dict[str, Any], layer: Layer) -> Layer:
    """The layer behind `config`, a part of the configuration of `layer`.

    Raises:
        TypeError: If the layer cannot be made.
    """
    try:
        return keras.saving.deserialize_keras_object(config)
    except (TypeError, ValueError) as error:
        raise no_copy(layer, error) from error


def layer_activation(layer: Layer) -> Layer | None:
    """A layer's activation, if that is itself a layer and an argument of the constructor."""
    activation = getattr(layer, "activation", None)
    if not isinstance(activation, keras.layers.Layer):
        return None
    if not is_keras_method(type(layer), "from_config"):
        return None
    config = layer.get_config().get("activation")
    given = isinstance(config, dict) and config.get("class_name") == type(activation).__name__
    return activation if given else None


def no_copy(layer: Layer, error: Exception) -> TypeError:
    """The error for a layer that its configuration does not make, with Keras's reason."""
    # Keras wraps a constructor's message in the whole configuration.
    cause: BaseException = error
    while cause.__context__ is not None:
        cause = cause.__context__
    # An example follows the first paragraph.
    reason = " ".join(str(cause).strip().partition("\n\n")[0].split()).rstrip(".")
    return TypeError(
        f"The {type(layer).__name__} {layer.name!r} cannot be copied from its configuration "
        f"({reason}). Give a class of your own `get_config` and `from_config`; register a function "
        "or class that the configuration names, with `keras.saving.register_keras_serializable()`, "
        "or convert in `keras.saving.custom_object_scope({'name': function})`; or convert the "
        "model itself with `in_place=True`, which needs no configuration (`fold` can only copy)."
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
    """Whether a configuration names exactly this function."""
    return isinstance(config, str) and getattr(keras.activations, config, function) is function
