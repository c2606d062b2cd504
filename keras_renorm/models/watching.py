"""Functions in the place of methods for a while, and random numbers that stay as they were."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import keras
import numpy as np

from keras_renorm import keras_internals

# Runs in the place of a layer's `call`, on (layer, its call, positional and keyword arguments).
Around: TypeAlias = Callable[[Any, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


@contextlib.contextmanager
def replaced(hooks: Iterable[tuple[Any, str, Callable[..., Any]]]) -> Iterator[None]:
    """In the context, each `(layer, name, function)` has `layer.name` be `function`.

    They stand in the instances' dictionaries, which Keras's tracking of attributes does not see
    and a configuration does not hold. On leaving, also by an exception, all is as before.
    """
    undo: list[tuple[Any, str, Any]] = []
    try:
        for layer, name, function in hooks:
            undo.append((layer, name, vars(layer).get(name)))
            vars(layer)[name] = function
        yield
    finally:
        for layer, name, before in reversed(undo):
            if before is None:
                vars(layer).pop(name, None)
            else:
                vars(layer)[name] = before


def watched(around: Mapping[Any, Around]) -> contextlib.AbstractContextManager[None]:
    """The context in which a function runs in the place of each call of a layer.

    Args:
        around: The functions, by the layers or other operations.
    """
    return replaced((layer, "call", _watched(layer, one)) for layer, one in around.items())


@contextlib.contextmanager
def draws_kept(model: keras.layers.Layer) -> Iterator[Callable[[int], None]]:
    """In the context, a function has the model's random numbers be those after so many draws.

    Of those that its seed generators draw, as a layer does that samples in inference. On leaving
    they are as before.
    """
    parts = keras_internals.flattened(model)
    states = [one.state for part in parts for one in keras_internals.seed_generators(part)]
    before = [np.array(keras.ops.convert_to_numpy(state)) for state in states]

    def skip_draws(number: int) -> None:
        for state, value in zip(states, before, strict=True):
            state.assign(value + np.array([0, number]).astype(value.dtype))  # wraps around

    try:
        yield skip_draws
    finally:
        skip_draws(0)


def _watched(layer: Any, around: Around) -> Callable[..., Any]:
    call = layer.call
    return lambda *args, **kwargs: around(layer, call, args, kwargs)
