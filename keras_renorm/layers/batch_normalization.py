"""Batch Normalization."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import keras

from keras_renorm import keras_internals, ops
from keras_renorm.layers import configuration
from keras_renorm.layers import inputs as call_inputs
from keras_renorm.layers.inputs import Inputs
from keras_renorm.layers.keras_weights import without_renorm
from keras_renorm.layers.limits import Limits
from keras_renorm.layers.statistics_in_use import StatisticsInUse, uses_batch_at_inference
from keras_renorm.ops import arguments, backends, renorm
from keras_renorm.ops.steps.step import Trained
from keras_renorm.typing import Tensor

# What the default initializers make.
_NUMBERS = {keras.initializers.Zeros: 0.0, keras.initializers.Ones: 1.0}


@keras.saving.register_keras_serializable("keras_renorm")
class BatchNormalization(keras.layers.BatchNormalization):
    """Normalises each channel with the moments of the minibatch.

    ```
    training:   y = gamma * (x - mu_B) / sqrt(var_B + epsilon) + beta
                moving_mean     += (1 - momentum) * (mu_B - moving_mean)
                moving_variance += (1 - momentum) * (var_B - moving_variance)
    inference:  y = gamma * (x - moving_mean) / sqrt(moving_variance + epsilon) + beta
    ```

    Use it in the place of `keras.layers.BatchNormalization`: it has the same arguments, defaults
    and weights. It is a subclass of Keras's layer, so code that asks
    `isinstance(layer, keras.layers.BatchNormalization)`, such as loops that freeze the norms, finds
    it. It differs where Keras's layer goes wrong:

    - The variance is within 1e-5 of float64's even where the mean is large (1e6 at deviation 1).
    - A minibatch of no rows, or with every position masked, changes no statistic. A channel whose
      moments are not finite keeps its moving statistics, and its output is NaN. The same holds for
      a variance above 1e30 (1e300 in float64), where sums of squares overflow.
    - In training masked positions contribute nothing to moments and gradients, even where they hold
      NaN.
    - Arguments out of range and integer inputs are errors.
    - `renorm=True` is an error: use `keras_renorm.layers.BatchRenormalization`.

    The moving variance averages the biased var_B, as in Keras's layer. For inference Algorithm 2 of
    the paper multiplies it by m / (m - 1), with m positions of a channel in a minibatch. Where m is
    small, use `keras_renorm.statistics.precise`, the variance of all examples together, or multiply
    `moving_variance` by the factor after training. The layer has no option for it, because m
    differs by minibatch and mask, and Keras's batch norm files hold the biased average.

    Args:
        axis: The axis of the channels.
        momentum: Weight of the old value in the moving averages, in [0, 1].
        epsilon: Added to the variance, greater than 0.
        center: Whether there is an offset beta.
        scale: Whether there is a scale gamma.
        beta_initializer: Initializer of beta.
        gamma_initializer: Initializer of gamma.
        moving_mean_initializer: Initializer of the moving mean.
        moving_variance_initializer: Initializer of the moving variance.
        beta_regularizer: Optional regularizer of beta.
        gamma_regularizer: Optional regularizer of gamma.
        beta_constraint: Optional constraint of beta.
        gamma_constraint: Optional constraint of gamma.
        renorm: Only False; for the signature of Keras's layer.
        renorm_clipping: Ignored, as in Keras's layer without `renorm`.
        renorm_momentum: Ignored, as in Keras's layer without `renorm`.
        synchronized: Whether to use the moments of all replicas together: of the running
            `tf.distribute` strategy, of PyTorch's default process group, or of all devices that
            `jax.shard_map` or `jax.pmap` maps over, along all of its axes. It works with masks and
            with parts of any size, even empty ones. All replicas then have the same moving
            statistics, to the bit. A call in training is a collective, and so is its gradient. If
            False, each replica normalises its own part. Under `tf.distribute` the layer then
            reads, saves and uses for inference the mean of the replicas' moving statistics. So
            reading them is a collective, which all workers of a MultiWorkerMirroredStrategy must do
            together, and inference in `strategy.run` takes one per layer. Under PyTorch's
            `DistributedDataParallel` each process then keeps and uses its own statistics, and a
            file has those of the process that saves. Under JAX's `keras.distribution.DataParallel`
            the moments are global either way.
        activation: Activation of the output, as in `keras.layers.Dense`.
        virtual_batch_size: Examples in a ghost batch. It cuts each replica's minibatch into ghost
            batches, in order, each with moments of its own. Where the examples do not divide, the
            last ghost batch is smaller. The moving statistics average the ghosts' moments, weighted
            with the numbers of positions that count. A ghost batch of the whole minibatch changes
            no bit. The batch must be the first axis. Not with `synchronized`. Hoffer, Hubara &
            Soudry 2017.
        frozen_statistics: Whether training, too, normalises with the moving statistics and keeps
            them, while gamma and beta train on; `keras_renorm.statistics.freeze` sets it. Wu &
            Johnson 2021, section 4, call it FrozenBN.
        **kwargs: Keras's own layer arguments, such as `name`, `dtype` and `trainable`.

    Call arguments:
        inputs: Floating-point tensor `[..., C, ...]` of rank 2 or more. Under TensorFlow also a
            `tf.RaggedTensor` with the channels after its ragged axes, for the moments of its
            values; not with `virtual_batch_size`.
        training: Whether to use and to update with the moments of the minibatch. A layer with
            `trainable=False` runs in inference mode all the same. It may be a boolean tensor, even
            a graph's.
        mask: Optional boolean tensor with the inputs' shape except the last dimension (each
            dimension may be 1): False leaves a position out. The mask of a ragged tensor is ragged,
            with the same lengths.

    Returns:
        Tensor of the inputs' shape in the layer's compute dtype. Statistics are float32 or wider.

    Raises:
        TypeError: If an argument has the wrong type, or the inputs are not floating point, sparse
            or several.
        ValueError: If an argument is out of range or does not fit the inputs.

    Example:
        >>> layer = keras_renorm.layers.BatchNormalization()
        >>> y = np.asarray(layer(np.random.normal(5.0, 2.0, (32, 8)), training=True))
        >>> print(abs(y.mean()).round(2), y.std().round(2))
        0.0 1.0

    Source: Ioffe & Szegedy 2015, Algorithms 1 and 2.
    """

    # Whether the moving statistics average the deviation and not the variance.
    _by_stddev = False
    # The axes before that of the channels, of gamma and beta and of the statistics.
    _parameter_rows: tuple[int, ...] = ()
    _statistic_rows: tuple[int, ...] = ()
    _arguments: tuple[str, ...] = (
        *("axis", "momentum", "epsilon", "virtual_batch_size"),
        *("center", "scale", "synchronized", "frozen_statistics"),
        *("beta_initializer", "gamma_initializer"),
        *("moving_mean_initializer", "moving_variance_initializer"),
        *("beta_regularizer", "gamma_regularizer", "beta_constraint", "gamma_constraint"),
        "activation",
    )

    def __init__(
        self,
        axis: int = -1,
        momentum: float = 0.99,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        moving_mean_initializer: Any = "zeros",
        moving_variance_initializer: Any = "ones",
        beta_regularizer: Any = None,
        gamma_regularizer: Any = None,
        beta_constraint: Any = None,
        gamma_constraint: Any = None,
        renorm: bool = False,
        renorm_clipping: Mapping[str, float] | None = None,
        renorm_momentum: float = 0.99,
        synchronized: bool = False,
        activation: Any = None,
        virtual_batch_size: int | None = None,
        frozen_statistics: bool = False,
        **kwargs: Any,
    ) -> None:
        if arguments.flag("renorm", renorm):
            raise ValueError(
                f"`renorm` must be False, received renorm={renorm!r}. Batch Renormalization is a "
                "layer of its own: write keras_renorm.layers.BatchRenormalization("
                f"renorm_clipping={renorm_clipping or {}!r}), or give it r_max and d_max."
            )
        backend = backends.current()
        if synchronized and not backend.synchronizes:
            raise ValueError(
                "`synchronized=True` needs the TensorFlow, JAX or PyTorch backend, received it "
                f"with {backend.name!r}."
            )
        arguments.layer_dtype(kwargs.get("dtype"))
        arguments.initializer("moving_mean_initializer", moving_mean_initializer)
        arguments.initializer("moving_variance_initializer", moving_variance_initializer)
        super().__init__(
            arguments.axis(axis),
            arguments.real("momentum", momentum, low=0, high=1),
            arguments.positive("epsilon", epsilon),
            arguments.flag("center", center),
            arguments.flag("scale", scale),
            beta_initializer,
            gamma_initializer,
            moving_mean_initializer,
            moving_variance_initializer,
            beta_regularizer,
            gamma_regularizer,
            beta_constraint,
            gamma_constraint,
            **kwargs,
        )
        self.synchronized = arguments.flag("synchronized", synchronized)
        self.activation = keras.activations.get(activation)
        self.virtual_batch_size = arguments.virtual_batch_size(
            virtual_batch_size, axis=self.axis, synchronized=self.synchronized
        )
        self.frozen_statistics = arguments.flag("frozen_statistics", frozen_statistics)
        self._limits = Limits()

    @property
    def statistics_in_use(self) -> StatisticsInUse:
        """Which statistics the layer uses, here and now.

        One of "batch", "moving", "frozen", "batch_at_inference". It follows from `trainable`,
        `frozen_statistics` and `keras_renorm.statistics.batch_statistics`.
        """
        if uses_batch_at_inference(self):
            return "batch_at_inference"
        if not self.trainable:
            return "moving"
        return "frozen" if self.frozen_statistics else "batch"

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates gamma, beta, moving_mean and moving_variance, in that order.

        Then those of the activation, if it is a layer.

        Args:
            input_shape: The inputs' shape.

        Raises:
            TypeError: If the inputs are several tensors.
            ValueError: If the inputs have no axis `axis`, or its size is not known, or with
                `virtual_batch_size` it is the first.
        """
        arguments.one_tensor(input_shape)
        input_shape = arguments.shape(input_shape)
        axis = arguments.axis(self.axis, len(input_shape))
        arguments.virtual_batch_size(
            self.virtual_batch_size, axis=axis, synchronized=self.synchronized
        )
        channels = input_shape[axis]
        if channels is None:
            raise ValueError(
                f"The size of the inputs' axis {self.axis}, the channels, must be known to create "
                f"the weights; received inputs of shape {tuple(input_shape)}."
            )
        if self.scale:
            self.gamma = self._add_parameter("gamma", channels)
        if self.center:
            self.beta = self._add_parameter("beta", channels)
        self.moving_mean = self._add_statistic("moving_mean", (channels,))
        self.moving_variance = self._add_statistic("moving_variance", (channels,))
        self.input_spec = keras.layers.InputSpec(ndim=len(input_shape), axes={axis: channels})
        # `call` would build it, but a symbolic call does not run that, and weights may come first.
        if isinstance(self.activation, keras.layers.Layer) and not self.activation.built:
            self.activation.build(input_shape)

    def call(self, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None) -> Any:
        """Normalises `inputs`; see the class."""
        return self._normalized(
            self._prepared(inputs, mask),
            training,
            functools.partial(renorm.train, virtual_batch_size=self.virtual_batch_size),
            # A frozen layer in training stands among those that train.
            functools.partial(
                ops.inference_step, portable=keras.ops.is_tensor(training) or not training
            ),
        )

    def compute_output_spec(
        self, inputs: Any, training: bool | None = None, mask: Any = None
    ) -> keras.KerasTensor:
        """Shape and dtype of the output for symbolic inputs, which are checked as in a call."""
        call_inputs.check_kind(inputs)
        call_inputs.check(inputs, mask)
        shape = self.compute_output_shape(inputs.shape)
        # Older versions of Keras know of no ragged ones.
        ragged = {"ragged": True} if getattr(inputs, "ragged", False) else {}
        return keras.KerasTensor(shape, dtype=self.compute_dtype, **ragged)

    def _prepared(self, inputs: Any, mask: Any) -> Inputs:
        """Both as the steps take them."""
        given = call_inputs.taken(inputs, mask, self.axis, self.moving_mean.shape[-1])
        if given.ragged is not None and self.virtual_batch_size is not None:
            raise ValueError(
                "`virtual_batch_size` is not for ragged inputs, received virtual_batch_size="
                f"{self.virtual_batch_size}. {call_inputs.PAD}"
            )
        return given

    def rematerialized_call(self, layer_call: Any, *args: Any, **kwargs: Any) -> Any:
        """The call as it is: `keras.RematScope` leaves the layer out.

        A second call would be another step. The layer keeps little more than its input anyway.
        """
        return layer_call

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """The inputs' shape.

        Raises:
            TypeError: If `input_shape` is no shape.
            ValueError: If the inputs have no axis `axis`.
        """
        input_shape = arguments.shape(input_shape)
        arguments.axis(self.axis, len(input_shape))
        return input_shape

    def set_weights(self, weights: list[Any]) -> None:
        """Sets the weights from arrays, also from those of Keras's layer with `renorm=True`.

        Args:
            weights: Arrays in the order of `weights`. That layer has seven. The last three, which
                inference does not use, are left out.
        """
        own = keras_internals.own_weight_count(self)
        super().set_weights(without_renorm(list(weights), own, len(self.weights)))

    def load_own_variables(self, store: Any) -> None:
        """Loads from a file, as `set_weights` from arrays.

        Raises:
            ValueError: If the file holds nothing for this layer: Keras finds a layer's weights in
                a file by the name of its class.
        """
        own = keras_internals.own_weight_count(self)
        if own and not store.keys():  # one that is not built has none
            raise ValueError(
                f"The file holds no weights for the {type(self).__name__} layer {self.name!r}. "
                "Keras files weights under the class of their layer: load the file into a model "
                "with the layers that it was saved with, and convert that, by "
                "keras_renorm.convert.to_batch_renormalization or another of keras_renorm.convert."
            )
        values = [store[str(i)] for i in range(len(store.keys()))]
        super().load_own_variables(
            {str(i): value for i, value in enumerate(without_renorm(values, own, own))}
        )

    def get_config(self) -> dict[str, Any]:
        """The arguments that differ from their defaults, so that other versions can load it.

        A subclass with a constructor of its own gives all arguments, because the constructor may
        hide their defaults.
        """
        # Keras's layer writes all its arguments.
        plain = super(keras.layers.BatchNormalization, self).get_config()
        return plain | configuration.own_arguments(self, self._arguments)

    def _normalized(
        self,
        given: Inputs,
        training: Any,
        train: Callable[..., Trained],
        inference_step: Callable[..., Tensor],
    ) -> Any:
        """Returns the output, and updates the moving statistics in training.

        Args:
            given: What `_prepared` returns.
            training: As in `call`.
            train: `ops.renorm.train`, or one of its kind.
            inference_step: `ops.inference_step`, or one of its kind.
        """
        relu = self.activation is keras.activations.relu
        used = self.statistics_in_use
        options = {"epsilon": self.epsilon, "axis": given.axis, "relu": relu}
        training = call_inputs.switch(training)
        later = keras.ops.is_tensor(training)
        # What is counted or collected within one of two branches could not leave it.
        idle = self._limits.no_update() if later else None
        statistics = self._moving_statistics() if later else None

        def outputs(training: bool | None, x: Tensor) -> tuple[Tensor, Tensor | None]:
            counts = given.mask is not None and (training or used == "batch_at_inference")
            mask = keras.ops.expand_dims(given.mask, -1) if counts else None
            learns = bool(training) and used == "batch"
            if learns or used == "batch_at_inference":
                y, updated = self._train(x, train, learns, mask=mask, **options)
                return y, idle if updated is None else updated
            vectors = *(statistics or self._moving_statistics()), self.gamma, self.beta
            return inference_step(x, *vectors, mask=mask, **options), idle

        if later:
            y, updated = call_inputs.decided(training, self, outputs, given.x)
        else:
            y, updated = outputs(training, given.x)
        # `__call__` casts the inputs before. `call` and `stateless_call` do not.
        y = keras.ops.cast(y, self.compute_dtype)
        y = given.restored(y if relu else self.activation(y))
        # Last: it may end the context of the call, which tells the activation of `training`.
        if updated is not None:
            self._limits.advance(updated, self)
        return y

    def _train(
        self,
        x: Tensor,
        train: Callable[..., Trained],
        learns: bool,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Returns the output by the minibatch's moments, and updates a layer that `learns`.

        The second value is which statistics moved, 1 or 0, for limits that count such calls.
        """
        limits = self._limits
        trained = train(
            x,
            self.moving_mean,
            self.moving_variance,
            self.gamma,
            self.beta,
            momentum=limits.momentum(self.momentum),
            by_stddev=self._by_stddev,
            synchronized=self.synchronized,
            **(limits.of_this_step(arguments.wide(x.dtype)) if learns else {}),
            **options,
        )
        updated = None
        if learns:
            moving = trained.moving()
            if limits.adapts:
                kept = self.moving_mean, self.moving_variance
                ghosts = [] if self.virtual_batch_size is None else [trained.moments()]
                average = {"momentum": self.momentum, "epsilon": self.epsilon}
                moving = limits.averaged(kept, self._initial_statistics, moving, *ghosts, **average)
            self.moving_mean.assign(moving.mean)
            self.moving_variance.assign(moving.variance)
            updated = limits.counted(moving.updated)
        return trained.y, updated

    def _initial_statistics(self) -> tuple[float | Tensor, float | Tensor]:
        """Mean and variance as the initializers made them, unless they draw each time anew."""
        mean, variance = self.moving_mean_initializer, self.moving_variance_initializer
        return self._initial(mean), self._initial(variance)

    def _initial(self, initializer: Any) -> float | Tensor:
        # A number spares programs that run operation by operation one in each call.
        known = _NUMBERS.get(type(initializer))
        like = self.moving_mean
        return initializer(like.shape, dtype=like.dtype) if known is None else known

    def _moving_statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and variance for inference: the means of the replicas' where one layer has several.

        Each process of PyTorch's has a layer of its own.
        """
        several = backends.current().number_of_replicas([self.moving_mean]) > 1
        replicas = ops.Replicas.running() if several and not self.synchronized else None
        if replicas is None:
            return self.moving_mean, self.moving_variance
        mean, variance = replicas.average(self.moving_mean, self.moving_variance)
        return mean, variance

    def _add_parameter(self, name: str, channels: int) -> Any:
        return self.add_weight(
            name=name,
            shape=(*self._parameter_rows, channels),
            initializer=getattr(self, f"{name}_initializer"),
            regularizer=getattr(self, f"{name}_regularizer"),
            constraint=getattr(self, f"{name}_constraint"),
            autocast=False,
        )

    def _add_statistic(self, name: str, shape: tuple[int, ...], **options: Any) -> Any:
        """Adds a weight that training updates without gradient: each replica updates its own.

        Outside the replicas one reads, and saves, their mean. Where they are synchronized they are
        equal, and one reads replica 0's. That keeps the bits, which the mean of 3 equal float32
        numbers need not, and needs no collective. `add_weight` knows no variables of each replica.
        """
        defaults: dict[str, Any] = {
            "initializer": getattr(self, f"{name}_initializer", None),
            # A float16 variance overflows beyond a deviation of 256; bfloat16 averages stall.
            "dtype": arguments.wide(self.variable_dtype),
            "aggregation": "only_first_replica" if self.synchronized else "mean",
        }
        return keras_internals.variable_of_each_replica(
            **(defaults | options),
            shape=(*self._statistic_rows, *shape),
            trainable=False,
            autocast=False,
            name=name,
        )
