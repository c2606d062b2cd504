"""Limits that change during training: how r_max and d_max grow from Batch Normalization's.

A schedule is a function of the number of updates of a layer's moving statistics. The schedule is
part of the layer's configuration, and the number is a variable of the layer, so both survive
saving.
"""

import abc
from typing import Any, TypeVar

import keras
import numpy as np

from keras_renorm import callers
from keras_renorm.ops import arguments
from keras_renorm.ops.maths.sums import at_most
from keras_renorm.typing import Tensor

_PACKAGE = "keras_renorm"
_Own = TypeVar("_Own", bound="Limit")


class Limit(abc.ABC):
    """A limit that changes during training."""

    @abc.abstractmethod
    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, from which `from_config` makes an equal limit."""

    @classmethod
    def from_config(cls: type[_Own], config: dict[str, Any]) -> _Own:
        """A limit from what `get_config` returned."""
        return cls(**config)

    def bounds(self) -> tuple[float, float] | None:
        """The least and the greatest value of the limit, or None where they are not known."""
        return None

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Limit)
            and type(self) is type(other)
            and self.get_config() == other.get_config()
        )

    def __hash__(self) -> int:
        return hash(type(self))  # equal configurations may look different: 1 and 1.0

    def __repr__(self) -> str:
        settings = ", ".join(f"{key}={value!r}" for key, value in self.get_config().items())
        return f"{type(self).__name__}({settings})"


class Schedule(Limit):
    """A limit as a function of the number of updates.

    To write one, subclass it, implement `__call__` with `keras.ops` and `get_config` with the
    constructor's arguments, and decorate the class with
    `keras.saving.register_keras_serializable()`, so that models that hold it can be loaded.

    Example:
        >>> @keras.saving.register_keras_serializable("my_project")
        ... class Step(Schedule):
        ...     def __init__(self, value, at_step):
        ...         self.value, self.at_step = value, at_step
        ...
        ...     def __call__(self, step):
        ...         return keras.ops.where(step < self.at_step, 1.0, self.value)
        ...
        ...     def get_config(self):
        ...         return {"value": self.value, "at_step": self.at_step}
    """

    @abc.abstractmethod
    def __call__(self, step: Tensor) -> Tensor:
        """The limit after `step` updates.

        Args:
            step: Integer scalar tensor, 0 at the first minibatch.

        Returns:
            Floating-point scalar tensor.
        """


@keras.saving.register_keras_serializable(_PACKAGE)
class Adaptive(Limit):
    """A limit that follows from what the layer sees, without a number of steps.

    The limit begins at Batch Normalization's. It opens as far as minibatches deviate from the
    moving statistics to both sides, or as ghost batches differ from each other. It stays closed
    while minibatches deviate to one side step after step, or while the mean of their ghosts
    deviates, because then the weights move faster than the statistics.
    `keras_renorm.ops.maths.adaptive` has the formulas, docs/default_limits.md the measurements.

    A layer with such a limit keeps the variables `deviations` and `seen`. The initial values of its
    moving statistics weigh nothing after the first minibatch.

    Args:
        greatest: The greatest value of the limit. The paper has 3 for r_max and 5 for d_max.

    Raises:
        ValueError: If `greatest` is negative or not finite.

    Example:
        >>> adaptive = keras_renorm.schedules.Adaptive
        >>> layer = keras_renorm.layers.BatchRenormalization(r_max=adaptive(3.0), d_max=2.0)
    """

    def __init__(self, greatest: float) -> None:
        arguments.finite("greatest", greatest)
        self.greatest = arguments.real("greatest", greatest, low=0)

    def __call__(self, seen: Tensor) -> Tensor:
        """The limit for `seen`, the value that the layer's minibatches ask for.

        It is NumPy's if `seen` is, which takes less time in an eager program.
        """
        seen = arguments.numbers("seen", seen)
        if isinstance(seen, (np.ndarray, np.generic)):  # PyTorch compiles no union
            return at_most(self.greatest, seen, np)
        return at_most(self.greatest, keras.ops.convert_to_tensor(seen))

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"greatest": self.greatest}


class _Way(Schedule):
    """`start_value` until `start_step`, then a way to `end_value`."""

    _arguments: tuple[str, ...] = ("start_value", "end_value", "start_step")

    def __init__(self, start_value: float, end_value: float, start_step: float) -> None:
        self.start_value = arguments.finite("start_value", start_value)
        self.end_value = arguments.finite("end_value", end_value)
        self.start_step = arguments.real("start_step", start_step, low=0)

    def bounds(self) -> tuple[float, float]:
        """The least and the greatest value."""
        return min(self.start_value, self.end_value), max(self.start_value, self.end_value)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {name: getattr(self, name) for name in self._arguments}


@keras.saving.register_keras_serializable(_PACKAGE)
class LinearRamp(_Way):
    """A ramp from one value to another in a straight line.

    ```
    progress = clip((step - start_step) / (end_step - start_step), 0, 1)
    value = start_value + (end_value - start_value) * progress
    ```

    The paper's schedule is `LinearRamp(1, 3, 5_000, 40_000)` for r_max and
    `LinearRamp(0, 5, 5_000, 25_000)` for d_max.

    Args:
        start_value: Value up to `start_step`.
        end_value: Value from `end_step` on.
        start_step: Number of updates at which the ramp begins, at least 0.
        end_step: Number of updates at which the ramp ends, greater than `start_step`.

    Raises:
        ValueError: If a value is not finite, or the steps are negative or not in order.

    Source: Ioffe 2017, section 4.1.
    """

    _arguments = (*_Way._arguments, "end_step")

    def __init__(
        self, start_value: float, end_value: float, start_step: float, end_step: float
    ) -> None:
        super().__init__(start_value, end_value, start_step)
        self.end_step = arguments.real("end_step", end_step, low=0)
        if self.end_step <= self.start_step:
            raise ValueError(
                "`end_step` must be greater than `start_step`, received "
                f"start_step={start_step!r}, end_step={end_step!r}. For a constant limit write a "
                "number instead of a schedule."
            )

    def __call__(self, step: Tensor) -> Tensor:
        """The limit after `step` updates."""
        progress = (_count(step) - self.start_step) / (self.end_step - self.start_step)
        rise = self.end_value - self.start_value
        return self.start_value + rise * keras.ops.clip(progress, 0.0, 1.0)


@keras.saving.register_keras_serializable(_PACKAGE)
class ExponentialApproach(_Way):
    """A curve from one value towards another, ever more slowly.

    ```
    value = end_value + (start_value - end_value) * exp(-max(step - start_step, 0) / time_constant)
    ```

    Args:
        start_value: Value up to `start_step`.
        end_value: Value that the limit approaches: 63 % of the way in `time_constant` updates.
        start_step: Number of updates at which the approach begins, at least 0.
        time_constant: In updates, greater than 0.

    Raises:
        ValueError: If a value is not finite, `start_step` is negative, or `time_constant` is not
            greater than 0.
    """

    _arguments = (*_Way._arguments, "time_constant")

    def __init__(
        self, start_value: float, end_value: float, start_step: float, time_constant: float
    ) -> None:
        super().__init__(start_value, end_value, start_step)
        self.time_constant = arguments.positive("time_constant", time_constant)

    def __call__(self, step: Tensor) -> Tensor:
        """The limit after `step` updates."""
        elapsed = keras.ops.maximum(_count(step) - self.start_step, 0.0)
        rest = keras.ops.exp(-elapsed / self.time_constant)
        return self.end_value + (self.start_value - self.end_value) * rest


def _count(step: Any) -> Tensor:
    return keras.ops.cast(arguments.numbers("step", step), "float32")


#: The paper's schedule of r_max (Ioffe 2017, section 4.1).
PAPER_R_MAX = LinearRamp(1.0, 3.0, 5_000, 40_000)

#: The paper's schedule of d_max (Ioffe 2017, section 4.1).
PAPER_D_MAX = LinearRamp(0.0, 5.0, 5_000, 25_000)


# The paper trains for 130,000 steps, and its limits start and rise in these numbers of steps.
_RUN, _START, _RISES = 130_000, 5_000, {"r_max": 35_000, "d_max": 20_000}

# Time constants of the moving statistics until the initial values make up less than 5 % of them.
_TIME_CONSTANTS = 3


def paper(num_steps: int, *, momentum: float = 0.99) -> tuple[LinearRamp, LinearRamp]:
    """The limits r_max and d_max in the paper's proportions, for a run of `num_steps`.

    ```
    start = max(5/130 * num_steps, 3 / (1 - momentum))
    r_max = 1 up to start, in a straight line to 3 in 35/130 * num_steps
    d_max = 0 up to start, in a straight line to 5 in 20/130 * num_steps
    ```

    For the first 3 time constants the moving statistics are in good part their initial values, and
    corrections towards them would harm. Steps are the optimizer's. Where one step calls the model
    several times, see `keras_renorm.callbacks.CountSteps`.

    Args:
        num_steps: Steps of the whole training, at least 1.
        momentum: The layers' momentum.

    Returns:
        `(r_max, d_max)`. Warns if the run ends before the limits are fully open.

    Raises:
        TypeError: If an argument is not a number.
        ValueError: If `num_steps` is less than 1, or `momentum` is not in [0, 1].

    Example:
        >>> r_max, d_max = keras_renorm.schedules.paper(26_000)
        >>> layer = keras_renorm.layers.BatchRenormalization(r_max=r_max, d_max=d_max)

    Source: Ioffe 2017, section 4.1.
    """
    arguments.finite("num_steps", num_steps)
    steps = arguments.real("num_steps", num_steps, low=1)
    momentum = arguments.real("momentum", momentum, low=0, high=1)
    # At a momentum of 1 the statistics never move, so there is nothing to wait for.
    shut = 0.0 if momentum == 1 else _TIME_CONSTANTS / (1 - momentum)
    start = max(steps * _START / _RUN, round(shut))
    ends = {name: start + steps * rise / _RUN for name, rise in _RISES.items()}
    r_max = LinearRamp(1.0, 3.0, start, ends["r_max"])
    if ends["r_max"] > steps:
        opened = 1 + 2 * max(0.0, steps - start) / (ends["r_max"] - start)
        callers.warn(
            f"A run of {num_steps} steps is short for the paper's limits: at momentum={momentum:g} "
            f"they stay closed for {start:.0f} steps, {_TIME_CONSTANTS} time constants of the "
            f"moving statistics, and r_max ends at {opened:.3g} instead of 3. Lower the momentum, "
            "or leave the limits out: the default limits follow from what a layer sees."
        )
    return r_max, LinearRamp(0.0, 5.0, start, ends["d_max"])


def get(name: str, value: Any, *, low: float) -> float | Limit:
    """A limit in its canonical form.

    Args:
        name: Name of the argument, for messages.
        value: A number, a `Limit`, or a serialised `Limit`.
        low: The least allowed value.

    Returns:
        A float or a `Limit`.

    Raises:
        TypeError: If `value` has another type, or `low` is no number.
        ValueError: If `value`, or a bound of the schedule, is less than `low`, or `low` not finite.
    """
    low = arguments.finite("low", low)
    if isinstance(value, dict):
        value = keras.saving.deserialize_keras_object(value)
    if isinstance(value, Limit):
        bounds = value.bounds()
        if bounds is not None and bounds[0] < low:
            raise ValueError(
                f"`{name}` must be at least {low:g} at every step, received {value!r}, whose "
                f"least value is {bounds[0]:g}. Raise the lower end of the schedule."
            )
        if isinstance(value, Adaptive) and value.greatest < low:
            raise ValueError(
                f"`{name}` must be at least {low:g}, received {value!r}. Give it a `greatest` of "
                f"{low:g} or more."
            )
        return value
    if not arguments.is_number(value):
        raise TypeError(
            f"`{name}` must be a number or a schedule from keras_renorm.schedules, received "
            f"{value!r} of type {type(value).__name__}. Write float('inf') for no limit."
        )
    return arguments.real(name, value, low=low)


def serialize(value: float | Limit) -> Any:
    """The form of a limit in a configuration, from which `get` makes the limit again."""
    if isinstance(value, Limit):
        return keras.saving.serialize_keras_object(value)
    return value
