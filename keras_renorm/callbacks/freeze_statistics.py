"""Population statistics in the last part of `fit`."""

from typing import Any

import keras

from keras_renorm import keras_internals
from keras_renorm.models import StepCounter
from keras_renorm.ops import arguments
from keras_renorm.statistics import freeze


class FreezeStatistics(keras.callbacks.Callback):
    """Calls `keras_renorm.statistics.freeze` before a certain training step.

    Steps are the optimizer's, so a resumed training goes on counting. With
    `gradient_accumulation_steps` several batches make one step. A batch whose gradients overflow
    (`LossScaleOptimizer`) makes none, and a `train_step` may make several. Under JAX such a batch
    counts as one step until its epoch ends. With `steps_per_execution` greater than 1, the freezing
    comes with the first execution at or after the step. The model stays frozen when training ends.
    The callback may stand anywhere among the others, because it acts before a step and others save
    after one.

    Args:
        at_step: The number of steps before the freezing, 0 or more.
        affine_trainable: Whether gamma and beta train on, those that did. False is not possible
            with the JAX backend, whose `fit` cannot change what it trains. It is not possible
            either with an optimizer that averages the weights (`use_ema`), because that counts
            them.
        optimizer: The optimizer whose steps count, by default the model's. Give it where a
            `train_step` uses another optimizer.

    Raises:
        TypeError: If `at_step` is not an integer, or `affine_trainable` not a truth value.
        ValueError: If `at_step` is less than 0, or `affine_trainable` is False with JAX; when `fit`
            begins, if `affine_trainable` is False with `use_ema`.

    Example:
        >>> freezing = keras_renorm.callbacks.FreezeStatistics(at_step=80_000)
        >>> model.fit(dataset, epochs=100, steps_per_epoch=1_000, callbacks=[freezing])

    Source: Wu & Johnson 2021, section 4.
    """

    def __init__(
        self,
        at_step: int,
        *,
        affine_trainable: bool = True,
        optimizer: keras.optimizers.Optimizer | None = None,
    ) -> None:
        super().__init__()
        self._at_step = arguments.integer("at_step", at_step, low=0)
        self._affine_trainable = arguments.flag("affine_trainable", affine_trainable)
        if not affine_trainable and keras_internals.trains_fixed_variables():
            raise ValueError(
                "`affine_trainable=False` is not possible during a fit with the JAX backend. Fit "
                "up to the step, then write `keras_renorm.statistics.freeze(model, "
                "affine_trainable=False)`, `model.compile(...)`, and fit on."
            )
        self._counter = StepCounter(self, optimizer)
        self._frozen = False

    def on_train_begin(self, logs: Any = None) -> None:
        """Checks the optimizer."""
        averages = self._counter.optimizer.use_ema
        if averages and not self._affine_trainable:
            raise ValueError(
                "`affine_trainable=False` is not possible with an optimizer that averages the "
                "weights (`use_ema=True`). Leave one of them out, or fit up to the step, then "
                "write `keras_renorm.statistics.freeze(model, affine_trainable=False)`, "
                "`model.compile(...)`, and fit on."
            )
        self._counter.begin_training()
        self._frozen = False

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Reads the optimizer's count."""
        self._counter.begin_epoch()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Freezes the statistics at the step."""
        if self._frozen:
            return
        if self._counter.steps_after(batch) >= self._at_step:
            freeze(self.model, affine_trainable=self._affine_trainable)
            self._frozen = True

    def on_train_end(self, logs: Any = None) -> None:
        """Warns if the optimizer made no step."""
        self._counter.end_training()
