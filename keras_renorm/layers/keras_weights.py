"""The weights of Keras's batch norm with `renorm=True`, as far as our layers have them."""

from typing import Any

import numpy as np

_OF_RENORM = 3  # moving_stddev, renorm_mean and renorm_stddev, like the moving mean


def without_renorm(values: list[Any], vectors: int, expected: int | None = None) -> list[Any]:
    """Weights without those that Keras's layer has beyond gamma to moving_variance.

    What is left are the statistics of inference, as `convert.from_keras` takes them.

    Args:
        values: Arrays; those of Keras's layer begin with `vectors` of one shape.
        vectors: How many of gamma, beta, moving_mean and moving_variance there are.
        expected: How many weights the layer has, if any other number is to stay as it is.
    """
    shapes = [np.shape(value) for value in values]
    end = vectors + _OF_RENORM
    if expected not in (None, len(values) - _OF_RENORM):
        return values
    if not vectors or shapes[:end] != [shapes[0]] * end:
        return values
    return [*values[:vectors], *values[end:]]
