"""Batch Normalization for minibatches of several domains."""

import typing
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_renorm.layers.batch_normalization import BatchNormalization, of_positions
from keras_renorm.layers.masks import attached_mask
from keras_renorm.ops import arguments, backends, domains
from keras_renorm.ops.domains import Kind
from keras_renorm.typing import Tensor


@keras.saving.register_keras_serializable("keras_renorm")
class DomainBatchNormalization(BatchNormalization):
    """Normalises each example with the moments of its own domain.

    ```
    training:   y_i = gamma * (x_i - mu_B[k]) / sqrt(var_B[k] + epsilon) + beta        k = domain_i
                moving_mean[k]     += (1 - momentum) * (mu_B[k] - moving_mean[k])
                moving_variance[k] += (1 - momentum) * (var_B[k] - moving_variance[k])
    inference:  y_i = gamma * (x_i - moving_mean[k]) / sqrt(moving_variance[k] + epsilon) + beta
    ```

    with mu_B[k] and var_B[k] the moments of the minibatch's examples of domain k. For a net that
    sees data of several kinds: the levels of a feature pyramid, real and synthetic images, clean
    and adversarial ones, source and target.

    Three things can be kept by domain or shared, the two kinds of statistics and gamma and beta.
    The paper's table, detection with one head on five feature levels, in AP:

    | batch statistics | population statistics | affine | |
    |---|---|---|---|
    | shared | shared | shared | 39.1 |
    | shared | domain | shared | 2.1 |
    | domain | shared | shared | 34.1 |
    | domain | domain | shared | 39.1, the default |
    | domain | shared | domain | 35.5 |
    | domain | domain | domain | 39.2 |

    Both kinds of statistics must be of one kind, or the net sees in inference what it was not
    trained on; where they are not, the constructor warns. A gamma and beta per domain gain 0.1 for
    D times the parameters, so they are shared by default.

    A domain that is absent from the minibatch keeps its statistics. What `BatchNormalization` says
    of masks, types, precision and replicas holds here, too. On replicas that are not synchronized
    each keeps its own statistics, and the mean is read: where a domain reaches only some of them,
    the others' rows of it are as they were.

    Args:
        num_domains: Number of domains D, at least 1.
        batch_statistics: "domain": an example is normalised in training with the moments of its
            domain's examples in the minibatch; "shared": with those of the whole minibatch.
        population_statistics: "domain": `moving_mean` and `moving_variance` are `[D, C]`, and row k
            follows the moments of domain k's examples, also where the batch statistics are shared;
            "shared": they are `[C]` and follow the moments that were used, of several domains' the
            mean, weighted by their numbers of positions.
        affine: "domain": gamma and beta are `[D, C]`; "shared": they are `[C]`.
        **kwargs: The arguments of `BatchNormalization`. `axis` may not be that of the examples, 0.

    Call arguments:
        inputs: Floating-point tensor `[B, ..., C, ...]` of rank 2 or more.
        training: Whether to use and to update with the moments of the minibatch.
        mask: Optional boolean tensor with the inputs' shape but for the last dimension.
        domain: Ids in [0, D): an integer or integer scalar for all examples, or an integer tensor
            `[B]` with one for each. In a functional model an input,
            `keras.Input((), dtype="int32")`; a Sequential model cannot hand it over. With one id
            the layer costs what `BatchNormalization` does, with one per example in training D times
            as much. An id out of range is refused where its value is known, in eager calls; in
            graphs the output of such an example is NaN, and it changes no statistic.

    Returns:
        Tensor of the inputs' shape in the layer's compute dtype.

    Raises:
        TypeError: If an argument has the wrong type, or `domain` does not hold integers.
        ValueError: If an argument is out of range or missing or does not fit the inputs.

    Example:
        >>> layer = keras_renorm.layers.DomainBatchNormalization(2)
        >>> x = np.random.normal(size=(8, 4)) + np.repeat([[0.0], [100.0]], 4, axis=0)
        >>> y = layer(x, domain=np.repeat([0, 1], 4), training=True)  # mean 0 in either half

    Source: Wu & Johnson 2021, section 5 and table 5.
    """

    def __init__(
        self,
        num_domains: int,
        *,
        batch_statistics: Kind = "domain",
        population_statistics: Kind = "domain",
        affine: Kind = "shared",
        **kwargs: Any,
    ) -> None:
        if kwargs.get("virtual_batch_size") is not None:
            raise ValueError(
                "`virtual_batch_size` is not for layers with domains, received virtual_batch_size="
                f"{kwargs['virtual_batch_size']!r}. Leave it out: the examples of each domain are "
                "the batches here."
            )
        super().__init__(**kwargs)
        self.num_domains = _count(num_domains)
        self.batch_statistics = _kind("batch_statistics", batch_statistics)
        self.population_statistics = _kind("population_statistics", population_statistics)
        self.affine = _kind("affine", affine)
        if self.batch_statistics != self.population_statistics:
            warnings.warn(
                f"{type(self).__name__} with batch_statistics={batch_statistics!r} and "
                f"population_statistics={population_statistics!r} breaks a rule: SGD and "
                "population statistics must be of the same kind (Wu & Johnson 2021, section 5), or "
                "inference normalises otherwise than training did. Set both to 'domain', or both "
                "to 'shared'.",
                stacklevel=2,
            )

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates gamma, beta, moving_mean and moving_variance, in that order.

        Args:
            input_shape: The inputs' shape.

        Raises:
            ValueError: If the inputs have no axis `axis`, it is the examples' own, or its size is
                not known.
        """
        if arguments.axis(self.axis, len(input_shape)) == 0:
            raise ValueError(
                f"`axis` must not be that of the examples, 0, received axis={self.axis} for inputs "
                f"of shape {tuple(input_shape)}: a domain is one of examples, not of channels."
            )
        super().build(input_shape)

    def call(
        self,
        inputs: Tensor,
        training: bool | None = None,
        mask: Tensor | None = None,
        domain: Any = None,
    ) -> Any:
        """Normalises `inputs`; see the class."""
        if mask is None:  # Keras hands a mask over itself only where there is no other tensor.
            mask = attached_mask(inputs)
        inputs = self._with_known_channels(keras.ops.convert_to_tensor(inputs))
        if mask is not None:
            mask = keras.ops.convert_to_tensor(mask)
        self._check_call(inputs, mask)
        domain = self._ids(domain, inputs)
        if self._uses_minibatch(training):
            return self._normalize_domains(inputs, mask, domain)
        outputs = domains.normalize(
            inputs,
            domain,
            domains.Parameters(*self._moving_statistics(), self.gamma, self.beta),
            num_domains=self.num_domains,
            epsilon=self.epsilon,
            axis=self.axis,
            mask=of_positions(mask) if training else None,
        )
        return self.activation(outputs)

    def compute_output_spec(
        self,
        inputs: Any,
        training: bool | None = None,
        mask: Any = None,
        domain: Any = None,
    ) -> keras.KerasTensor:
        """Shape and dtype of the output for symbolic inputs, which are checked as in a call."""
        if isinstance(domain, keras.KerasTensor):
            self._check_ids(domain.shape, domain.dtype, inputs.shape)
        else:
            self._ids(domain, inputs)
        return super().compute_output_spec(inputs, training, mask)

    def _normalize_domains(self, inputs: Tensor, mask: Tensor | None, domain: Any) -> Tensor:
        """The training output; updates the moving statistics."""
        relu = self.activation is keras.activations.relu
        statistics = self.moving_mean, self.moving_variance
        outputs, batch = domains.batch_renormalization(
            inputs,
            domain,
            domains.Parameters(*statistics, self.gamma, self.beta, **self._limits()),
            num_domains=self.num_domains,
            batch_statistics=self.batch_statistics,
            epsilon=self.epsilon,
            axis=self.axis,
            mask=of_positions(mask),
            relu=relu,
            synchronized=self.synchronized,
        )
        self._update(batch)
        return outputs if relu else self.activation(outputs)

    def _ids(self, domain: Any, inputs: Any) -> Any:
        """`domain` as an int or a tensor of a signed integer type, checked as far as known."""
        if domain is None:
            raise ValueError(self._missing())
        if not isinstance(domain, int | np.integer):
            domain = keras.ops.convert_to_tensor(domain)
            self._check_ids(domain.shape, domain.dtype, inputs.shape)
            # Of uint64 and a signed type Keras makes a float.
            wanted = keras.backend.result_type(domain.dtype, "int32")
            domain = keras.ops.cast(domain, wanted if "int" in wanted else "int64")
        elif isinstance(domain, bool):
            self._check_ids((), "bool", inputs.shape)
        known = _known(domain)
        if known is None:
            return domain
        wrong = [k for k in known if not 0 <= k < self.num_domains]
        if wrong:
            raise ValueError(
                f"`domain` must hold ids in [0, {self.num_domains - 1}], for num_domains="
                f"{self.num_domains}; received {', '.join(map(str, wrong[:5]))}."
            )
        return domain if len(getattr(domain, "shape", ())) else known[0]

    def _check_ids(self, shape: Any, dtype: Any, inputs: Any) -> None:
        """Raises unless ids of this shape and dtype fit inputs of a shape."""
        dtype = keras.backend.standardize_dtype(dtype)
        if "int" not in dtype:
            raise TypeError(
                f"`domain` must hold integers, received dtype {dtype}. In a functional model "
                "write keras.Input((), dtype='int32')."
            )
        shape = tuple(shape)
        if len(shape) > 1 or (shape and None not in (shape[0], inputs[0]) and shape != inputs[:1]):
            raise ValueError(
                "`domain` must be one id, or one id per example, of shape "
                f"({inputs[0]},); received shape {shape} for inputs of shape {tuple(inputs)}. In "
                "a functional model write keras.Input((), dtype='int32'), with no 1 in it."
            )

    def _missing(self) -> str:
        return (
            f"The layer {self.name!r} needs the domain of the examples: write `layer(inputs, "
            f"domain=ids)`, with ids in [0, {self.num_domains - 1}], an integer or one per example "
            "(shape (B,)). In a functional model make it an input: "
            "`ids = keras.Input((), dtype='int32')`. A Sequential model cannot hand it over; write "
            "a functional one."
        )

    def _with_known_channels(self, inputs: Tensor) -> Tensor:
        """`inputs` with the number of channels in its static shape, where a graph lost it."""
        axis = arguments.axis(self.axis, len(inputs.shape))
        if inputs.shape[axis] is not None:
            return inputs
        shape = list(keras.ops.shape(inputs))
        shape[axis] = self.moving_mean.shape[-1]
        return keras.ops.reshape(inputs, shape)

    def _add_parameter(self, name: str, shape: tuple[int | None]) -> Any:
        rows = (self.num_domains,) if self.affine == "domain" else ()
        return super()._add_parameter(name, (*rows, *shape))

    def _add_statistic(self, name: str, shape: tuple[int | None, ...], **options: Any) -> Any:
        rows = (self.num_domains,) if self.population_statistics == "domain" else ()
        return super()._add_statistic(name, (*rows, *shape), **options)

    def _serializers(self) -> dict[str, Callable[[Any], Any]]:
        plain = ("num_domains", "batch_statistics", "population_statistics", "affine")
        return super()._serializers() | dict.fromkeys(plain, lambda value: value)


def _known(domain: Any) -> list[int] | None:
    """The ids, each once, or None for a tensor of a graph or of a function that is being traced."""
    if isinstance(domain, int | np.integer):
        return [int(domain)]
    backend = keras.backend.backend()
    if backend == "tensorflow" and not hasattr(domain, "numpy"):
        return None
    if backend == "jax":
        import jax

        if isinstance(domain, jax.core.Tracer):
            return None
    if backend == "torch" and backends.current().is_traced(domain):
        return None
    return [int(k) for k in np.unique(keras.ops.convert_to_numpy(domain))]


def _count(value: Any) -> int:
    """`num_domains` as an int, if it is an integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(
            f"`num_domains` must be an integer, received {value!r} of type {type(value).__name__}."
        )
    return int(arguments.real("num_domains", value, low=1))


def _kind(name: str, value: Any) -> Kind:
    """`value`, if it is a kind of statistics."""
    if value not in typing.get_args(Kind):
        raise ValueError(f"`{name}` must be 'shared' or 'domain', received {name}={value!r}.")
    return typing.cast(Kind, value)
