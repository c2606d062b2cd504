"""Averages of a model's weights and statistics over the steps of its training."""

from typing import Any

import keras
import tensorflow as tf

from keras_renorm.models.members import LIMIT_STATES


class Averages:
    """A second model whose variables follow those of the first more slowly.

    ```
    average += (1 - min(decay, (1 + t) / (10 + t))) * (value - average)
    ```

    after step t = 1, 2, ..., as TensorFlow's `ExponentialMovingAverage` with `num_updates`, so that
    early values are soon forgotten. Random states are copied, and so is what limits depend on, such
    as the counter of a schedule. The paper of Batch Renormalization evaluates with such averages.

    Make it in the scope of the strategy of the first model.

    Args:
        model: The model that is trained.
        decay: Weight of the old average, at least 0 and below 1.

    Attributes:
        model: The model of the averages.
    """

    def __init__(self, model: keras.Model, decay: float) -> None:
        self.model = keras.models.clone_model(model)
        self.model.set_weights(model.get_weights())
        self._decay = decay
        self._strategy = tf.distribute.get_strategy()  # Steps are done outside of its scope.
        pairs = list(zip(self.model.variables, model.variables, strict=True))
        self._own = [pair for pair in pairs if _differs(pair[1])]
        self._shared = [pair for pair in pairs if not _differs(pair[1])]

    def update(self, step: Any) -> None:
        """Follows the values after `step` steps: outside of replicas, in a `tf.function`."""
        step = tf.cast(step, tf.float32)
        rest = 1.0 - tf.minimum(self._decay, (1.0 + step) / (10.0 + step))
        for average, value in self._shared:
            args = (value.value, rest, _is_copied(value))
            self._strategy.extended.update(average.value, _follow, args=args, group=False)
        if self._own:
            self._strategy.run(self._update_own, (rest,))

    def _update_own(self, rest: Any) -> None:
        """Follows the values that each replica keeps for itself, in that replica."""
        for average, value in self._own:
            _follow(average.value, value.value, rest, _is_copied(value))


def _is_copied(variable: keras.Variable) -> bool:
    """Whether a mean of a variable's values means nothing."""
    return variable.name in LIMIT_STATES or not keras.backend.is_float_dtype(variable.dtype)


def _follow(average: Any, value: Any, rest: Any, copied: bool) -> None:
    """Moves an average towards a value, or copies it."""
    if copied:
        average.assign(tf.convert_to_tensor(value))
        return
    step = tf.cast(rest, average.dtype) * (tf.convert_to_tensor(value) - average)
    average.assign_add(step)


def _differs(variable: keras.Variable) -> bool:
    """Whether each replica keeps its own value of a variable."""
    return variable.synchronization == "on_read" and variable.aggregation != "only_first_replica"
