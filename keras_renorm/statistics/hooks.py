"""Compiled functions that forget the state that they were traced with."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import keras

from keras_renorm.keras_internals import flattened

_FUNCTIONS = ("train_function", "test_function", "predict_function")


class _FunctionOfThread:
    """A compiled function of a model: one for the thread that made this, another for the rest."""

    def __init__(self, model: Any, name: str) -> None:
        self._model, self._name = model, name
        self._thread: int | None = threading.get_ident()
        before = getattr(model, name)
        self._make()  # where Keras would: JAX's trainer takes the variables away before the call
        self._functions = {True: getattr(model, name), False: before}
        setattr(model, name, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        own = threading.get_ident() == self._thread
        if self._functions[own] is None:
            in_place = getattr(self._model, self._name)
            self._make()
            self._functions[own] = getattr(self._model, self._name)
            setattr(self._model, self._name, in_place)
        return self._functions[own](*args, **kwargs)

    def _make(self) -> None:
        """Has Keras make the function anew, with what holds in this thread."""
        getattr(self._model, f"make_{self._name}")(force=True)

    def close(self) -> None:
        """Leaves the function of the other threads, unless another thread's stands on top."""
        self._thread = None
        now = getattr(self._model, self._name)
        if not isinstance(now, _FunctionOfThread):  # made anew meanwhile, with whatever held then
            self._make()
        elif now is self:
            setattr(self._model, self._name, self._functions[False])


@contextlib.contextmanager
def fresh_functions(model: keras.layers.Layer) -> Iterator[None]:
    """In the context, `fit`, `evaluate` and `predict` trace anew; then the old functions are back.

    A function that was traced before has the layers' state of that time built in. Other threads
    have the old functions all the time.
    """
    fresh: list[_FunctionOfThread] = []
    try:
        fresh += [_FunctionOfThread(part, name) for part in _models(model) for name in _FUNCTIONS]
        yield
    finally:
        for function in reversed(fresh):
            function.close()


def retrace_training(model: keras.layers.Layer) -> None:
    """Has `fit` trace its step anew, from the next step on if it is running."""
    for part in _models(model):
        if part.train_function is not None:
            part.make_train_function(force=True)


def retrace(model: keras.layers.Layer) -> None:
    """Has `fit`, `evaluate` and `predict` trace anew."""
    for part in _models(model):
        for name in _FUNCTIONS:
            if getattr(part, name) is not None:
                getattr(part, f"make_{name}")(force=True)


def _models(model: keras.layers.Layer) -> list[Any]:
    return [part for part in flattened(model) if isinstance(part, keras.Model)]
