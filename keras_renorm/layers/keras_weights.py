"""Our layers take the weights of Keras's batch norms, in files and with `renorm=True`."""

from typing import Any

import numpy as np

from keras_renorm.keras_internals import beside, loaded_with

_OF_RENORM = 3  # moving_stddev, renorm_mean and renorm_stddev, in the moving mean's shape


def without_renorm(values: list[Any], vectors: int, expected: int | None = None) -> list[Any]:
    """Weights without the three vectors that `renorm=True` adds after moving_variance.

    The statistics of inference remain, as in `convert.from_keras`.

    Args:
        values: Arrays. Those of Keras's layer begin with `vectors` arrays of one shape.
        vectors: How many of gamma, beta, moving_mean and moving_variance there are.
        expected: How many weights our layer has. Values of another number than three more stay as
            they are. None accepts any number.
    """
    shapes = [np.shape(value) for value in values]
    end = vectors + _OF_RENORM
    if expected not in (None, len(values) - _OF_RENORM):
        return values
    if not vectors or shapes[:end] != [shapes[0]] * end:
        return values
    return [*values[:vectors], *values[end:]]


def of_norm_in_its_place(layer: Any, store: Any) -> list[Any]:
    """The weights of the batch norm that a file has in the place of a Batch Renormalization.

    Args:
        layer: The Batch Renormalization.
        store: What `load_own_variables` gets, without weights for the layer.

    Returns:
        The weights, or an empty list if the file has no such norm.

    Raises:
        ValueError: If a batch norm comes after the layer in its list of layers. Keras, which counts
            the layers of each class, would load another norm's weights into that batch norm.
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
            "into a model with its batch norms, and copy the weights: "
            "`model.set_weights(other_model.get_weights())`."
        )
    return found


def _plain_name(layer: Any) -> str:
    """The name of a layer's class, with the batch norm's in place of the renorm's."""
    return type(layer).__name__.replace("Renormalization", "Normalization")
