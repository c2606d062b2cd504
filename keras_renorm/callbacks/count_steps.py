"""Schedules that count the optimizer's steps."""

from typing import Any

import keras

from keras_renorm import keras_internals
from keras_renorm.layers import BatchRenormalization
from keras_renorm.models import optimizer_of, warn_of_no_steps
from keras_renorm.statistics.hooks import retrace_training


class CountSteps(keras.callbacks.Callback):
    """Makes the schedules of a model count the optimizer's steps, instead of calls of the model.

    Use it where a step calls the model several times, as a GAN's step calls its discriminator, or
    where the optimizer gathers gradients over several minibatches (`gradient_accumulation_steps`).
    By itself a layer counts each call of the whole model in training. In `fit` this callback counts
    `optimizer.iterations`. In a loop of your own, give it the model before the first step, and call
    `advance()` after each step.

    It changes only `update_count`, on which schedules depend. Moving averages and adaptive limits
    still take in each minibatch, as in every batch norm. With n calls in a step their time constant
    is 1 / (1 - momentum) / n steps, and `momentum ** (1 / n)` restores it. A layer that counts for
    each of its domains goes on counting minibatches.

    Under JAX, in a step without side effects, add the steps to the values of the variables named
    `update_count`, or call `advance` within a `keras.StatelessScope`.

    Args:
        model: The model, for a loop of your own. `fit` gives its own model.
        optimizer: The optimizer whose steps `fit` counts, by default the model's. Give it where a
            `train_step` uses another optimizer.

    Raises:
        ValueError: If the model, given or that of `fit`, has no built layer with a schedule; if
            there is no optimizer.

    Example:
        >>> counter = keras_renorm.callbacks.CountSteps(model)
        >>> _ = model(images, training=True)  # of real images
        >>> _ = model(images, training=True)  # of others
        >>> counter.advance()
    """

    def __init__(
        self,
        model: keras.Model | None = None,
        *,
        optimizer: keras.optimizers.Optimizer | None = None,
    ) -> None:
        super().__init__()
        self._given = optimizer
        self._layers: list[BatchRenormalization] = []
        self._begun = self._counted = 0
        if model is not None:
            self.set_model(model)
            self._take_over(model)

    def advance(self, steps: int = 1) -> None:
        """Counts steps.

        Args:
            steps: Their number.
        """
        for layer in self._layers:
            layer.update_count.assign_add(keras.ops.cast(steps, layer.update_count.dtype))

    def on_train_begin(self, logs: Any = None) -> None:
        """Takes the counters over."""
        self._take_over(self.model)
        self._begun = self._counted = self._steps()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Counts the steps since the last time."""
        steps = self._steps()
        if steps > self._counted:
            self.advance(steps - self._counted)
        self._counted = steps

    def on_train_end(self, logs: Any = None) -> None:
        """Gives the counters back."""
        for layer in self._layers:
            layer.counts_calls = True
        retrace_training(self.model)
        if self._counted == self._begun:
            warn_of_no_steps(self)

    def _take_over(self, model: Any) -> None:
        self._layers = [x for x in keras_internals.flattened(model) if _has_counter(x)]
        if not self._layers:
            raise ValueError(
                f"CountSteps found no counter in the model {model.name!r}: no built "
                "BatchRenormalization with a schedule. Adaptive limits, the default, and numbers "
                "need no counter: leave the callback out."
            )
        for layer in self._layers:
            layer.counts_calls = False
        retrace_training(model)

    def _steps(self) -> int:
        inner = optimizer_of(self, self._given)
        # In Keras 3.4 `iterations` counts the gathered minibatches.
        return keras_internals.batches_seen(inner) // (inner.gradient_accumulation_steps or 1)


def _has_counter(layer: Any) -> bool:
    """Whether a layer has one counter, and not a counter for each domain."""
    count = layer.update_count if isinstance(layer, BatchRenormalization) else None
    return count is not None and len(count.shape) == 0
