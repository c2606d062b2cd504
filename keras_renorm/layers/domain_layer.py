"""What layers with domains have in common."""

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
    """The constructor and the calls, which stand before those of a batch norm."""

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

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates the weights of the batch norm, in its order; the channels are not on axis 0."""
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
        # Keras hands a mask over itself only where there is no other tensor.
        mask = attached_mask(inputs) if mask is None else mask
        inputs, mask = self._prepared(inputs, mask)
        steps = self._domains.steps(domain, inputs, self.name)
        return self._normalized(inputs, mask, training, *steps)

    def compute_output_spec(
        self,
        inputs: Any,
        training: bool | None = None,
        mask: Any = None,
        domain: Any = None,
    ) -> keras.KerasTensor:
        """Shape and dtype of the output for symbolic inputs, which are checked as in a call."""
        self._domains.ids(domain, inputs, self.name)
        return super().compute_output_spec(inputs, training, mask)
