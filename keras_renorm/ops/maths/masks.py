"""Positions that do not count."""

from collections.abc import Callable

import keras

from keras_renorm.typing import Tensor


def select(mask: Tensor | None, x: Tensor) -> Tensor:
    """`x` where `mask` is True and 0 elsewhere, even where `x` is NaN."""
    return x if mask is None else keras.ops.where(mask, x, keras.ops.zeros_like(x))


def without_masked_gradients(
    mask: Tensor | None, output: Callable[[Tensor], Tensor], x: Tensor
) -> Tensor:
    """`output(x)`, whose masked positions add nothing to a gradient, not even 0 * NaN."""
    if mask is None:
        return output(x)
    masked = keras.ops.stop_gradient(output(x))
    return keras.ops.where(mask, output(select(mask, x)), masked)
