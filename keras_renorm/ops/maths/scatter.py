"""How much the ghost batches of one minibatch differ: by noise, as they share their weights."""

from typing import Any, NamedTuple

import keras

from keras_renorm.ops.maths.moments import Moments
from keras_renorm.ops.maths.moving import ghost_shares
from keras_renorm.ops.maths.sums import at_least
from keras_renorm.typing import Tensor


class Scatter(NamedTuple):
    """The noise of a minibatch, as its ghost batches show it.

    Attributes:
        variances: `[2, C]`, of a ghost batch's mu_B and sigma_B. 0 in channels where fewer than two
            ghosts have moments.
        ghosts: `[C]`, G, the number of ghosts with moments. Their mean has a G-th of the variance.
    """

    variances: Tensor
    ghosts: Tensor


def among_ghosts(batch: Moments, near: Tensor, epsilon: float, *, ops: Any = keras.ops) -> Scatter:
    """The variances among the ghost batches of a minibatch, without bias.

    ```
    w_g = m_g / sum_g m_g
    variance = sum_g w_g (v_g - sum_h w_h v_h)^2 / (1 - 1 / G)
    ```

    v_g is the mean, or sigma_B = sqrt(variance + epsilon), and m_g the number of positions of ghost
    g. The result has no bias where the variance of v_g is inverse to m_g. Ghosts of unequal sizes
    then give that of a ghost of mean size. Ghosts without positions or finite moments do not count.

    Args:
        batch: The moments of the ghosts, `[G, C]`.
        near: `[C]`, the moving means. Differences from them tell apart, in float32, too, means that
            are large beside sigma.
        epsilon: The epsilon of the normalisation.
        ops: What computes, `keras.ops` or NumPy.
    """
    usable, shares = ghost_shares(batch, ops=ops)
    means = (batch.mean - near) + batch.mean_remainder
    values = ops.stack([means, ops.sqrt(batch.variance + epsilon)], axis=-2)
    usable, shares = ops.expand_dims(usable, -2), ops.expand_dims(shares, -2)
    values = ops.where(usable, values, ops.zeros_like(values))
    squares = ops.square(values - ops.sum(shares * values, axis=0))
    ones = ops.where(usable, ops.ones_like(shares), ops.zeros_like(shares))
    ghosts = ops.sum(ones, axis=0)
    others = at_least(1, ghosts - 1, ops)
    return Scatter(ops.sum(shares * squares, axis=0) * (ghosts / others), ghosts[0])
