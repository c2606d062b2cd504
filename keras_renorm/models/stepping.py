"""The optimizer whose steps a callback counts."""

import warnings
from typing import Any

import keras


def optimizer_of(callback: keras.callbacks.Callback, given: Any) -> Any:
    """The given optimizer, or the model's. For a `LossScaleOptimizer` it is the inner optimizer.

    Raises:
        ValueError: If there is none.
    """
    model = callback.model  # Under JAX this brings the state of the step to the variables.
    optimizer = model.optimizer if given is None else given
    if optimizer is None:
        kind = type(callback).__name__
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
