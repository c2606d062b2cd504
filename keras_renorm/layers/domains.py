"""The domains of a layer: how many, what is kept by domain, and the ids of a call."""

import functools
import typing
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import keras
import numpy as np

from keras_renorm import callers
from keras_renorm.ops import arguments, backends, domains
from keras_renorm.ops.domains import Kind
from keras_renorm.ops.steps.step import Trained
from keras_renorm.typing import Tensor


class Domains:
    """The domains of a layer: their number, and the kinds of its statistics and parameters.

    Args:
        num_domains: This and all following arguments: as in `DomainBatchNormalization`.
        batch_statistics: "domain" or "shared".
        population_statistics: "domain" or "shared".
        affine: "domain" or "shared".
    """

    ARGUMENTS: ClassVar = ("num_domains", "batch_statistics", "population_statistics", "affine")

    def __init__(
        self, num_domains: int, batch_statistics: Kind, population_statistics: Kind, affine: Kind
    ) -> None:
        self.num_domains = arguments.integer("num_domains", num_domains, low=1)
        self.batch_statistics = _kind("batch_statistics", batch_statistics)
        self.population_statistics = _kind("population_statistics", population_statistics)
        self.affine = _kind("affine", affine)

    def describe(self, layer: Any) -> None:
        """Gives a layer the axes before its channels, and warns of kinds that do not match."""
        layer._parameter_rows = (self.num_domains,) if self.affine == "domain" else ()
        by_domain = self.population_statistics == "domain"
        layer._statistic_rows = (self.num_domains,) if by_domain else ()
        if self.batch_statistics != self.population_statistics:
            callers.warn(
                f"{type(layer).__name__} with batch_statistics={self.batch_statistics!r} and "
                f"population_statistics={self.population_statistics!r} breaks a rule: SGD and "
                "population statistics must be of the same kind (Wu & Johnson 2021, section 5), or "
                "inference normalises otherwise than training did. Set both to 'domain', or both "
                "to 'shared'."
            )

    def check_axis(self, axis: int, shape: Sequence[int | None]) -> None:
        """Raises if the channels lie on the examples' axis of inputs of this shape."""
        if arguments.axis(axis, len(shape)) == 0:
            raise ValueError(
                f"`axis` must not be 0, the axis of the examples, received axis={axis} for inputs "
                f"of shape {tuple(shape)}. Move the channels to another axis."
            )

    def steps(self, domain: int | Tensor) -> tuple[Callable[..., Trained], Callable[..., Tensor]]:
        """The steps of training and of inference, for what `ids` returns."""
        known: dict[str, Any] = {"domain": domain, "num_domains": self.num_domains}
        return (
            functools.partial(domains.train, batch_statistics=self.batch_statistics, **known),
            functools.partial(domains.inference_step, **known),
        )

    def ids(self, domain: Any, inputs: Any, name: str) -> Any:
        """`domain` as an int or a tensor of signed integers, checked as far as it is known."""
        if domain is None:
            raise ValueError(self._missing(name))
        if isinstance(domain, keras.KerasTensor):
            self._check_ids(domain.shape, domain.dtype, inputs.shape)
            return domain
        if not isinstance(domain, int | np.integer):
            domain = keras.ops.convert_to_tensor(arguments.numbers("domain", domain))
            self._check_ids(domain.shape, domain.dtype, inputs.shape)
            # Keras promotes uint64 and a signed type to a float.
            wanted = keras.backend.result_type(domain.dtype, "int32")
            domain = keras.ops.cast(domain, wanted if "int" in wanted else "int64")
        elif isinstance(domain, bool):
            self._check_ids((), "bool", inputs.shape)
        known = _known(domain)
        rule = (
            f"`domain` must hold ids in [0, {self.num_domains - 1}], for num_domains="
            f"{self.num_domains}; received"
        )
        if known is None:
            among = domains.among(domain, self.num_domains)
            return backends.current().required(domain, among, rule)
        wrong = [k for k in known if not 0 <= k < self.num_domains]
        if wrong:
            raise ValueError(f"{rule} {', '.join(map(str, wrong[:5]))}.")
        return domain if len(getattr(domain, "shape", ())) else known[0]

    def _check_ids(self, shape: Any, dtype: Any, inputs: Any) -> None:
        """Raises unless ids of this shape and dtype fit inputs of shape `inputs`."""
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

    def _missing(self, name: str) -> str:
        return (
            f"The layer {name!r} needs the domain of the examples: write `layer(inputs, "
            f"domain=ids)`, with ids in [0, {self.num_domains - 1}], an integer or one per example "
            "(shape (B,)). In a functional model make it an input: "
            "`ids = keras.Input((), dtype='int32')`. A Sequential model cannot hand it over; write "
            "a functional one."
        )


def without_ghosts(options: dict[str, Any]) -> dict[str, Any]:
    """The options of a layer with domains. Raises if they ask for ghost batches."""
    if options.get("virtual_batch_size") is not None:
        raise ValueError(
            "`virtual_batch_size` is not for layers with domains, received virtual_batch_size="
            f"{options['virtual_batch_size']!r}. Leave it out: the examples of each domain are "
            "the batches here."
        )
    return options


def _known(domain: Any) -> list[int] | None:
    """The ids, each once, or None for a tensor whose values are unknown while it is traced."""
    if isinstance(domain, int | np.integer):
        return [int(domain)]
    if backends.current().is_traced(domain):
        return None
    return [int(k) for k in np.unique(keras.ops.convert_to_numpy(domain))]


def _kind(name: str, value: Any) -> Kind:
    """`value`, if it is a kind of statistics."""
    if value not in typing.get_args(Kind):
        raise ValueError(f"`{name}` must be 'shared' or 'domain', received {name}={value!r}.")
    return typing.cast(Kind, value)
