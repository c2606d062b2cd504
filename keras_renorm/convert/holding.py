"""Where a layer keeps the layers in it: attributes, and the containers in them."""

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import keras

from keras_renorm import keras_internals
from keras_renorm.typing import Layer


def holds(holder: Layer, layer: Layer) -> bool:
    """Whether a layer has another in an attribute, or in a container in one."""
    values = keras_internals.attributes(holder).values()
    return any(leaf is layer for value in values for leaf in _leaves(value))


def holds_in_function(holder: Layer, layer: Layer) -> str | None:
    """The attribute with a function that holds `layer` itself, or None."""
    for name, value in keras_internals.attributes(holder).items():
        if any(one is layer for leaf in _leaves(value) for one in _captured(leaf)):
            return name
    return None


def exchange(holder: Layer, new_of: Callable[[Any], Any]) -> None:
    """Replaces each layer in the attributes of `holder` by `new_of(layer)`.

    Lists, dicts and sets change in place, because other objects may hold them, too. Tuples are made
    anew.
    """
    for name, value in keras_internals.attributes(holder).items():
        new = _exchanged(value, new_of)
        if new is not value:
            setattr(holder, name, new)


def _exchanged(value: Any, new_of: Callable[[Any], Any]) -> Any:
    """The replacement of a value. A mutable container changes, and is returned itself."""
    if isinstance(value, keras.layers.Layer):
        return new_of(value)
    if isinstance(value, list):
        for i, item in enumerate(value):
            new = _exchanged(item, new_of)
            if new is not item:
                value[i] = new
    elif isinstance(value, dict):
        for key, item in list(value.items()):
            new_key, new = new_of(key), _exchanged(item, new_of)
            if new_key is not key:  # Keras keeps what it compiled with in a dict by layer
                del value[key]
            if new_key is not key or new is not item:
                value[new_key] = new
    elif isinstance(value, set):
        for item in [one for one in value if new_of(one) is not one]:
            value.remove(item)
            value.add(new_of(item))
    elif isinstance(value, tuple):
        items = [_exchanged(item, new_of) for item in value]
        if any(new is not old for new, old in zip(items, value, strict=True)):
            return getattr(value, "_make", tuple)(items)  # `_make` of a named tuple
    return value


def _leaves(value: Any) -> Iterator[Any]:
    """The items of a container, at any depth, or the value alone."""
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list | tuple | set):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def _captured(function: Any) -> Iterator[Any]:
    """The objects that a function has captured."""
    if isinstance(function, functools.partial):
        yield from (function.func, *function.args, *function.keywords.values())
        function = function.func
    if inspect.isfunction(function):
        yield from inspect.getclosurevars(function).nonlocals.values()
    yield getattr(function, "__self__", None)
