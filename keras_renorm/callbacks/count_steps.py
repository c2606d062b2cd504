"""Schedules that count the optimizer's steps."""

import weakref
from typing import Any

import keras

from keras_renorm import keras_internals
from keras_renorm.layers import BatchRenormalization, DomainBatchRenormalization
from keras_renorm.models import StepCounter, require_model
from keras_renorm.ops import arguments
from keras_renorm.schedules import Schedule
from keras_renorm.statistics.hooks import retrace_training

# What `counts_calls` was before a `fit`. An exception ends a `fit` without `on_train_end`.
_before: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()


class CountSteps(keras.callbacks.Callback):
    """Makes the schedules of a model count the optimizer's steps, instead of calls of the model.

    Use it where a step calls the model several times, as a GAN's step calls its discriminator, or
    where the optimizer gathers gradients over several minibatches (`gradient_accumulation_steps`).
    By itself a layer counts each call of the whole model in training. In `fit` this callback counts
    the optimizer's steps. In a loop of your own, give it the model before the first step, and call
    `advance()` after each step.

    After a `fit` that an exception ends, such as Ctrl-C, the schedules still wait for the callback:
    give it to the next `fit`, too, or set `counts_calls` of the layers to True.

    It changes only `update_count`, on which schedules depend. Moving averages and adaptive limits
    still take in each minibatch, as in every batch norm. With n calls in a step their time constant
    is 1 / (1 - momentum) / n steps, and `momentum ** (1 / n)` restores it. A layer that counts for
    each of its domains goes on counting minibatches.

    Under JAX, in a step without side effects, add the steps to the values of the variables named
    `update_count`, or call `advance` within a `keras.StatelessScope`.

    Args:
        model: The model, for a loop of your own. `fit` gives its own model. Its layers need not be
            built yet, but the model must hold them: not those that its `build` or `call` will make.
        optimizer: The optimizer whose steps `fit` counts, by default the model's. Give it where a
            `train_step` uses another optimizer.

    Raises:
        TypeError: If `model` is no Keras model.
        ValueError: If the model, given or that of `fit`, has no layer with a schedule; if there is
            no optimizer.

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
        self._counter = StepCounter(self, optimizer)
        self._layers: list[BatchRenormalization] = []
        self._counted = 0
        if model is not None:
            require_model(model)
            self.set_model(model)
            self._layers = _counting(model)
            self._take_over(model)
            for layer in self._layers:  # whose training is this loop from here on
                _before.pop(layer, None)

    def advance(self, steps: int = 1) -> None:
        """Counts steps, in each layer that has been built and learns from minibatches.

        Args:
            steps: Their number, 0 or more. It may be a tensor, which is not checked.

        Raises:
            TypeError: If `steps` is no integer.
            ValueError: If `steps` is less than 0, or there is no model.
        """
        if not keras.ops.is_tensor(steps):
            steps = arguments.integer("steps", steps, low=0)
        if not self._layers:
            raise ValueError(
                "CountSteps has no model to count for: write CountSteps(model), or give the "
                "callback to `fit`."
            )
        for layer in self._layers:
            count = layer.update_count
            # None: not built yet, or built without a schedule after all.
            if count is not None and layer.statistics_in_use == "batch":
                count.assign_add(keras.ops.cast(steps, count.dtype))

    def on_train_begin(self, logs: Any = None) -> None:
        """Takes the counters over."""
        self._layers = _counting(self.model)
        self._counter.begin_training()
        self._counted = self._counter.steps()
        for layer in self._layers:
            _before.setdefault(layer, layer.counts_calls)
        self._take_over(self.model)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Reads the optimizer's count, which a callback may have restored."""
        if self._counter.begin_epoch():
            self._counted = self._counter.begun

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Counts the steps since the last time."""
        steps = self._counter.steps()
        if steps > self._counted:
            self.advance(steps - self._counted)
        self._counted = steps

    def on_train_end(self, logs: Any = None) -> None:
        """Gives the counters back."""
        for layer in self._layers:
            layer.counts_calls = _before.pop(layer, layer.counts_calls)
        retrace_training(self.model)
        self._counter.end_training()

    def _take_over(self, model: Any) -> None:
        for layer in self._layers:
            layer.counts_calls = False
        retrace_training(model)


def _counting(model: Any) -> list[BatchRenormalization]:
    """The layers of a model whose counters a callback can take over.

    Raises:
        ValueError: If there is none.
    """
    found = [layer for layer in keras_internals.flattened(model) if _has_counter(layer)]
    if not found:
        raise ValueError(
            f"CountSteps found no counter in the model {model.name!r}: no BatchRenormalization "
            "with a schedule. Adaptive limits, the default, and numbers need no counter: leave "
            "the callback out. Layers that the model makes in its first call are not found "
            "before that: call the model once."
        )
    return found


def _has_counter(layer: Any) -> bool:
    """Whether a layer has, or gets when it is built, one counter, and not one for each domain."""
    if not isinstance(layer, BatchRenormalization):
        return False
    if layer.built:
        return layer.update_count is not None and len(layer.update_count.shape) == 0
    if isinstance(layer, DomainBatchRenormalization) and layer.population_statistics == "domain":
        return False
    return any(isinstance(limit, Schedule) for limit in (layer.r_max, layer.d_max))
