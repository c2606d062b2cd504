"""The steps of a training, and the optimizer whose steps a callback counts."""

import contextlib
import contextvars
import weakref
from collections.abc import Iterator
from typing import Any

import keras

from keras_renorm import callers, keras_internals

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
    return _steps_of(optimizer)


# The training steps before a layer was part of its model, where there were any.
_before: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()


def joins(layer: keras.layers.Layer, model: keras.Model) -> None:
    """Notes that a layer becomes part of a model that may have been trained for some steps."""
    _before[layer] = steps_so_far(model) or 0


def steps_with(layer: keras.layers.Layer, steps: int) -> int:
    """How many of a model's training steps a layer was part of it.

    Args:
        layer: The layer.
        steps: The steps of the model.
    """
    return steps - _before.get(layer, 0)


class StepCounter:
    """The steps of an optimizer in `fit`, for a callback.

    Args:
        callback: The callback.
        given: The optimizer whose steps count, or None for the model's.

    Attributes:
        begun: The steps before those of this training.
    """

    def __init__(self, callback: keras.callbacks.Callback, given: Any) -> None:
        self._callback, self._given = callback, given
        self.begun, self._epochs = 0, 0
        self._batches, self._batches_per_step, self._estimates = 0, 1, False

    @property
    def optimizer(self) -> Any:
        """The optimizer. For a `LossScaleOptimizer` it is the inner optimizer.

        Raises:
            TypeError: If the given one is no optimizer of Keras.
            ValueError: If there is none.
        """
        self._check_given()
        kind, optimizer = type(self._callback).__name__, self._given
        model = self._callback.model  # Under JAX this brings the step's state to the variables.
        optimizer = model.optimizer if optimizer is None else optimizer
        if optimizer is None:
            raise ValueError(
                f"{kind} counts the steps of an optimizer, and the model {model.name!r} is "
                "compiled without one. Give it the one that `train_step` uses: "
                f"{kind}(..., optimizer=...)."
            )
        return getattr(optimizer, "inner_optimizer", optimizer)

    def begin_training(self) -> None:
        """Forgets earlier trainings. The first epoch of this one reads the count.

        Raises:
            TypeError: If the given optimizer is no optimizer of Keras.
        """
        self._check_given()
        self.begun, self._epochs = 0, 0

    def _check_given(self) -> None:
        kind, optimizer = type(self._callback).__name__, self._given
        if optimizer is not None and not isinstance(optimizer, keras.optimizers.Optimizer):
            raise TypeError(
                f"`optimizer` must be an optimizer of Keras, received {optimizer!r} of type "
                f"{type(optimizer).__name__}. Write {kind}(..., optimizer=...) with the object "
                "that `train_step` uses."
            )

    def begin_epoch(self) -> bool:
        """Reads the count before an epoch; returns whether it is the first of the training.

        Only then have all callbacks begun, one of which may have restored an earlier training.
        """
        self._epochs += 1
        if self._epochs == 1:
            self.begun = self.steps()
        self._batches = keras_internals.batches_seen(self.optimizer)
        self._batches_per_step = self.optimizer.gradient_accumulation_steps or 1
        alone = self._given is None and self._callback.model.steps_per_execution == 1
        self._estimates = alone and keras_internals.copies_state_to_callbacks()
        return self._epochs == 1

    def steps(self) -> int:
        """The steps so far."""
        return _steps_of(self.optimizer)

    def steps_after(self, batches: int) -> int:
        """The steps so far, after so many batches of the epoch.

        Under JAX reading the count copies all state, and `fit` steps the model's own optimizer
        only. So there each batch of the epoch counts, even if its gradients overflowed. With
        `steps_per_execution` the count is read: versions of Keras number the batches differently.
        """
        if self._estimates:
            return (self._batches + batches) // self._batches_per_step
        return self.steps()

    def end_training(self) -> None:
        """Warns if the optimizer made no step in an epoch: it may be the wrong one."""
        if not self._epochs or self.steps() != self.begun:
            return
        kind = type(self._callback).__name__
        callers.warn(
            f"{kind} counted nothing: the optimizer made no step. If the model's `train_step` uses "
            f"another one, write {kind}(..., optimizer=...)."
        )


def _steps_of(optimizer: Any) -> int:
    """The steps that an optimizer of Keras made. Gradients that it gathers are one step.

    Not `iterations`, which counts the gathered minibatches in Keras 3.4.
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    return keras_internals.batches_seen(inner) // (inner.gradient_accumulation_steps or 1)
