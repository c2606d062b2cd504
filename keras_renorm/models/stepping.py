"""The steps of a training, and the optimizer whose steps a callback counts."""

import contextlib
import contextvars
import warnings
from collections.abc import Iterator
from typing import Any

import keras

from keras_renorm import keras_internals

_step: contextvars.ContextVar[int | None] = contextvars.ContextVar("step", default=None)


@contextlib.contextmanager
def at_step(step: int) -> Iterator[None]:
    """In the context, `steps_so_far` is `step`, as whoever counts the training's steps knows it."""
    token = _step.set(step)
    try:
        yield
    finally:
        _step.reset(token)


def steps_so_far(model: keras.Model) -> int | None:
    """The training steps of a model so far: those of `at_step`, or of its own optimizer.

    None where nobody knows: outside of `at_step`, for a model without an optimizer.
    """
    known = _step.get()
    optimizer = getattr(model, "optimizer", None)
    if known is not None or optimizer is None:
        return known
    return steps_of(optimizer)


def steps_of(optimizer: Any) -> int:
    """The steps that an optimizer of Keras made. Gradients that it gathers are one step.

    Not `iterations`, which counts the gathered minibatches in Keras 3.4.
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    return keras_internals.batches_seen(inner) // (inner.gradient_accumulation_steps or 1)


def optimizer_of(callback: keras.callbacks.Callback, given: Any) -> Any:
    """The given optimizer, or the model's. For a `LossScaleOptimizer` it is the inner optimizer.

    Raises:
        TypeError: If `given` is no optimizer of Keras.
        ValueError: If there is none.
    """
    kind = type(callback).__name__
    if given is not None and not isinstance(given, keras.optimizers.Optimizer):
        raise TypeError(
            f"`optimizer` must be an optimizer of Keras, received {given!r} of type "
            f"{type(given).__name__}. Write {kind}(..., optimizer=...) with the object that "
            "`train_step` uses."
        )
    model = callback.model  # Under JAX this brings the state of the step to the variables.
    optimizer = model.optimizer if given is None else given
    if optimizer is None:
        raise ValueError(
            f"{kind} counts the steps of an optimizer, and the model {model.name!r} is compiled "
            f"without one. Give it the one that `train_step` uses: {kind}(..., optimizer=...)."
        )
    return getattr(optimizer, "inner_optimizer", optimizer)


def warn_of_no_steps(callback: keras.callbacks.Callback) -> None:
    """Warns that an optimizer made no step in a training: it may be the wrong one."""
    kind = type(callback).__name__
    warnings.warn(
        f"{kind} counted nothing: the optimizer made no step. If the model's `train_step` uses "
        f"another one, write {kind}(..., optimizer=...).",
        stacklevel=3,
    )
