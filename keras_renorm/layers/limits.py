"""The limits of the corrections of Batch Renormalization, and the updates that schedules count."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_renorm import schedules
from keras_renorm.ops import arguments
from keras_renorm.ops.arguments import LEAST, limit
from keras_renorm.schedules import Schedule
from keras_renorm.typing import Tensor


class RenormLimits(NamedTuple):
    """The limits that a layer is using.

    Attributes:
        r_max: r lies in [1 / r_max, r_max].
        d_max: d lies in [-d_max, d_max].
    """

    r_max: float
    d_max: float


class Limits:
    """The limits of a layer. The default is Batch Normalization.

    Args:
        r_max: A number, a schedule, or the serialised form of one.
        d_max: Likewise.

    Attributes:
        values: The limits by name, in their canonical form.
        count: The updates that schedules have seen, an integer variable: a scalar, or `[D]` where
            each domain counts for itself. None where nothing is counted: at 0 updates.
    """

    def __init__(self, r_max: Any = LEAST["r_max"], d_max: Any = LEAST["d_max"]) -> None:
        given = {"r_max": r_max, "d_max": d_max}
        self.values = {k: schedules.get(k, v, low=LEAST[k]) for k, v in given.items()}
        self.count: Any = None

    @property
    def scheduled(self) -> bool:
        """Whether one of them is a schedule."""
        return any(isinstance(value, Schedule) for value in self.values.values())

    def of_this_step(self, dtype: str) -> dict[str, float | Tensor]:
        """The limits as arguments of `ops.training_step`; of a count by domain `[D]` in `dtype`."""
        if not self.scheduled:
            return dict(self.values)
        counts = self._counts()  # reads the variable once for both
        return {name: _at(name, value, counts, dtype) for name, value in self.values.items()}

    def numbers(self, domain: int = 0) -> RenormLimits:
        """Those of the next step as numbers; where each domain counts for itself, of one domain."""
        counts = self._counts()
        count = counts[domain] if len(counts.shape) else counts
        values = self.values.items()
        return RenormLimits(**{name: _number(name, _at(name, v, count)) for name, v in values})

    def _counts(self) -> Tensor:
        return keras.ops.cast(0 if self.count is None else self.count, "int")

    def advance(self, updated: Tensor) -> None:
        """Counts one step in which there was an update, or none, in `count`'s shape."""
        if self.count is not None:
            self.count.assign_add(keras.ops.cast(updated, self.count.dtype))


def _at(
    name: str, value: float | Schedule, counts: Tensor, dtype: str = "float32"
) -> float | Tensor:
    """A limit after `counts` updates; `[D]` in `dtype` where there are so many counts."""
    if not isinstance(value, Schedule):
        return value
    if not len(counts.shape):
        return value(counts)
    each = keras.ops.unstack(counts, counts.shape[0])
    return keras.ops.stack([limit(name, value(count), dtype) for count in each])


def _number(name: str, value: Any) -> float:
    """A limit as the step takes it, where a tensor below the least value counts as that."""
    if arguments.is_number(value):
        return arguments.real(name, value, low=LEAST[name])
    return float(np.maximum(LEAST[name], keras.ops.convert_to_numpy(value)))  # NaN stays NaN


def of_clipping(clipping: Mapping[str, float]) -> tuple[float, float]:
    """r_max and d_max of a `renorm_clipping`."""
    allowed = ("rmax", "rmin", "dmax")
    if not isinstance(clipping, Mapping):
        raise TypeError(
            "`renorm_clipping` must be a dictionary such as {'rmax': 3.0, 'dmax': 5.0}, received "
            f"{clipping!r} of type {type(clipping).__name__}."
        )
    unknown = [key for key in clipping if key not in allowed]
    if unknown:
        raise ValueError(
            f"`renorm_clipping` has unknown keys {unknown}, received {dict(clipping)!r}. Allowed "
            f"are {list(allowed)}."
        )
    r_max = arguments.real("rmax", clipping.get("rmax", math.inf), low=1)
    d_max = arguments.real("dmax", clipping.get("dmax", math.inf), low=0)
    r_min = arguments.real("rmin", clipping.get("rmin", 1 / r_max), low=0, high=1)
    if not math.isclose(r_min, 1 / r_max, rel_tol=1e-3):
        raise ValueError(
            f"`rmin` must be 1 / rmax = {1 / r_max:g}, the paper's lower limit of r; received "
            f"renorm_clipping={dict(clipping)!r}. Leave rmin out."
        )
    return r_max, d_max
