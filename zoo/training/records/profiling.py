"""A profile of some steps, for TensorBoard."""

from pathlib import Path

import tensorflow as tf


class Profiler:
    """Profiles TensorFlow from one step to another.

    Args:
        folder: For `tensorboard --logdir`.
        steps: The first and the last step; None for no profile.
    """

    def __init__(self, folder: Path, steps: tuple[int, int] | None) -> None:
        self._folder = folder
        self._steps = steps
        self._running = False

    def __enter__(self) -> "Profiler":
        """Returns the profiler."""
        return self

    def is_past(self, step: int) -> bool:
        """Whether a run that goes on after `step` has none of the steps left."""
        return self._steps is not None and step >= self._steps[1]

    def before(self, step: int) -> None:
        """Begins at the first step, or at the first of them that this process does."""
        if self._steps and not self._running and self._steps[0] <= step <= self._steps[1]:
            tf.profiler.experimental.start(str(self._folder))
            self._running = True

    def after(self, step: int) -> None:
        """Ends if `step` is the last."""
        if self._steps and step >= self._steps[1]:
            self._stop()

    def _stop(self) -> None:
        """Ends a profile that runs, and writes it."""
        if self._running:
            tf.profiler.experimental.stop()
            self._running = False

    def __exit__(self, *exception: object) -> None:
        """Ends the profile, whatever the step."""
        self._stop()
