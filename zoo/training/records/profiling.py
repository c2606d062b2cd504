"""A profile of some steps, for TensorBoard."""

from pathlib import Path

import tensorflow as tf


class Profiler:
    """Has TensorFlow write down what it does in the steps from one to another.

    Args:
        folder: For `tensorboard --logdir`.
        steps: The first and the last of them; None for no profile.
    """

    def __init__(self, folder: Path, steps: tuple[int, int] | None) -> None:
        self._folder = folder
        self._steps = steps
        self._running = False

    def __enter__(self) -> "Profiler":
        """Returns the profiler."""
        return self

    def before(self, step: int) -> None:
        """Begins if `step` is the first, or the first that this process does of them."""
        if self._steps and not self._running and self._steps[0] <= step <= self._steps[1]:
            tf.profiler.experimental.start(str(self._folder))
            self._running = True

    def after(self, step: int) -> None:
        """Ends if `step` is the last."""
        if self._steps and step >= self._steps[1]:
            self._stop()

    def _stop(self) -> None:
        """Writes what was found, if it runs."""
        if self._running:
            tf.profiler.experimental.stop()
            self._running = False

    def __exit__(self, *exception: object) -> None:
        """Ends, wherever it is."""
        self._stop()
