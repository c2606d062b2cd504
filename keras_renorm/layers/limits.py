"""The limits of the corrections of Batch Renormalization, and what they depend on."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import keras
import numpy as np

from keras_renorm import schedules
from keras_renorm.keras_internals import notes_of_call
from keras_renorm.ops import arguments, backends
from keras_renorm.ops.arguments import LEAST, limit
from keras_renorm.ops.maths import adaptive
from keras_renorm.ops.maths.moments import Moments
from keras_renorm.ops.maths.moving import Moving
from keras_renorm.ops.maths.scatter import among_ghosts
from keras_renorm.schedules import Adaptive, Limit, Schedule
from keras_renorm.typing import Tensor

Pair: TypeAlias = tuple[Tensor, Tensor]


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
        r_max: A number, a schedule, `schedules.Adaptive`, or the serialised form of one.
        d_max: Likewise.

    Attributes:
        values: The limits by name, in their canonical form.
        count: The updates that schedules have seen, a float32 variable: a scalar, or `[D]` where
            each domain counts for itself. None where nothing is counted: at 0 updates.
        deviations: What adaptive limits have seen, a variable; see `adaptive.State`. None where
            there is none: before the first minibatch.
        seen: Likewise.
        counts_calls: Whether calls of the layer are counted; if not, something else counts.
    """

    def __init__(self, r_max: Any = LEAST["r_max"], d_max: Any = LEAST["d_max"]) -> None:
        self.values = {"r_max": _valid("r_max", r_max), "d_max": _valid("d_max", d_max)}
        self.count: Any = None
        self.deviations: Any = None
        self.seen: Any = None
        self.counts_calls = True

    @property
    def scheduled(self) -> bool:
        """Whether one of them is a schedule."""
        return self._any(Schedule)

    @property
    def adapts(self) -> bool:
        """Whether one of them is adaptive."""
        return self._any(Adaptive)

    @property
    def variables(self) -> list[Any]:
        """The variables that they depend on, in the order of a file."""
        own = (self.count, self.deviations, self.seen)
        return [variable for variable in own if variable is not None]

    def assign(self, name: str, value: Any, *, built: bool) -> str | None:
        """Replaces a limit, unless it needs what no variable of a `built` layer holds.

        Returns:
            What is missing, or None if the limit was replaced.
        """
        value = _valid(name, value)
        if built and isinstance(value, Schedule) and self.count is None:
            return "counts no updates and a schedule would stand still"
        if built and isinstance(value, Adaptive) and self.seen is None:
            return "keeps no deviations and an adaptive limit would stay shut"
        self.values[name] = value
        return None

    def of_this_step(self, dtype: str) -> dict[str, float | Tensor]:
        """The limits as arguments of `ops.renorm.train`, in `dtype`. By domain they are `[D]`."""
        if not (self.scheduled or self.adapts):
            return dict(self.values)
        counts, seen = self._counts(), self._seen()  # reads the variables once for both
        return {k: _at(k, value, counts, seen[k], dtype) for k, value in self.values.items()}

    def numbers(self, domain: int = 0) -> RenormLimits:
        """The limits of the next step as numbers; with limits by domain, one domain's."""

        def own(each: Tensor) -> Tensor:
            return each[domain] if len(each.shape) else each

        counts, seen = own(self._counts()), self._seen()
        values = self.values.items()
        return RenormLimits(**{k: _number(k, _at(k, v, counts, own(seen[k]))) for k, v in values})

    def _any(self, kind: type) -> bool:
        return any(isinstance(value, kind) for value in self.values.values())

    def _counts(self) -> Tensor:
        # Averages of several models' weights, or of replicas' counts, lie between whole numbers.
        count = 0 if self.count is None else keras.ops.round(self.count)
        return keras.ops.cast(count, "int")

    def _seen(self) -> dict[str, Tensor]:
        """The adaptive limits by name, before their greatest values are applied."""
        if self.seen is None:
            return {name: keras.ops.convert_to_tensor(low) for name, low in LEAST.items()}
        limits = backends.current().at_once(adaptive.limits)
        return dict(zip(LEAST, limits(self._state()), strict=True))

    def _state(self) -> adaptive.State:
        return adaptive.State(*map(keras.ops.convert_to_tensor, (self.deviations, self.seen)))

    def momentum(self, momentum: float) -> float:
        """The momentum for a step's moving statistics: 0 where `averaged` averages them."""
        return 0.0 if self.adapts else momentum

    def averaged(
        self,
        kept: tuple[Any, Any],
        initial: Callable[[], Pair],
        moving: Moving,
        *ghosts: Moments,
        **options: float,
    ) -> Moving:
        """The moving statistics after a step, which adaptive limits of a built layer learn from.

        Args:
            kept: Those before it.
            initial: What gives those that the initializers made.
            moving: Those of a step with the momentum of `momentum`.
            *ghosts: The moments `[G, C]` of its ghost batches, if it is cut into such.
            **options: `momentum` and `epsilon` of `adaptive.advance`.
        """
        before = tuple(map(keras.ops.convert_to_tensor, kept))
        learned = backends.current().at_once(_learned)
        state, moving = learned(self._state(), before, initial(), moving, *ghosts, **options)
        self.deviations.assign(state.deviations)
        self.seen.assign(state.seen)
        return moving

    def counted(self, updated: Tensor) -> Tensor | None:
        """`updated`, 1 or 0, in the type of `count`. None where no calls are counted."""
        if self.count is None or not self.counts_calls:
            return None
        return keras.ops.cast(updated, self.count.dtype)

    def no_update(self) -> Tensor | None:
        """`counted` for a call that updates nothing."""
        return None if self.count is None else self.counted(keras.ops.zeros(self.count.shape))

    def advance(self, updated: Tensor, layer: keras.layers.Layer) -> None:
        """Counts a call of `layer` with an update, or none: what `counted` returns.

        All calls within one call of the whole model are of one step, and count as one.
        """
        notes, graph = notes_of_call(layer), backends.current().graph()
        if notes is None:
            self.count.assign_add(updated)
            return
        # In another graph, the body of a loop, a tensor of this one is out of reach.
        before = notes.get((self, graph))
        if before is None:
            self.count.assign_add(updated)
        else:
            updated = keras.ops.maximum(before, updated)
            self.count.assign_add(updated - before)
        notes[self, graph] = updated


def _learned(
    state: adaptive.State,
    kept: Pair,
    initial: Pair,
    moving: Moving,
    *ghosts: Moments,
    momentum: float,
    epsilon: float,
    ops: Any = keras.ops,
) -> tuple[adaptive.State, Moving]:
    """The update of adaptive limits by a step, in one function to be compiled."""
    state = adaptive.trusting(state, kept, initial, ops=ops)
    among = (among_ghosts(batch, kept[0], epsilon, ops=ops) for batch in ghosts)
    return adaptive.advance(
        state, *kept, moving, *among, momentum=momentum, epsilon=epsilon, ops=ops
    )


def _valid(name: str, value: Any) -> float | Limit:
    """A limit in its canonical form."""
    return schedules.get(name, value, low=LEAST[name])


def _at(
    name: str, value: float | Limit, counts: Tensor, seen: Tensor, dtype: str = "float32"
) -> float | Tensor:
    """A limit after `counts` updates, or what was `seen`. It is `[D]` where these are."""
    if isinstance(value, Adaptive):
        return arguments.converted(value(seen), dtype)
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
    value = keras.ops.convert_to_numpy(arguments.limit(name, value, "float32"))
    return float(np.maximum(LEAST[name], value))  # NaN stays NaN


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
