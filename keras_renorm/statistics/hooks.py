"""Compiled functions that forget the state that they were traced with."""

import contextlib
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import keras

from keras_renorm.keras_internals import flattened

_FUNCTIONS = ("train_function", "test_function", "predict_function")

# Held while a function is made, or put in place: Keras does both in one.
_lock = threading.RLock()


class _FunctionOfThread:
    """A compiled function of a model: one for the thread that made it, another for the others."""

    def __init__(self, model: Any, name: str) -> None:
        self._model, self._name = model, name
        self._thread: int | None = threading.get_ident()
        with _lock:
            before = getattr(model, name)
            # Made here, as Keras does: JAX's trainer takes the variables away before the call.
            self._functions = {True: self._made(), False: before}
            setattr(model, name, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        own = threading.get_ident() == self._thread
        with _lock:
            if self._functions[own] is None:
                in_place = getattr(self._model, self._name)
                self._functions[own] = self._made()
                setattr(self._model, self._name, in_place)
            function = self._functions[own]
        return function(*args, **kwargs)

    def _made(self) -> Any:
        """Lets Keras make the function anew and put it in place; it traces the present state."""
        getattr(self._model, f"make_{self._name}")(force=True)
        return getattr(self._model, self._name)

    def close(self) -> None:
        """Leaves the function of the other threads, unless another thread's stands on top."""
        with _lock:
            self._thread = None
            now = getattr(self._model, self._name)
            if not isinstance(now, _FunctionOfThread):  # made anew meanwhile
                self._made()
            elif now is self:
                # Never None: another thread may have seen a function, and may call it next.
                setattr(self._model, self._name, self._functions[False] or self._made())


@contextlib.contextmanager
def fresh_functions(model: keras.layers.Layer) -> Iterator[None]:
    """In the context, `fit`, `evaluate` and `predict` trace anew; the old functions return after.

    A function that was traced earlier has the layers' state of that time built in. Other threads
    keep the old functions all the time.
    """
    with contextlib.ExitStack() as stack:
        for part in _models(model):
            for name in _FUNCTIONS:
                stack.callback(_FunctionOfThread(part, name).close)
        yield


def retrace_training(model: keras.layers.Layer) -> None:
    """Makes `fit` trace its step anew, from the next step on if `fit` is running."""
    retrace(model, ("train_function",))


def retrace(model: keras.layers.Layer, names: Iterable[str] = _FUNCTIONS) -> None:
    """Makes `fit`, `evaluate` and `predict`, or those with functions of these names, trace anew."""
    for part in _models(model):
        for name in names:
            if getattr(part, name) is not None:
                getattr(part, f"make_{name}")(force=True)


def _models(model: keras.layers.Layer) -> list[Any]:
    return [part for part in flattened(model) if isinstance(part, keras.Model)]
