"""Functions that take the place of methods for a while, and models that calls leave unchanged."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import keras
import numpy as np

from keras_renorm import keras_internals
from keras_renorm.ops import backends


class LayerCall(NamedTuple):
    """A call of a layer or of another operation, not made yet.

    Attributes:
        layer: The layer.
        function: What to call.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
    """

    layer: Any
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def run(self, **changes: Any) -> Any:
        """Makes the call, with other keyword arguments where they are given."""
        return self.function(*self.args, **(self.kwargs | changes))


# Runs in the place of a call, and returns what the call returns to its caller.
Around: TypeAlias = Callable[[LayerCall], Any]

# Held while a function takes the place of a method, or leaves it.
lock = threading.RLock()


class _Hooked:
    """Takes the place of a method while there are hooks, with a stack of hooks for each thread.

    So contexts of several threads may end in any order, and none sees another's calls. Only a
    `tf.distribute` strategy runs each replica in a thread of its own. There the hooks of all
    threads act.

    Args:
        layer: The layer.
        name: The method's name.

    Attributes:
        underneath: The function that stood there before, or None for the method of the class.
    """

    def __init__(self, layer: Any, name: str) -> None:
        self._method = getattr(type(layer), name, None)
        self._layer, self._name = layer, name
        self._hooks: list[tuple[Any, Around]] = []
        self.underneath: Callable[..., Any] | None = vars(layer).get(name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the last hook of this thread, or the function underneath."""
        everywhere = backends.current().in_replica()
        hooks = [around for here, around in self._hooks if everywhere or hasattr(here, "hook")]
        return self._run(hooks, args, kwargs)

    def add(self, around: Around) -> tuple[Any, Around]:
        """Puts a hook of this thread on top, and returns it."""
        here = threading.local()  # which PyTorch compiles, unlike a thread's number
        here.hook = True
        self._hooks.append((here, around))
        return self._hooks[-1]

    def remove(self, hook: tuple[Any, Around]) -> None:
        """Removes a hook. With the last one the method is back, unless others replaced it."""
        with lock:
            self._hooks = [one for one in self._hooks if one is not hook]
            if not self._hooks and vars(self._layer).get(self._name) is self:
                del vars(self._layer)[self._name]
                put_underneath(self._layer, self._name, self.underneath)

    def _run(self, hooks: list[Around], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if hooks:
            *below, top = hooks
            return top(LayerCall(self._layer, lambda *a, **k: self._run(below, a, k), args, kwargs))
        if self.underneath is not None:
            return self.underneath(*args, **kwargs)
        assert self._method is not None
        return self._method(self._layer, *args, **kwargs)


@contextlib.contextmanager
def watched(around: Mapping[Any, Around], method: str = "call") -> Iterator[None]:
    """In the context, in this thread, a function runs in the place of each call of a layer.

    The functions stand in the instances' dictionaries. Keras's tracking of attributes does not see
    them there, and a configuration does not hold them. At the end, also after an exception, each
    method is back, except where others have put a function meanwhile.

    Args:
        around: The functions, by the layers or other operations.
        method: The name of the method that is called.
    """
    with contextlib.ExitStack() as stack:
        for layer, one in around.items():
            with lock:
                hooked = vars(layer).get(method)
                if not isinstance(hooked, _Hooked):
                    hooked = vars(layer)[method] = _Hooked(layer, method)
                stack.callback(hooked.remove, hooked.add(one))
        yield


def underneath(layer: Any, name: str) -> Any:
    """The function in the place of a method, below the hooks; None for the method of the class."""
    found = vars(layer).get(name)
    return found.underneath if isinstance(found, _Hooked) else found


def put_underneath(layer: Any, name: str, function: Callable[..., Any] | None) -> None:
    """Puts a function in the place of a method, below the hooks; None for the method of the class.

    Call it with the `lock` held.
    """
    found = vars(layer).get(name)
    if isinstance(found, _Hooked):
        found.underneath = function
    elif function is None:
        vars(layer).pop(name, None)
    else:
        vars(layer)[name] = function


@contextlib.contextmanager
def unchanged(model: keras.layers.Layer) -> Iterator[None]:
    """In the context, calls change nothing in a model and keep nothing for gradients.

    Keras diverts all updates of variables to a scope that is thrown away.
    """
    backend = backends.current()
    with (
        keras.StatelessScope(),
        backend.generators_kept(),
        backend.without_gradients(),
        keras_internals.losses_kept(model),
    ):
        yield


@contextlib.contextmanager
def draws_kept(model: keras.layers.Layer) -> Iterator[Callable[[int], None]]:
    """Gives a function that sets the model's seed generators to their state after `number` draws.

    So a layer that samples in inference draws the same numbers again. At the end of the context the
    generators have their old states.
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
