"""Traits of a batch norm that the gauges need."""

import math
from typing import Any

import keras
import numpy as np

from keras_renorm.keras_internals import renormalizes
from keras_renorm.layers import BatchNormalization, BatchRenormalization
from keras_renorm.schedules import Adaptive
from keras_renorm.statistics import is_frozen, moving_statistics


def uses_minibatch(layer: Any) -> bool:
    """Whether the layer uses the minibatch's statistics in training: it is not frozen."""
    return bool(layer.trainable) and not is_frozen(layer)


def corrects_minibatches(layer: Any) -> bool:
    """Whether the layer corrects minibatches in training: Batch Renormalization, not frozen."""
    return isinstance(layer, BatchRenormalization) and uses_minibatch(layer)


def kind(layer: keras.layers.Layer) -> str:
    """The layer's kind in tables: "BRN", "BN", "Keras BN" or "Keras renorm"."""
    if isinstance(layer, BatchRenormalization):
        return "BRN"
    if isinstance(layer, BatchNormalization):
        return "BN"
    return "Keras renorm" if renormalizes(layer) else "Keras BN"


def positions(layer: keras.layers.Layer, shape: tuple[int | None, ...]) -> int | None:
    """Values per channel and example in an input of this shape; None if a size is unknown."""
    axis = int(layer.axis) % len(shape)
    sizes: list[Any] = [size for i, size in enumerate(shape) if i not in (0, axis)]
    return None if None in sizes else math.prod(sizes)


def update_count(layer: Any, domain: int | None = None) -> int | None:
    """The layer's counter, or a domain's; without `domain` the greatest. None without a counter."""
    count = getattr(layer, "update_count", None)
    if count is None:
        return None
    counts = keras.ops.convert_to_numpy(count)
    return int(np.max(counts) if domain is None or not counts.ndim else counts[domain])


def forgets_initial_statistics(layer: Any) -> bool:
    """Whether the first minibatch replaces the initial moving statistics."""
    limits = (getattr(layer, name, None) for name in ("r_max", "d_max"))
    return any(isinstance(limit, Adaptive) for limit in limits)


def keeps_initial_statistics(layer: Any) -> bool:
    """Whether the initial moving statistics are there, and minibatches mix with them.

    Trained or loaded statistics hold no initial values.
    """
    return not forgets_initial_statistics(layer) and is_untouched(layer)


def begins_again(layer: Any) -> bool:
    """Whether adaptive limits have seen nothing of statistics that were computed or loaded."""
    if not forgets_initial_statistics(layer) or not uses_minibatch(layer) or is_untouched(layer):
        return False
    return not np.any(keras.ops.convert_to_numpy(layer.seen))


BEGIN_AGAIN = (
    "With limits that begin again after new statistics, as batch norm for some 20 updates (measure "
    "after these)"
)


def is_untouched(layer: Any) -> bool:
    """Whether the moving statistics are exactly the default initial ones, 0 and 1."""
    return not layer.built or moving_statistics.is_initial(layer)
