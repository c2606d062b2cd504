"""Sweeps of examples through a model, for the statistics of its batch norms."""

import itertools
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_renorm import callers
from keras_renorm.keras_internals import losses_kept
from keras_renorm.models import draws_kept
from keras_renorm.ops import arguments
from keras_renorm.statistics import moving_statistics
from keras_renorm.statistics.batches import Batches
from keras_renorm.statistics.moments import PopulationMoments
from keras_renorm.statistics.moments_pass import MomentsPass, Received
from keras_renorm.statistics.moving_statistics import MeanVariance
from keras_renorm.statistics.trained_with import Change

# A batch norm that is called several times may depend on itself, and never settle.
_MOST_ROUNDS = 50

# How many numbers a seed generator may draw in a batch before it reaches those of the next batch.
_DRAWS = 1000


class NotFiniteError(ValueError):
    """A batch norm receives NaN or infinity."""


class Sweeper:
    """Finds the statistics; the model changes only when they are assigned.

    Args:
        model: The model.
        layers: The batch norms that get new statistics.
        examples: The examples.
        estimator: The method of `PopulationMoments` that gives them.
        verbose: As for `keras.utils.Progbar`.

    Attributes:
        sweeps: How many times the examples went through the model.
    """

    def __init__(
        self, model: Any, layers: list[Any], examples: Batches, estimator: str, verbose: int
    ) -> None:
        self._model = model
        self._layers = layers
        self._examples = examples
        self._estimator = estimator
        self._before = [moving_statistics.read(layer) for layer in layers]
        self._statistics = list(self._before)
        self._order: list[int] = []
        self._bar = keras.utils.Progbar(None, verbose=verbose, unit_name="example")
        self._seen = 0
        self.sweeps = 0

    @property
    def called(self) -> list[int]:
        """The numbers of the batch norms that the model calls, in the order of the calls."""
        return list(dict.fromkeys(self._order))

    @property
    def changes(self) -> list[Change]:
        """The batch norms that are called, with their old and their new statistics."""
        return [(self._layers[n], self._before[n], self._statistics[n]) for n in self.called]

    def sweep_once(self, *, at_once: bool = False) -> float:
        """Sets all statistics after one sweep. Returns 0, the change that is left.

        Args:
            at_once: Whether each batch norm uses the moments of the batch. The batch must then hold
                all examples.
        """
        moments = self._sweep(MomentsPass(self._model, self._layers, at_once=at_once))
        for number in self.called:
            self._statistics[number] = self._estimate(number, moments[number])
        return 0.0

    def sweep_until(self, tolerance: float) -> float:
        """Sets the statistics one by one, with a sweep each. Returns the change that is left.

        The moments of the n-th batch norm in the order of the calls are right as soon as the n - 1
        before it are set. Setting all after each sweep takes as many sweeps, and the statistics can
        overflow on the way: in a net of 20 convolutions with batch norms, changes of 0.09 grew to
        2, or to infinity, before they fell.
        """
        if self._examples.is_one and self._at_once():
            return 0.0
        forward, change = MomentsPass(self._model, self._layers), np.inf
        for _ in range(_MOST_ROUNDS):
            change = self._round(forward)
            if len(self._order) == len(self.called):
                return 0.0
            if change <= tolerance:
                return change
        callers.warn(
            f"The statistics still change by {change:.2g} deviations after {self.sweeps} sweeps, "
            f"with tolerance={tolerance:g}: a batch norm that is called several times depends on "
            "itself. The model gets the statistics of the last sweep."
        )
        return change

    def _at_once(self) -> bool:
        """Sets all statistics by one sweep of one batch. Returns whether they are right."""
        try:
            self.sweep_once(at_once=True)
        except NotFiniteError:
            if not self._examples.part():
                raise
            return False  # batch by batch the error can name the examples
        return len(self._order) == len(self.called)

    def assign(self) -> list[Any]:
        """Gives the batch norms that are called their statistics, and returns them.

        Raises:
            ValueError: If the weights of one cannot hold them. Then none has changed.
        """
        self._bar.target = self._seen
        self._bar.update(self._seen, finalize=True)
        found = {layer: moving_statistics.values(layer, new) for layer, _, new in self.changes}
        for layer, arrays in found.items():
            _check_range(layer, arrays)
        for layer, arrays in found.items():
            moving_statistics.write(layer, arrays)
        return list(found)

    def _round(self, forward: MomentsPass) -> float:
        """Sets the statistics of each batch norm once; returns the largest change."""
        changes = [0.0]
        for place in itertools.count():
            moments = self._sweep(forward, place)
            if not self.called:
                break
            number = self.called[place]
            before = self._statistics[number]
            self._statistics[number] = self._estimate(number, moments[number])
            epsilon = self._layers[number].epsilon
            changes.append(_change(before, self._statistics[number], epsilon))
            if place + 1 == len(self.called):
                break
        return max(changes)

    def _sweep(
        self, forward: MomentsPass, place: int | None = None
    ) -> dict[int, PopulationMoments]:
        """The moments of all batch norms, or of one at a place in the order of the calls."""
        present = list(map(moving_statistics.values, self._layers, self._statistics))
        moments: dict[int, PopulationMoments] = {}
        first = 0
        kept = losses_kept(self._model)
        with forward.watching(), kept, draws_kept(self._model) as skip_draws:
            for batch, (x, size) in enumerate(self._examples):
                skip_draws(batch * _DRAWS)
                recorded = forward(x, size, present)
                self._order = forward.order
                for number in self.called if place is None else self.called[place : place + 1]:
                    layer = self._layers[number]
                    own = moments.setdefault(number, PopulationMoments())
                    for call in recorded[number]:
                        _check_finite(layer, call, first, first + size)
                        own.add(*call)
                first += size
                self._show(size, 1 if place is None else len(self.called))
        self.sweeps += 1
        return moments

    def _show(self, size: int, sweeps: int) -> None:
        self._seen += size
        if self._examples.examples is not None:
            self._bar.target = max(self._seen, self._examples.examples * sweeps)
        self._bar.update(self._seen, finalize=False)

    def _estimate(self, number: int, moments: PopulationMoments) -> MeanVariance:
        """The statistics of one batch norm; a domain without examples keeps its own."""
        before, seen = self._statistics[number], moments.count > 0
        if not seen.all() and (seen.ndim == 1 or not seen.any()):
            raise ValueError(
                f"All inputs of the batch norm {self._layers[number].path!r} are masked, so they "
                "have no statistics. The model is unchanged. Give the other batch norms as "
                "`layers`."
            )
        mean, variance = getattr(moments, self._estimator)()
        return np.where(seen, mean, before[0]), np.where(seen, variance, before[1])


def _check_finite(layer: Any, call: Received, first: int, end: int) -> None:
    if not all(np.isfinite(vector).all() for vector in call):
        raise NotFiniteError(
            f"The inputs of the batch norm {layer.path!r} are not finite in the examples {first} "
            f"to {end - 1}: they hold NaN or infinity, or values too large for their dtype. The "
            "model is unchanged."
        )


def _check_range(layer: Any, arrays: Mapping[str, np.ndarray]) -> None:
    for name, variable in moving_statistics.variables(layer).items():
        greatest = float(np.max(np.abs(arrays[name]), initial=0.0))
        if greatest > arguments.largest(variable.dtype):
            raise ValueError(
                f"`{name}` of the batch norm {layer.path!r} would be {greatest:.3g}; its dtype, "
                f"{variable.dtype}, holds less. The model is unchanged. Make the layer with "
                "float32 variables: dtype='mixed_float16' in place of 'float16'."
            )


def _change(before: MeanVariance, after: MeanVariance, epsilon: float) -> float:
    """The largest change of any channel: in deviations, or as a share of the variance."""
    scale = np.maximum(before[1], after[1]) + epsilon
    mean = np.abs(after[0] - before[0]) / np.sqrt(scale)
    variance = np.abs(after[1] - before[1]) / scale
    return float(np.max([mean, variance]))
