"""Which statistics the outputs of training agree with: the moving averages, or exact moments."""

from collections.abc import Iterable
from typing import Any, TypeAlias

import keras
import numpy as np

from keras_renorm import ops
from keras_renorm.statistics import moving_statistics
from keras_renorm.statistics.freezing import is_frozen
from keras_renorm.statistics.moving_statistics import MeanVariance

#: A batch norm, its moving statistics, and the moments that may take their place.
Change: TypeAlias = tuple[Any, MeanVariance, MeanVariance]

# New statistics are likely to harm where the mean square grows by more than this: 14 of 24 runs
# beyond it lost more than a point of accuracy, and 6 gained one (docs/precise_statistics.md).
_MUCH = 0.15


def square_distances(changes: Iterable[Change]) -> tuple[float, float]:
    """How far outputs in training are from inference with the old statistics and with new ones.

    ```
    training        r x_hat + d         r, d = s, z clipped
    before          s x_hat + z         s = sigma' / sigma, z = (mu' - mu) / sigma
    new               x_hat             x_hat = (x - mu') / sigma'
    mean (s - r)^2 + (z - d)^2          mean (r - 1)^2 + d^2
    ```

    The minibatches have the moments mu' and sigma', and the mean is over channels and layers. Batch
    Normalization has r = 1 and d = 0: its training agrees with the moments. Batch
    Renormalization's training agrees with the moving averages where nothing clips. The net has
    become used to these averages, however they lag.

    Args:
        changes: The batch norms. This leaves out those that do not train with minibatches, and
            those that still have their initial statistics.

    Returns:
        The mean squares for the old and the new statistics, for outputs with a variance of 1; 0 and
        0 where no batch norm is left.
    """
    found = [
        _of_domain(one[0], domain, *rows)
        for one in changes
        if one[0].trainable and not is_frozen(one[0]) and not moving_statistics.is_initial(one[0])
        for domain, rows in enumerate(zip(*map(_by_domain, (*one[1], *one[2])), strict=True))
    ]
    to_before, to_new = np.mean(found, axis=0) if found else (0.0, 0.0)
    return float(to_before), float(to_new)


def leads_away(to_before: float, to_new: float) -> bool:
    """Whether new statistics are far enough from training to be likely to harm."""
    return to_new - to_before > _MUCH


def limits(layer: Any, domain: int = 0) -> tuple[float, float]:
    """r_max and d_max of a batch norm's next minibatch; (1, 0) without renorm."""
    if hasattr(layer, "current_limits"):
        by_domain = len(layer.moving_mean.shape) > 1
        return tuple(layer.current_limits(domain) if by_domain else layer.current_limits())
    if not getattr(layer, "renorm", False):
        return 1.0, 0.0
    clipping = layer.renorm_clipping or {}
    return clipping.get("rmax", np.inf), clipping.get("dmax", np.inf)


def corrections(
    layer: Any, batch: ops.Moments, mean: Any, variance: Any, r_max: float, d_max: float
) -> ops.Correction:
    """R and d of a minibatch beside these moving statistics, as float64 arrays."""
    found = ops.renorm_correction(
        batch, mean, variance, r_max=r_max, d_max=d_max, epsilon=layer.epsilon
    )
    # A diverged net's z of 1e20 has a square beyond float32's.
    return ops.Correction(*(keras.ops.convert_to_numpy(v).astype("float64") for v in found))


def _by_domain(vector: np.ndarray) -> np.ndarray:
    return np.reshape(vector, (-1, vector.shape[-1])).astype("float32")


def _of_domain(
    layer: Any, domain: int, mean: Any, variance: Any, new_mean: Any, new_variance: Any
) -> tuple[float, float]:
    """The mean squares over the channels of one domain."""
    ones = np.ones_like(mean)
    batch = ops.Moments(*map(keras.ops.convert_to_tensor, (new_mean, new_variance, ones, 0 * ones)))
    training, before, new = (
        np.array(corrections(layer, batch, mean, variance, *pair))
        for pair in (limits(layer, domain), (np.inf, np.inf), (1.0, 0.0))
    )
    to_before, to_new = (np.mean(np.sum((training - one) ** 2, axis=0)) for one in (before, new))
    return to_before, to_new
