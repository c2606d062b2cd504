"""Batch Renormalization."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import keras

from keras_renorm import ops, schedules
from keras_renorm.layers.batch_normalization import BatchNormalization
from keras_renorm.ops import arguments
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


@keras.saving.register_keras_serializable("keras_renorm")
class BatchRenormalization(BatchNormalization):
    """Batch Normalization whose training output agrees with its inference output.

    ```
    training:   y = gamma * ((x - mu_B) / sigma_B * r + d) + beta
                r = clip(sigma_B / sigma, 1 / r_max, r_max)
                d = clip((mu_B - mu) / sigma, -d_max, d_max)
                mu    += (1 - momentum) * (mu_B - mu)
                sigma += (1 - momentum) * (sigma_B - sigma)
    inference:  y = gamma * (x - mu) / sigma + beta
    ```

    with sigma_B = sqrt(var_B + epsilon), mu = `moving_mean`, sigma = sqrt(`moving_variance` +
    epsilon), both taken before the update; r and d are constants for the gradient. Where nothing
    clips, every example is normalised as in inference, whatever else is in its minibatch. So
    small, correlated or unevenly drawn minibatches train as well as large independent ones.

    With `r_max=1` and `d_max=0` the output and its gradients are those of `BatchNormalization`,
    bit for bit. Weights: gamma, beta, moving_mean and moving_variance, in that order, so that
    those of a Keras batch norm load as they are; then `update_count`, an integer, if a limit is a
    schedule. A layer with fixed limits has the four only.

    Differs from `keras.layers.BatchNormalization(renorm=True)`: clipped by default, with the
    paper's schedule; the lower clip of r is always 1 / r_max; a loaded `moving_variance` is used;
    four weights instead of seven. And see `BatchNormalization` for what holds for both layers.

    Args:
        axis: The axis of the channels.
        momentum: Weight of the old value in the moving statistics, 1 - alpha in the paper. It
            acts on training, through r and d.
        epsilon: Added to the variances, greater than 0.
        center: Whether there is an offset beta.
        scale: Whether there is a scale gamma. The paper fixes gamma to 1: `scale=False`.
        r_max: Limit of r, at least 1: a number or a schedule from `keras_renorm.schedules`. By
            default the paper's: 1 for 5,000 updates, then in a straight line to 3 at 40,000.
            `float("inf")` is no limit.
        d_max: Limit of d, at least 0, likewise. By default the paper's: 0 for 5,000 updates,
            then in a straight line to 5 at 25,000.
        renorm_clipping: The limits as `keras.layers.BatchNormalization` writes them, in place of
            `r_max` and `d_max`: a dictionary with keys `"rmax"` and `"dmax"`, and no limit where
            one is missing, as there. `"rmin"` may be given if it is 1 / rmax.
        **kwargs: The other arguments of `BatchNormalization`.

    Call arguments:
        inputs: Floating-point tensor `[..., C, ...]` of rank 2 or more.
        training: Whether to use and to update with the moments of the minibatch.
        mask: Optional boolean tensor with the inputs' shape but for the last dimension.

    Returns:
        Tensor of the inputs' shape in the layer's compute dtype.

    Raises:
        TypeError: If an argument has the wrong type, or the inputs are not floating point.
        ValueError: If an argument is out of range or does not fit the inputs.

    Example:
        >>> ramp = keras_renorm.schedules.LinearRamp(1.0, 3.0, start_step=500, end_step=4_000)
        >>> layer = keras_renorm.layers.BatchRenormalization(r_max=ramp, d_max=5.0)
        >>> y = layer(np.random.normal(5.0, 2.0, (4, 8)), training=True)
        >>> layer.current_limits()
        RenormLimits(r_max=1.0, d_max=5.0)

    Source: Ioffe 2017, Algorithm 1 and section 4.1.
    """

    def __init__(
        self,
        axis: int = -1,
        momentum: float = 0.99,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        *,
        r_max: float | Schedule = schedules.PAPER_R_MAX,
        d_max: float | Schedule = schedules.PAPER_D_MAX,
        renorm_clipping: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(axis, momentum, epsilon, center, scale, **kwargs)
        if renorm_clipping is not None:
            if (r_max, d_max) != (schedules.PAPER_R_MAX, schedules.PAPER_D_MAX):
                raise ValueError(
                    "Give either `renorm_clipping` or `r_max` and `d_max`, received "
                    f"renorm_clipping={dict(renorm_clipping)!r}, r_max={r_max!r}, d_max={d_max!r}."
                )
            r_max, d_max = _limits_of_clipping(renorm_clipping)
        self.r_max = schedules.get("r_max", r_max, low=1)
        self.d_max = schedules.get("d_max", d_max, low=0)
        self.update_count: Any = None

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates the weights of `BatchNormalization`, then `update_count` for a schedule."""
        super().build(input_shape)
        if isinstance(self.r_max, Schedule) or isinstance(self.d_max, Schedule):
            # Of integers TensorFlow forms no mean; each replica counts what its own statistics saw.
            self.update_count = self._add_statistic(
                "update_count",
                (),
                initializer="zeros",
                dtype="int",
                aggregation="only_first_replica",
            )

    def current_limits(self) -> RenormLimits:
        """The limits of the next minibatch, as numbers.

        A schedule counts the updates of the moving statistics; a minibatch that updates none,
        for it is empty or all masked, does not advance it. On the replicas of a strategy a
        synchronized layer counts the same everywhere. Of any other each replica counts for
        itself, as it keeps its own moving statistics; read here and saved is replica 0's count.
        """
        limits = self._limits()
        return RenormLimits(
            *(float(keras.ops.convert_to_numpy(limits[name])) for name in ("r_max", "d_max"))
        )

    def set_weights(self, weights: list[Any]) -> None:
        """Sets the weights from arrays; those of a batch norm, without a counter, will do too.

        Args:
            weights: Arrays in the order of `weights`. Without the last, `update_count` stays.
        """
        if self.update_count is not None and len(weights) == len(self.weights) - 1:
            weights = [*weights, keras.ops.convert_to_numpy(self.update_count)]
        super().set_weights(weights)

    def load_own_variables(self, store: Any) -> None:
        """Loads from a file, also one that a batch norm, without a counter, was saved to."""
        others = len(self.weights) - 1
        if self.update_count is not None and len(store.keys()) == others:
            count = keras.ops.convert_to_numpy(self.update_count)
            store = {str(i): store[str(i)] for i in range(others)} | {str(others): count}
        super().load_own_variables(store)

    def _limits(self) -> dict[str, Tensor]:
        limits = {"r_max": self.r_max, "d_max": self.d_max}
        return {
            name: limit(keras.ops.convert_to_tensor(self.update_count))
            if isinstance(limit, Schedule)
            else limit
            for name, limit in limits.items()
        }

    def _update(self, batch: ops.Moments) -> None:
        mean, variance = ops.update_moving_moments_by_stddev(
            self._statistic(self.moving_mean, batch),
            self._statistic(self.moving_variance, batch),
            batch,
            momentum=self.momentum,
            epsilon=self.epsilon,
        )
        self.moving_mean.assign(mean)
        self.moving_variance.assign(variance)
        if self.update_count is not None:
            updated = keras.ops.any(ops.has_update(batch))
            self.update_count.assign_add(keras.ops.cast(updated, self.update_count.dtype))

    def _serializers(self) -> dict[str, Callable[[Any], Any]]:
        limits = dict.fromkeys(("r_max", "d_max"), schedules.serialize)
        return super()._serializers() | limits


def _limits_of_clipping(clipping: Mapping[str, float]) -> tuple[float, float]:
    """r_max and d_max of a `renorm_clipping`."""
    allowed = ("rmax", "rmin", "dmax")
    unknown = sorted(set(clipping) - set(allowed))
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
