"""The weights of Keras's batch norms in files and with `renorm=True`, for our layers."""

from typing import Any

import numpy as np

from keras_renorm.keras_internals import beside, loaded_with

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


def of_norm_in_its_place(layer: Any, store: Any) -> list[Any]:
    """The weights in a file of the batch norm in the place of a Batch Renormalization.

    Args:
        layer: The layer.
        store: What its `load_own_variables` gets, which holds nothing for it.

    Returns:
        The weights; none if there is no such norm.

    Raises:
        ValueError: If a batch norm comes after it in its list of layers, for which Keras takes the
            weights of another: it counts only those of a class.
    """
    alike = [one for one in loaded_with(layer) if _plain_name(one) == _plain_name(layer)]
    staying = [one for one in alike if type(one).__name__ != type(layer).__name__]
    wrong = [one.name for one, right in zip(staying, alike, strict=False) if one is not right]
    number = next((i for i, one in enumerate(alike) if one is layer), None)
    found = beside(store, layer.name, "renormalization", "normalization", number)
    if found and wrong:
        raise ValueError(
            f"The file holds batch norms where the model has the {type(layer).__name__} layer "
            f"{layer.name!r} and others of its kind. Keras numbers the norms of a file by their "
            f"class, and so takes the weights of other norms for {', '.join(wrong)}. Load the file "
            "into the model that it is of, and hand the weights over: "
            "`model.set_weights(other_model.get_weights())`."
        )
    return found


def _plain_name(layer: Any) -> str:
    """The name of a layer's class, or of the batch norm without r and d."""
    return type(layer).__name__.replace("Renormalization", "Normalization")
