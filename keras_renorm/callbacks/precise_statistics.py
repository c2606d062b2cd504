"""Precise population statistics during `fit`."""

import hashlib
from typing import Any

import keras
import numpy as np

from keras_renorm.callbacks.order import check_order
from keras_renorm.models import batch_norms
from keras_renorm.ops import arguments
from keras_renorm.statistics import PreciseReport, precise
from keras_renorm.statistics.batches import is_one_shot
from keras_renorm.statistics.population import check_arguments


class PreciseStatistics(keras.callbacks.Callback):
    """Calls `keras_renorm.statistics.precise` at the end of training, or of every n-th epoch.

    An epoch with a validation gets its statistics before it, so that the validation measures them.
    Training goes on with them as moving statistics. That changes nothing for Batch Normalization.
    Batch Renormalization corrects towards them, and adaptive limits begin again, closed for some 20
    steps. `precise` says where such statistics help, and warns where they are likely to harm.

    The statistics describe the weights at the time of this callback. In the list, put it after the
    callbacks that change the weights: `SwapEMAWeights()` and, with `at_end`,
    `EarlyStopping(restore_best_weights=True)`. With `every_epochs`, put it before the callbacks
    that save the weights: `ModelCheckpoint`, `BackupAndRestore`. Another place is an error when
    training begins. If other callbacks change the weights after the validation, the statistics are
    renewed once more.

    Args:
        dataset: As for `precise`; with `every_epochs` a dataset that can be read several times.
        num_samples: As for `precise`.
        every_epochs: Epochs between two estimates; None for none during training.
        at_end: Whether to estimate at the end of training. That includes training whose last epoch
            had an estimate, because other callbacks may have changed the weights since.
        verbose: As for `precise`, 0 by default.
        **options: Further arguments of `precise`, such as `batch_size` and `passes`.

    Attributes:
        report: The last `PreciseReport`; None before the first estimate.

    Raises:
        TypeError: If `every_epochs` is not an integer, or `precise` has no such argument or takes
            no such value.
        ValueError: If there is nothing to do, `every_epochs` is less than 1, `dataset` is an
            iterator that several epochs would have to read, or an argument of `precise` is out of
            range. When training begins, if another callback saves or changes the weights at the
            wrong time, or a built model holds no batch norm or not those of `layers`.

    Example:
        >>> model.fit(x, y, callbacks=[keras_renorm.callbacks.PreciseStatistics(x, 10_000)])

    Source: Wu & Johnson 2021, section 3.
    """

    def __init__(
        self,
        dataset: Any,
        num_samples: int | None = None,
        *,
        every_epochs: int | None = None,
        at_end: bool = True,
        verbose: Any = 0,
        **options: Any,
    ) -> None:
        super().__init__()
        self._every_epochs = arguments.optional_integer("every_epochs", every_epochs, low=1)
        self._at_end = arguments.flag("at_end", at_end)
        if self._every_epochs is None and not self._at_end:
            raise ValueError(
                "PreciseStatistics has nothing to do with every_epochs=None and at_end=False. "
                "Write every_epochs=1, or leave at_end out."
            )
        if self._every_epochs is not None and is_one_shot(dataset):
            raise ValueError(
                f"`dataset` is a {type(dataset).__name__}, which can be read only once, but "
                f"every_epochs={every_epochs} reads it several times. Give a tf.data.Dataset, an "
                "array or a list."
            )
        self._arguments = {"dataset": dataset, "num_samples": num_samples, "verbose": verbose}
        self._arguments.update(options)
        check_arguments(self._arguments)
        self._due = False
        self._renewed: bytes | None = None
        self.report: PreciseReport | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        """Checks the order of the callbacks, and the batch norms of a model that is built."""
        check_order(self, by_epoch=self._every_epochs is not None, at_end=self._at_end)
        if self.model.built:
            batch_norms(self.model, self._arguments.get("layers"))

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Notes whether the statistics are due after this epoch."""
        self._due = self._every_epochs is not None and (epoch + 1) % self._every_epochs == 0
        self._renewed = None

    def on_test_begin(self, logs: Any = None) -> None:
        """Estimates before the validation."""
        if self._due:
            self._estimate()
            self._renewed = self._weights()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Estimates after an epoch without validation, or if the weights changed since."""
        if self._due and (self._renewed is None or self._renewed != self._weights()):
            self._estimate()
        self._due = False

    def on_train_end(self, logs: Any = None) -> None:
        """Estimates for the final weights."""
        if self._at_end:
            self._estimate()

    def _estimate(self) -> None:
        self.report = precise(self.model, **self._arguments)

    def _weights(self) -> bytes:
        """A digest of the trainable weights."""
        digest = hashlib.sha256()
        for variable in self.model.trainable_variables:
            digest.update(np.ascontiguousarray(keras.ops.convert_to_numpy(variable)).tobytes())
        return digest.digest()
