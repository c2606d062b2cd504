"""Configurations hold only what differs from the defaults, so that other versions load them."""

import inspect
from collections.abc import Iterable
from typing import Any

import keras

_KINDS = {
    "initializer": keras.initializers,
    "regularizer": keras.regularizers,
    "constraint": keras.constraints,
    "activation": keras.activations,
}
"""The module that serialises an argument, by the end of its name. Other arguments stay."""


def own_arguments(layer: Any, names: Iterable[str]) -> dict[str, Any]:
    """The named attributes, serialised, that differ from the constructor's defaults.

    A subclass from elsewhere with its own constructor has all of them: it may hide its defaults.
    """
    defaults = _defaults(type(layer))
    values = {name: _serialized(name, getattr(layer, name)) for name in names}
    return {
        name: value
        for name, value in values.items()
        if name not in defaults or _alone(value) != _alone(_serialized(name, defaults[name]))
    }


def _serialized(name: str, value: Any) -> Any:
    kind = _KINDS.get(name.rpartition("_")[2])
    return value if kind is None else kind.serialize(kind.get(value))


def _alone(serialized: Any) -> Any:
    """An argument without the mark of an object that several layers share.

    While a model is saved, Keras knows objects by where they lie, and a default may lie where
    another one lay.
    """
    if not isinstance(serialized, dict):
        return serialized
    return {key: value for key, value in serialized.items() if key != "shared_object_id"}


def _defaults(layer: type) -> dict[str, Any]:
    """Defaults of a class's constructor and of its bases' constructors."""
    own = next(base for base in layer.__mro__ if "__init__" in vars(base))
    if not own.__module__.startswith("keras_renorm."):
        return {}
    return {
        name: parameter.default
        for base in reversed(layer.__mro__)
        if base.__module__.startswith("keras_renorm.") and "__init__" in vars(base)
        for name, parameter in inspect.signature(vars(base)["__init__"]).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
