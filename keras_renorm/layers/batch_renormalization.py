"""Batch Renormalization."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_renorm import schedules
from keras_renorm.keras_internals import own_weight_count
from keras_renorm.layers import limits
from keras_renorm.layers.batch_normalization import BatchNormalization
from keras_renorm.layers.limits import Limits, RenormLimits
from keras_renorm.ops import arguments
from keras_renorm.schedules import Schedule


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
            r_max, d_max = limits.of_clipping(renorm_clipping)
        self._limits = Limits(r_max, d_max)
        self.update_count: Any = None

    @property
    def r_max(self) -> float | Schedule:
        """The limit of r; assigned, it holds in calls that are not compiled yet."""
        return self._limits.values["r_max"]

    @r_max.setter
    def r_max(self, value: float | Schedule) -> None:
        self._assign_limit("r_max", value)

    @property
    def d_max(self) -> float | Schedule:
        """The limit of d; as `r_max`."""
        return self._limits.values["d_max"]

    @d_max.setter
    def d_max(self, value: float | Schedule) -> None:
        self._assign_limit("d_max", value)

    def _assign_limit(self, name: str, value: float | Schedule) -> None:
        new = Limits(**self._limits.values | {name: value})
        if new.scheduled and self.built and self.update_count is None:
            raise ValueError(
                f"`{name}` of the layer {self.name!r} must be a number, received {value!r}. The "
                "layer was built with numbers, so it counts no updates and a schedule would stand "
                f"still. Make a layer with it, {type(self).__name__}({name}=...), build it, and "
                "hand the weights over: `new.set_weights(old.get_weights())`."
            )
        new.count = self.update_count
        self._limits = new

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates the weights of `BatchNormalization`, then `update_count` for a schedule."""
        super().build(input_shape)
        if self._limits.scheduled:
            # Of integers TensorFlow forms no mean; each replica counts what its own statistics saw.
            self.update_count = self._limits.count = self._add_statistic(
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
        return self._limits.numbers()

    def set_weights(self, weights: list[Any]) -> None:
        """Sets the weights from arrays, with or without a counter at their end.

        Args:
            weights: Arrays in the order of `weights`. Without a counter, as those of a batch norm,
                `update_count` stays as it is; a layer with fixed limits leaves one out.
        """
        inner = len(self.weights) - own_weight_count(self)
        cut = max(len(weights) - inner, 0)  # the activation's come last, if it is a layer
        super().set_weights([*self._with_own_counter(list(weights[:cut])), *weights[cut:]])

    def load_own_variables(self, store: Any) -> None:
        """Loads from a file, with or without a counter; see `set_weights`.

        Raises:
            ValueError: If the file holds nothing for this layer. Keras finds a layer's weights in a
                file by the name of its class, and so not those of a batch norm.
        """
        if own_weight_count(self) and not store.keys():  # one that is not built has none
            raise ValueError(
                f"The file holds no weights for the BatchRenormalization layer {self.name!r}. "
                "Keras files weights under the class of their layer: load the file into a model "
                "with batch norm layers, and hand them over one by one, e.g. "
                "`layer.set_weights(batch_norm_layer.get_weights())`."
            )
        values = self._with_own_counter([store[str(i)] for i in range(len(store.keys()))])
        super().load_own_variables({str(i): value for i, value in enumerate(values)})

    def _with_own_counter(self, values: list[Any]) -> list[Any]:
        """The layer's own `values`, with its counter put in or another's left out."""
        vectors = own_weight_count(self) - (self.update_count is not None)
        if self.update_count is not None and len(values) == vectors:
            return [*values, keras.ops.convert_to_numpy(self.update_count)]
        if self.update_count is None and len(values) == vectors + 1:
            return values[:-1] if np.shape(values[-1]) == self._statistic_rows else values
        return values

    def get_config(self) -> dict[str, Any]:
        """As that of `BatchNormalization`, and the limits in any case: they are the layer."""
        limits = {k: schedules.serialize(v) for k, v in self._limits.values.items()}
        return super().get_config() | limits
