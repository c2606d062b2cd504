"""Batch Renormalization."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_renorm import schedules
from keras_renorm.layers.batch_normalization import BatchNormalization
from keras_renorm.ops import arguments
from keras_renorm.ops.arguments import LEAST
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

    With `virtual_batch_size` each ghost batch has r and d of its own, against the moving statistics
    that all share. So where nothing clips, y = gamma * (x - mu) / sigma + beta in each of them,
    from the first step on. The moving sigma averages the ghosts' sigmas. (The layer of `tf_keras`
    gives all its ghosts the mean of their r and d, with which that does not hold.)

    Activation checkpointing (`keras.remat`, `tf.recompute_grad`, `torch.utils.checkpoint`) calls a
    layer twice in a step. The second call, of which the gradient is, has r and d against moving
    statistics that the first one has updated, so the gradient is another, as with Keras's renorm;
    and statistics and schedules move twice. Leave the layer out of what is checkpointed.
    `jax.checkpoint` around `stateless_call`, where nothing is updated in place, is right.

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
        renorm: Without meaning; here for the signature of Keras's layer.
        renorm_momentum: None or equal to `momentum`; here for the signature of Keras's layer.
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

    _by_stddev = True

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
        renorm: bool = True,
        renorm_clipping: Mapping[str, float] | None = None,
        renorm_momentum: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(axis, momentum, epsilon, center, scale, **kwargs)
        arguments.flag("renorm", renorm)
        if renorm and renorm_momentum not in (None, momentum):
            raise ValueError(
                f"`renorm_momentum` must equal `momentum`, received renorm_momentum="
                f"{renorm_momentum!r}, momentum={momentum!r}. This layer has one set of moving "
                "statistics, for training and inference: write momentum alone."
            )
        if renorm_clipping is not None:
            if (r_max, d_max) != (schedules.PAPER_R_MAX, schedules.PAPER_D_MAX):
                raise ValueError(
                    "Give either `renorm_clipping` or `r_max` and `d_max`, received "
                    f"renorm_clipping={renorm_clipping!r}, r_max={r_max!r}, d_max={d_max!r}."
                )
            r_max, d_max = _limits_of_clipping(renorm_clipping)
        self.r_max = schedules.get("r_max", r_max, low=LEAST["r_max"])
        self.d_max = schedules.get("d_max", d_max, low=LEAST["d_max"])
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
        return RenormLimits(**{name: self._number(name, limits[name]) for name in LEAST})

    def _number(self, name: str, value: Any) -> float:
        """A limit as the step takes it, where a tensor below the least value counts as that."""
        if arguments.is_number(value):
            return arguments.real(name, value, low=LEAST[name])
        return float(np.maximum(LEAST[name], keras.ops.convert_to_numpy(value)))  # NaN stays NaN

    def set_weights(self, weights: list[Any]) -> None:
        """Sets the weights from arrays, with or without a counter at their end.

        Args:
            weights: Arrays in the order of `weights`. Without a counter, as those of a batch norm,
                `update_count` stays as it is; a layer with fixed limits leaves one out.
        """
        inner = len(self.weights) - self._own_count()
        cut = max(len(weights) - inner, 0)  # the activation's come last, if it is a layer
        super().set_weights([*self._with_own_counter(list(weights[:cut])), *weights[cut:]])

    def load_own_variables(self, store: Any) -> None:
        """Loads from a file, with or without a counter; see `set_weights`.

        Raises:
            ValueError: If the file holds nothing for this layer. Keras finds a layer's weights in a
                file by the name of its class, and so not those of a batch norm.
        """
        if self._own_count() and not store.keys():  # one that is not built has none
            raise ValueError(
                f"The file holds no weights for the BatchRenormalization layer {self.name!r}. "
                "Keras files weights under the class of their layer: load the file into a model "
                "with batch norm layers, and hand them over one by one, e.g. "
                "`layer.set_weights(batch_norm_layer.get_weights())`."
            )
        values = self._with_own_counter([store[str(i)] for i in range(len(store.keys()))])
        super().load_own_variables({str(i): value for i, value in enumerate(values)})

    def _own_count(self) -> int:
        """How many weights are the layer's own, and not those of an activation that is a layer."""
        return len(self._trainable_variables) + len(self._non_trainable_variables)

    def _with_own_counter(self, values: list[Any]) -> list[Any]:
        """The layer's own `values`, with its counter put in or another's left out."""
        vectors = self._own_count() - (self.update_count is not None)
        if self.update_count is not None and len(values) == vectors:
            return [*values, keras.ops.convert_to_numpy(self.update_count)]
        if self.update_count is None and len(values) == vectors + 1 and values[-1].shape == ():
            return values[:-1]
        return values

    def get_config(self) -> dict[str, Any]:
        """As that of `BatchNormalization`, and the limits in any case: they are the layer."""
        limits = {"r_max": self.r_max, "d_max": self.d_max}
        return super().get_config() | {k: schedules.serialize(v) for k, v in limits.items()}

    def _limits(self) -> dict[str, Tensor]:
        # Before it is built the layer has seen no update. A cast reads the variable, once for both.
        count = keras.ops.cast(0 if self.update_count is None else self.update_count, "int")
        limits = {"r_max": self.r_max, "d_max": self.d_max}
        return {
            name: limit(count) if isinstance(limit, Schedule) else limit
            for name, limit in limits.items()
        }

    def _update(self, found: Any) -> None:
        moving = self._moved(found)
        super()._update(moving)
        if self.update_count is not None:
            self.update_count.assign_add(keras.ops.cast(moving.updated, self.update_count.dtype))


def _limits_of_clipping(clipping: Mapping[str, float]) -> tuple[float, float]:
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
