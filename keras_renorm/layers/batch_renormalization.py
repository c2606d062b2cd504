"""Batch Renormalization."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_renorm import schedules
from keras_renorm.keras_internals import own_weight_count
from keras_renorm.layers import limits
from keras_renorm.layers.batch_normalization import BatchNormalization
from keras_renorm.layers.keras_weights import of_norm_in_its_place, without_renorm
from keras_renorm.layers.limits import Limits, RenormLimits
from keras_renorm.ops import arguments
from keras_renorm.ops.maths.adaptive import EARLIER_ROWS, ROWS
from keras_renorm.schedules import Limit

# Their greatest values are the paper's.
_R_MAX, _D_MAX = schedules.Adaptive(3.0), schedules.Adaptive(5.0)


def _of_limits(name: str) -> Any:
    """A variable that the layer's limits hold, and Keras tracks like any that is assigned."""
    return property(
        lambda layer: getattr(layer._limits, name),
        lambda layer, variable: setattr(layer._limits, name, variable),
    )


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
    epsilon). Both mu and sigma are taken before the update, and r and d are constants for the
    gradient. Where nothing clips, every example is normalised as in inference, whatever else is in
    its minibatch. So small, correlated or unevenly drawn minibatches train as well as large
    independent ones. As in the paper, sigma_B comes from the biased variance, also in the moving
    sigma.

    With `r_max=1` and `d_max=0` the layer gives the output and the gradients of
    `BatchNormalization`, bit for bit. Its weights are gamma, beta, moving_mean and moving_variance,
    in that order. So the weights of a Keras batch norm fit, and so does
    `model.set_weights(batch_norm_model.get_weights())`. `variables` and files also hold the state
    of the limits: `update_count` for a schedule, `deviations` and `seen` for adaptive limits, the
    default. This state is float32 or float64, so that averages of models, and gradients over the
    whole state, can take it. A count ends at 2^24 = 16,777,216 updates, and stays there. What takes
    an earlier moment back by `get_weights` and `set_weights`, as `EarlyStopping` does with
    `restore_best_weights=True`, leaves this state where training ended. Inference needs none of it.

    With `virtual_batch_size` each ghost batch has r and d of its own, against moving statistics
    that all ghosts share. So where nothing clips, y = gamma * (x - mu) / sigma + beta in each ghost
    batch, from the first step on. The moving sigma averages the ghosts' sigmas. (The layer of
    `tf_keras` gives all its ghosts the mean of their r and d, and this equation does not hold.)

    Activation checkpointing (`keras.remat`, `tf.recompute_grad`, `torch.utils.checkpoint`) calls a
    layer twice in a step. The gradient comes from the second call, whose r and d are against moving
    statistics that the first call has updated. So the gradient differs, as with Keras's renorm, and
    statistics and schedules move twice. The layer cannot tell the second call from a next step,
    because nothing is handed over and minibatches may be equal. Leave the layer out of the
    checkpointed part, as `keras.RematScope` does by itself. `jax.checkpoint` around
    `stateless_call` is right, because it updates nothing in place. In the same way
    `keras.layers.RNN` calls a norm in its cell once before its loop: use `unroll=True`.

    `keras.layers.BatchNormalization(renorm=True)` differs in this: its limits are none by default,
    its lower clip of r is a number of its own, it does not use a loaded `moving_variance`, and it
    has seven weights instead of four. `BatchNormalization` lists what holds for both layers here.
    With adaptive limits the initial statistics weigh nothing after the first minibatch.

    Args:
        axis: The axis of the channels.
        momentum: Weight of the old value in the moving statistics, 1 - alpha in the paper. Through
            r and d it acts on training, too.
        epsilon: Added to the variances, greater than 0.
        center: Whether there is an offset beta.
        scale: Whether there is a scale gamma. The paper fixes gamma to 1: `scale=False`.
        r_max: Limit of r, at least 1: a number or a schedule from `keras_renorm.schedules`. The
            default, `schedules.Adaptive(3.0)`, follows from what the layer sees and needs no number
            of steps. `float("inf")` is no limit. The paper has `schedules.PAPER_R_MAX`: 1 for 5,000
            updates, then in a straight line to 3 at 40,000.
        d_max: Limit of d, at least 0, in the same forms; by default `schedules.Adaptive(5.0)`. The
            paper has `schedules.PAPER_D_MAX`: 0 for 5,000 updates, then in a straight line to 5 at
            25,000.
        num_steps: The steps of the whole training, in place of `r_max` and `d_max`. The limits then
            have the paper's proportions: see `schedules.paper`.
        renorm_clipping: The limits as `keras.layers.BatchNormalization` takes them, in place of
            `r_max` and `d_max`: a dictionary with the keys `"rmax"` and `"dmax"`. A missing key
            means no limit. `"rmin"` must be 1 / rmax.
        renorm: Ignored; for the signature of Keras's layer.
        renorm_momentum: None or equal to `momentum`; for the signature of Keras's layer.
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
    update_count = _of_limits("count")
    deviations = _of_limits("deviations")
    seen = _of_limits("seen")

    def __init__(
        self,
        axis: int = -1,
        momentum: float = 0.99,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        *,
        r_max: float | Limit = _R_MAX,
        d_max: float | Limit = _D_MAX,
        renorm: bool = True,
        num_steps: int | None = None,
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
        ways = (
            (r_max, d_max) != (_R_MAX, _D_MAX),
            num_steps is not None,
            renorm_clipping is not None,
        )
        if sum(ways) > 1:
            raise ValueError(
                "Give either `num_steps` or `renorm_clipping` or `r_max` and `d_max`, received "
                f"num_steps={num_steps!r}, renorm_clipping={renorm_clipping!r}, r_max={r_max!r}, "
                f"d_max={d_max!r}."
            )
        if num_steps is not None:
            r_max, d_max = schedules.paper(num_steps, momentum=self.momentum)
        if renorm_clipping is not None:
            r_max, d_max = limits.of_clipping(renorm_clipping)
        self.renorm = True  # as whoever takes it for Keras's layer reads it
        self._limits = Limits(r_max, d_max)

    @property
    def r_max(self) -> float | Limit:
        """The limit of r; assigned, it holds in calls that are not compiled yet."""
        return self._limits.values["r_max"]

    @r_max.setter
    def r_max(self, value: float | Limit) -> None:
        self._assign_limit("r_max", value)

    @property
    def d_max(self) -> float | Limit:
        """The limit of d; as `r_max`."""
        return self._limits.values["d_max"]

    @d_max.setter
    def d_max(self, value: float | Limit) -> None:
        self._assign_limit("d_max", value)

    def _assign_limit(self, name: str, value: float | Limit) -> None:
        lacks = self._limits.assign(name, value, built=self.built)
        if lacks:
            raise ValueError(
                f"`{name}` of the layer {self.name!r} must be a number, received {value!r}. The "
                f"layer was built with other limits, so it {lacks}. Make a layer with it, "
                f"{type(self).__name__}({name}=...), build it, and "
                "hand the weights over: `new.set_weights(old.get_weights())`."
            )

    @property
    def counts_calls(self) -> bool:
        """Whether `update_count` goes up by itself.

        By default it goes up by 1 in each call of the whole model in training, however often the
        model calls the layer. That includes shared layers and `keras.layers.TimeDistributed`. In a
        loop of Keras's own (`RNN`) under TensorFlow each pass counts. A layer with domains counts
        each domain's call. Where several calls of the model make one step of the optimizer (a GAN's
        discriminator, accumulated gradients), use `keras_renorm.callbacks.CountSteps`. All calls
        within one `keras.StatelessScope` of your own count as one. A new value acts on calls that
        are not compiled yet. Files do not hold it.
        """
        return self._limits.counts_calls

    @counts_calls.setter
    def counts_calls(self, value: bool) -> None:
        self._limits.counts_calls = arguments.flag("counts_calls", value)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates the weights of `BatchNormalization`, then what the limits depend on.

        For a schedule that is `update_count`, for adaptive limits `deviations` and `seen`.
        """
        super().build(input_shape)
        if self._limits.scheduled:
            # No integer: optimizers of averages, and gradients, take floats only.
            self.update_count = self._add_statistic(
                "update_count", (), initializer="zeros", dtype="float32"
            )
        if self._limits.adapts:
            channels = self.moving_mean.shape[-1]
            self.deviations = self._add_statistic(
                "deviations", (ROWS, channels), initializer="zeros"
            )
            self.seen = self._add_statistic("seen", (2,), initializer="zeros")

    def current_limits(self) -> RenormLimits:
        """The limits of the next minibatch, as numbers.

        A schedule counts the updates of the moving statistics. A minibatch that is empty or all
        masked updates nothing, and advances neither a schedule nor adaptive limits. On the replicas
        of a strategy a synchronized layer counts the same everywhere. Any other layer counts on
        each replica for itself, as each replica keeps its own moving statistics. This method and
        files then give the mean over the replicas, of counts and of what adaptive limits have seen.
        """
        return self._limits.numbers()

    @property
    def weights(self) -> list[Any]:
        """The weights of a batch norm, so that its `get_weights` fit, for layers and whole models.

        The state of the limits is in files and in `variables`, like the state of a random layer.
        """
        state = set(map(id, self._limits.variables))
        return [variable for variable in super().weights if id(variable) not in state]

    def set_weights(self, weights: list[Any]) -> None:
        """Sets the weights from arrays, with or without what limits depend on after the statistics.

        Args:
            weights: Arrays in the order of `weights`, from a batch norm or a file. Without a
                counter `update_count` stays as it is. Without `deviations` and `seen` adaptive
                limits begin again: see `trust_statistics`. From the seven weights of Keras's layer
                with `renorm=True` the first four are taken.
        """
        inner = len(super().weights) - own_weight_count(self)
        cut = max(len(weights) - inner, 0)  # the activation's come last, if it is a layer
        own = self._with_own_state(list(weights[:cut]))
        state = self._limits.variables if len(own) == own_weight_count(self) else []
        shapes = [tuple(variable.shape) for variable in state]
        if shapes != [np.shape(value) for value in own[len(own) - len(state) :]]:
            state = []  # so that Keras refuses them before it assigns any
        vectors = len(own) - len(state)
        super().set_weights([*own[:vectors], *weights[cut:]])
        for variable, value in zip(state, own[vectors:], strict=True):
            variable.assign(value)

    def load_own_variables(self, store: Any) -> None:
        """Loads from a file, with or without a counter or `deviations`; see `set_weights`.

        A file of a net with batch norms loads, too. Keras files weights under the class of their
        layer. If a file has none for this layer, the batch norm in its place gives them: the one
        with the layer's name, or else the one with its number among the norms of its list of
        layers. This does not load the weights of an activation that is a layer.

        Raises:
            ValueError: If the file holds nothing for this layer. Or if it holds batch norms only,
                and the model keeps some after this layer, which Keras mistakes for others.
        """
        stored = [store[str(i)] for i in range(len(store.keys()))]
        if own_weight_count(self) and not stored:  # one that is not built has none
            stored = of_norm_in_its_place(self, store)
            if not stored:
                raise ValueError(
                    f"The file holds no weights for the {type(self).__name__} layer {self.name!r}, "
                    "nor a batch norm in its place. Load the file into the model that it is of, "
                    "and hand the weights over: `model.set_weights(other_model.get_weights())`."
                )
        values = self._with_own_state(stored)
        super().load_own_variables({str(i): value for i, value in enumerate(values)})

    def trust_statistics(self) -> None:
        """Lets adaptive limits begin again, with moving statistics that count in full.

        Call it after you have loaded, copied or estimated the statistics. The limits open within
        some 20 updates if the statistics fit. The first minibatch replaces statistics that are
        still the initializers'. Without adaptive limits nothing happens.
        """
        for variable in (self.deviations, self.seen):
            if variable is not None:
                variable.assign(np.zeros(variable.shape))

    def _with_own_state(self, values: list[Any]) -> list[Any]:
        """The layer's own `values`, with what its limits depend on in place of another's."""
        own = self._limits.variables
        vectors = own_weight_count(self) - len(own)
        if not vectors or len(values) < vectors:  # the layer is not built, or Keras refuses them
            return values
        values = without_renorm(values, vectors)
        vector_values, rest = values[:vectors], values[vectors:]
        shapes, rows = [np.shape(value) for value in rest], self._statistic_rows
        channels = self.moving_mean.shape[-1]
        count, state = [rows], [(*rows, ROWS, channels), (*rows, 2)]
        if shapes[-2:] == [(*rows, EARLIER_ROWS, channels), (*rows, 2)]:
            rest, shapes = rest[:-2], shapes[:-2]
        if shapes not in ([], count, state, count + state):
            return values
        counts = rest[:1] if shapes[:1] == count else []
        if self.update_count is not None:
            vector_values += counts or [keras.ops.convert_to_numpy(self.update_count)]
        fresh = (np.zeros(variable.shape) for variable in own[-2:])
        if self.seen is not None:
            vector_values += rest[len(counts) :] or fresh
        return vector_values

    def get_config(self) -> dict[str, Any]:
        """As that of `BatchNormalization`, and the limits in any case: they are the layer."""
        limits = {k: schedules.serialize(v) for k, v in self._limits.values.items()}
        return super().get_config() | limits
