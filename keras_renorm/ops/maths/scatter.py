"""What the ghost batches of one minibatch differ by, which is noise: they share their weights."""

from typing import Any, NamedTuple

import keras

from keras_renorm.ops.maths.moments import Moments
from keras_renorm.ops.maths.moving import has_update
from keras_renorm.ops.maths.sums import at_least
from keras_renorm.typing import Tensor


class Scatter(NamedTuple):
    """The variances of moments of ghost batches.

    Attributes:
        variances: `[2, C]`, of mu_B and of sigma_B of a ghost batch; 0 in channels with fewer than
            two ghosts that have moments.
        share: `[C]`, the variance of the ghosts' mean as a share of theirs: 1/G of G equal ones.
    """

    variances: Tensor
    share: Tensor


def scatter(batch: Moments, epsilon: float, *, ops: Any = keras.ops) -> Scatter:
    """The variances among the ghost batches of a minibatch, without bias.

    ```
    w_g = m_g / sum_g m_g                              share = sum_g w_g^2
    variance = sum_g w_g (v_g - sum_h w_h v_h)^2 / (1 - share)
    ```

    with v_g the mean, or sigma_B = sqrt(variance + epsilon), and m_g the positions of ghost g.
    Ghosts without positions or without finite moments are left out.

    Args:
        batch: The moments of the ghosts, `[G, C]`.
        epsilon: The epsilon of the normalisation.
        ops: What computes, `keras.ops` or NumPy.
    """
    usable = has_update(batch, ops=ops)
    weights = ops.where(usable, batch.count, ops.zeros_like(batch.count))
    shares = weights / at_least(1, ops.sum(weights, axis=0), ops)
    # Near their mean, where float32 still tells apart means that are large beside sigma.
    means = ops.where(usable, batch.mean, ops.zeros_like(batch.mean))
    near = ops.sum(shares * means, axis=0)
    means = (means - near) + batch.mean_remainder
    values = ops.stack([means, ops.sqrt(batch.variance + epsilon)], axis=-2)
    usable, shares = ops.expand_dims(usable, -2), ops.expand_dims(shares, -2)
    values = ops.where(usable, values, ops.zeros_like(values))
    squares = ops.square(values - ops.sum(shares * values, axis=0))
    share = ops.sum(ops.square(shares), axis=0)
    single = share >= 1
    variances = ops.sum(shares * squares, axis=0) / ops.where(single, share, 1 - share)
    return Scatter(ops.where(single, ops.zeros_like(variances), variances), share[0])
