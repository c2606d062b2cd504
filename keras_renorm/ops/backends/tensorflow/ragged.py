"""Ragged tensors: batches whose examples differ in length, without padding."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf


class RaggedRows:
    """See `keras_renorm.ops.backends.interface.Ragged`.

    Args:
        x: `[B, (T), ..., C, ...]`, with any number of ragged axes.
    """

    def __init__(self, x: tf.RaggedTensor) -> None:
        self._x = x

    @property
    def values(self) -> tf.Tensor:
        """The values of all examples together."""
        return self._x.flat_values

    def values_of(self, mask: Any) -> tf.Tensor:
        """A mask with a truth value for each of the values.

        Raises:
            TypeError: The mask is not ragged.
        """
        if not isinstance(mask, tf.RaggedTensor):
            raise TypeError(
                "The `mask` of ragged inputs must be ragged, too, with the rows of the inputs, "
                f"received a {type(mask).__name__} of shape {tuple(mask.shape)}. Write "
                "`tf.RaggedTensor.from_tensor(mask, lengths=inputs.nested_row_lengths())`."
            )
        return mask.flat_values

    def by_value(self, each: tf.Tensor) -> tf.Tensor:
        """A value per example, `[B]`, repeated for each of its values."""
        rows = self._x
        while rows.ragged_rank > 1:
            rows = rows.merge_dims(1, 2)
        return tf.gather(each, rows.value_rowids())

    def restored(self, values: tf.Tensor) -> tf.RaggedTensor:
        """Other values in the same rows."""
        return self._x.with_flat_values(values)

    def joined(self, others: Sequence[Any]) -> tf.RaggedTensor:
        """The examples of this batch and of `others`, one after the other.

        Raises:
            ValueError: The batches do not fit together.
        """
        try:
            return tf.concat([self._x, *others], 0)
        except (tf.errors.InvalidArgumentError, TypeError) as error:
            raise ValueError(str(error)) from error
