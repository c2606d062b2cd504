"""The rules of `renorm_report`, which name a frozen schedule, an overshoot, a wrong domain."""

import math
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_renorm.diagnostics.corrections import LayerCorrections
from keras_renorm.diagnostics.layer_traits import corrects_minibatches, is_untouched, update_count
from keras_renorm.diagnostics.progress import DONE, end_value, unfinished, value
from keras_renorm.diagnostics.report import Finding
from keras_renorm.layers import BatchRenormalization
from keras_renorm.models import steps_with
from keras_renorm.schedules import Limit

# The paper: with its limits "few r and no d" are clipped.
_CLIPPED = 0.25

# Fewer values per channel tell nothing about the scale: their deviation has an error of 25 %.
_ENOUGH_VALUES = 8


def schedule(name: str, layer: Any, steps: int | None, num_steps: int | None) -> Iterator[Finding]:
    """Faults in the course of a layer's limits.

    Args:
        name: The layer's name.
        layer: A normalization layer.
        steps: Training steps so far, if known.
        num_steps: Steps of the whole training, if known.
    """
    if not corrects_minibatches(layer):
        return
    updates = update_count(layer)
    message = _frozen(name, layer, updates, steps, num_steps)
    if message:
        yield Finding(name, "frozen schedule", message)
    if num_steps is not None:
        yield from unfinished(name, layer, max(num_steps, updates or 0))
    for limit in ("r_max", "d_max"):
        yield from _beyond(name, limit, getattr(layer, limit), updates or 0)


def corrections(layer: Any, row: LayerCorrections, steps: int | None) -> Iterator[Finding]:
    """Faults that a minibatch shows.

    Args:
        layer: The normalization layer.
        row: Its corrections and drift.
        steps: Training steps so far, if known. Before the first there are no statistics yet.
    """
    finite = math.isfinite(row.typical_drift) and math.isfinite(row.scale_drift.median)
    if row.values and not finite:
        yield Finding(
            row.layer,
            "not finite",
            f"{row.layer} has a drift of {row.typical_drift} and a scale drift of "
            f"{row.scale_drift.median}: its inputs or its moving statistics are not finite.",
        )
        return
    if is_untouched(layer):
        if steps != 0:
            yield Finding(
                row.layer,
                "never updated",
                f"The moving statistics of {row.layer} are still the initial 0 and 1: no training "
                "step has updated them. Train with training=True, or run "
                "keras_renorm.statistics.precise.",
            )
        return
    if not row.values:  # the whole minibatch is masked
        return
    if corrects_minibatches(layer):
        yield from _clipped(layer, row)
    if _is_elsewhere(row) and not _is_young(layer, row.updates):
        yield Finding(
            row.layer,
            "wrong domain",
            f"The moving statistics of {row.layer} are not those of this data: at the median of "
            f"the channels the mean is {row.typical_drift:.2g} standard deviations away, and the "
            f"minibatch's deviation is {row.scale_drift.median:.2g} times the moving one. If the "
            "model is to run on this data, run keras_renorm.statistics.precise on it.",
        )


def _frozen(
    name: str,
    layer: BatchRenormalization,
    updates: int | None,
    steps: int | None,
    num_steps: int | None,
) -> str | None:
    """A message if the limits stay those of Batch Normalization."""
    if updates is None:
        if (layer.r_max, layer.d_max) != (1.0, 0.0):
            return None
        return (
            f"{name} has the fixed limits r_max=1 and d_max=0, at which it is Batch "
            "Normalization. Leave them out: by default the limits follow from what the layer sees."
        )
    # Domains that come in turn share the steps.
    counted = int(np.sum(keras.ops.convert_to_numpy(layer.update_count)))
    since = None if steps is None else steps_with(layer, steps)
    if since is not None and 2 * counted < since:
        return (
            f"The schedule of {name} stands at {counted} updates after {since} training steps: "
            "its counter does not advance. Call the model with training=True, and keep "
            "update_count when weights are copied or loaded."
        )
    if _is_young(layer, updates) or not updates:
        return None
    # No fault if training is known to go on until the limits open.
    if _shut(layer, updates) and (num_steps is None or _shut(layer, num_steps)):
        return (
            f"The limits of {name} are still r_max=1 and d_max=0 after {updates} updates, when its "
            "moving statistics have long forgotten their initial values: so far it is Batch "
            f"Normalization. It has r_max={layer.r_max!r}, d_max={layer.d_max!r}. Write "
            "num_steps=..., the steps of the whole training, here if it lasts until they open, or "
            "in place of the limits. Or leave these out: by default they follow from what the "
            "layer sees."
        )
    return None


def _shut(layer: BatchRenormalization, updates: int) -> bool:
    """Whether the limits are Batch Normalization's after so many updates."""
    return (value(layer.r_max, updates), value(layer.d_max, updates)) == (1.0, 0.0)


def _beyond(name: str, limit: str, schedule: float | Limit, updates: int) -> Iterator[Finding]:
    """A limit that has left its schedule's own bounds."""
    bounds = schedule.bounds() if isinstance(schedule, Limit) else None
    now = value(schedule, updates)
    if bounds is not None and now > bounds[1] * (1 + 1e-6):
        yield Finding(
            name,
            f"overshooting {limit[0]}",
            f"{limit} of {name} is {now:.3g} after {updates} updates, beyond the {bounds[1]:.3g} "
            f"at which its schedule should end. Clip it in {type(schedule).__name__}.__call__.",
        )


def _clipped(layer: BatchRenormalization, row: LayerCorrections) -> Iterator[Finding]:
    """Limits that are nearly fully open and still clip many channels."""
    for letter, share, limit, schedule in (
        ("r", row.r_clipped, row.r_max, layer.r_max),
        ("d", row.d_clipped, row.d_max, layer.d_max),
    ):
        if share is None or limit is None:
            continue
        least = 1 if letter == "r" else 0
        risen = limit > least and limit - least >= DONE * (end_value(schedule) - least)
        if risen and share > _CLIPPED:
            yield Finding(
                row.layer,
                f"overshooting {letter}",
                f"{letter} of {row.layer} is at its limit {letter}_max={limit:.3g} in {share:.0%} "
                f"of the channels (in the paper in {'few' if letter == 'r' else 'none'}): there "
                "training and inference normalise differently. Run "
                "keras_renorm.statistics.precise if the data has changed; else lower the "
                "learning rate or the momentum, so that the moving statistics keep up.",
            )


def _is_young(layer: Any, updates: int | None) -> bool:
    """Whether the moving statistics still hold more than 5 % of their initial values."""
    return bool(updates) and layer.momentum**updates > 0.05


def _is_elsewhere(row: LayerCorrections) -> bool:
    """Whether most channels are further off than the noise of a minibatch's statistics."""
    # A mean of m values has a deviation of 1/sqrt(m). Two of these come on top of the allowed 1.
    shifted = row.typical_drift > 1 + 2 / row.values**0.5
    scaled = not 0.5 <= row.scale_drift.median <= 2
    return shifted or (scaled and row.values >= _ENOUGH_VALUES)
