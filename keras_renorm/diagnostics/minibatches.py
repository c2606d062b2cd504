"""The inputs of a normalization layer in a call: moments beside its moving statistics."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_renorm import ops
from keras_renorm.ops.domains import narrowed
from keras_renorm.statistics.moments_pass import dense
from keras_renorm.statistics.trained_with import corrections
from keras_renorm.typing import Tensor


@dataclasses.dataclass(frozen=True)
class Minibatch:
    """The moments of one call, or of one domain in it.

    Attributes:
        call: Number of the layer's call, from 1.
        domain: The domain of a layer with domains, else None.
        moments: The minibatch's moments.
        mean: The moving mean beside them.
        variance: The moving variance beside them.
    """

    call: int
    domain: int | None
    moments: ops.Moments
    mean: Tensor
    variance: Tensor

    def correction(self, layer: Any, r_max: float, d_max: float) -> ops.Correction:
        """The corrections r and d at these limits, as float64 arrays."""
        return corrections(layer, self.moments, self.mean, self.variance, r_max, d_max)


def moving_copies(layer: Any) -> tuple[Tensor, Tensor]:
    """Copies of the moving mean and variance, which a later update does not change."""
    return keras.ops.copy(layer.moving_mean), keras.ops.copy(layer.moving_variance)


def observe(
    layer: Any,
    number: int,
    moving: tuple[Tensor, Tensor],
    inputs: Tensor,
    training: bool | None = None,
    mask: Tensor | None = None,
    domain: Any = None,
) -> Iterator[Minibatch]:
    """The minibatches of a call: one, or one for each domain that the examples have.

    Args:
        layer: A normalization layer.
        number: Number of the call.
        moving: Its `moving_copies`.
        inputs: The call's inputs.
        training: The call's mode; without meaning here.
        mask: The call's mask.
        domain: The call's ids, for a layer with domains.
    """
    x, full, axis, by_value = dense(layer, inputs, mask)
    if domain is None:
        yield Minibatch(number, None, ops.moments(x, axis, full), *moving)
        return
    ids = np.broadcast_to(keras.ops.convert_to_numpy(by_value(domain)), x.shape[:1])
    for one in np.unique(ids).tolist():
        chosen = (ids == one) | (layer.batch_statistics == "shared")
        # The domain's own row, or the row that all domains share.
        row = one if layer.population_statistics == "domain" else ...
        own = (vector[row] for vector in moving)
        yield Minibatch(number, one, ops.moments(x, axis, narrowed(full, chosen, x)), *own)
