"""A callback that acts every few training steps and writes reports for TensorBoard."""

import abc
import pathlib
from typing import Any

import keras

from keras_renorm.diagnostics.report import Report
from keras_renorm.models import StepCounter
from keras_renorm.ops import arguments


class StepCallback(keras.callbacks.Callback, abc.ABC):
    """Calls `record` before the first step, every `every_n_steps`, and at the end of training.

    A model that has no weights before the first step is recorded after that step.

    Steps are the optimizer's, so a training that resumes from a checkpoint goes on counting.

    Args:
        every_n_steps: Steps between two calls, 1 or more.
        log_dir: Folder for TensorBoard's files, or None.
        optimizer: The optimizer whose steps count, by default the model's.

    Raises:
        TypeError: If `every_n_steps` is not an integer.
        ValueError: If `every_n_steps` is less than 1.
        ImportError: If there is a `log_dir`, and TensorFlow, which writes the files under every
            backend, or TensorBoard is not installed.
    """

    def __init__(
        self,
        every_n_steps: int,
        log_dir: str | pathlib.Path | None,
        optimizer: keras.optimizers.Optimizer | None = None,
    ) -> None:
        super().__init__()
        self._every = arguments.integer("every_n_steps", every_n_steps, low=1)
        self._counter = StepCounter(self, optimizer)
        self._recorded: int | None = None
        self._seen = 0
        self._log_dir = log_dir
        self._writer: Any = None
        if log_dir is not None:
            _summaries()

    @abc.abstractmethod
    def record(self, step: int) -> None:
        """Does the work of the callback.

        Args:
            step: Training steps so far.
        """

    def on_train_begin(self, logs: Any = None) -> None:
        """Forgets an earlier training."""
        self._counter.begin_training()
        self._seen, self._recorded = 0, None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Records before the first step; of a model that this step builds, after it."""
        if not self._counter.begin_epoch():
            return
        self._seen = self._counter.begun
        if self.model.built:
            self._record_at(self._seen)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Records when another `every_n_steps` are done."""
        step = self._counter.steps_after(batch + 1)
        # With steps_per_execution a call makes several steps, and may jump over the multiple.
        if self._recorded is None or step // self._every > self._seen // self._every:
            self._record_at(self._counter.steps())
        self._seen = step

    def on_train_end(self, logs: Any = None) -> None:
        """Records after the last step, closes the log, and warns if there was no step."""
        step = self._counter.steps()
        if step != self._recorded and self.model.built:
            self._record_at(step)
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self._counter.end_training()

    def log(self, report: Report, step: int) -> None:
        """Writes a report's scalars and findings for TensorBoard, if there is a `log_dir`.

        Args:
            report: The report.
            step: Training steps so far.
        """
        if self._log_dir is None:
            return
        summary = _summaries()
        if self._writer is None:
            self._writer = summary.create_file_writer(str(self._log_dir))
        with self._writer.as_default(step=step):
            for name, value in report.scalars().items():
                summary.scalar(name, value)
            if report.findings:
                lines = (f"- {finding}" for finding in report.findings)
                summary.text(f"findings/{type(report).__name__}", "\n".join(lines))
        self._writer.flush()

    def _record_at(self, step: int) -> None:
        self.record(step)
        self._recorded = step


def _summaries() -> Any:
    """TensorFlow's `tf.summary`. It has no `scalar` where TensorBoard is not installed."""
    try:
        import tensorflow as tf
    except ModuleNotFoundError as error:
        raise ImportError(
            "`log_dir` needs TensorFlow, which writes TensorBoard's files under every backend and "
            "is not installed. Write `pip install tensorflow`, or leave log_dir out."
        ) from error
    if not hasattr(tf.summary, "scalar"):
        raise ImportError(
            "`log_dir` needs TensorBoard, which is not installed. Write `pip install tensorboard`, "
            "or leave log_dir out."
        )
    return tf.summary
