"""The common part of layers with domains."""

from typing import TYPE_CHECKING, Any

import keras

from keras_renorm.keras_internals import attached_mask
from keras_renorm.layers.batch_normalization import BatchNormalization
from keras_renorm.layers.domains import Domains, without_ghosts
from keras_renorm.ops.domains import Kind
from keras_renorm.typing import Tensor

if TYPE_CHECKING:
    _Beside = BatchNormalization
else:
    _Beside = object


class DomainLayer(_Beside):
    """A mixin in front of a batch norm: adds arguments, their checks and `domain` to its calls."""

    _arguments = (*BatchNormalization._arguments, *Domains.ARGUMENTS)

    def __init__(
        self,
        num_domains: int,
        *,
        batch_statistics: Kind = "domain",
        population_statistics: Kind = "domain",
        affine: Kind = "shared",
        **kwargs: Any,
    ) -> None:
        super().__init__(**without_ghosts(kwargs))
        self._domains = Domains(num_domains, batch_statistics, population_statistics, affine)
        self._domains.describe(self)

    @property
    def num_domains(self) -> int:
        """Number of domains."""
        return self._domains.num_domains

    @property
    def batch_statistics(self) -> Kind:
        """Whose moments an example is normalised with in training."""
        return self._domains.batch_statistics

    @property
    def population_statistics(self) -> Kind:
        """Whether `moving_mean` and `moving_variance` have a row for each domain."""
        return self._domains.population_statistics

    @property
    def affine(self) -> Kind:
        """Whether gamma and beta have a row for each domain."""
        return self._domains.affine

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates gamma, beta, moving_mean and moving_variance, in that order.

        Args:
            input_shape: The inputs' shape.

        Raises:
            ValueError: If the inputs have no axis `axis`, its size is unknown, or it is axis 0.
        """
        self._domains.check_axis(self.axis, input_shape)
        super().build(input_shape)

    def call(
        self,
        inputs: Tensor,
        training: bool | None = None,
        mask: Tensor | None = None,
        domain: Any = None,
    ) -> Any:
        """Normalises `inputs`; see the class."""
        # Keras hands an attached mask over only where there is no other tensor.
        mask = attached_mask(inputs) if mask is None else mask
        given = self._prepared(inputs, mask)
        domain = given.by_value(self._domains.ids(domain, inputs, self.name))
        return self._normalized(given, training, *self._domains.steps(domain))

    def compute_output_spec(
        self,
        inputs: Any,
        training: bool | None = None,
        mask: Any = None,
        domain: Any = None,
    ) -> keras.KerasTensor:
        """Checks symbolic inputs as a call does; returns the output's shape and dtype."""
        self._domains.ids(domain, inputs, self.name)
        return super().compute_output_spec(inputs, training, mask)
