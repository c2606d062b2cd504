"""The batch norms of a model, and the weights that are their population statistics."""

from collections.abc import Collection, Mapping
from typing import Any, TypeAlias

import keras
import numpy as np

from keras_renorm.layers import BatchNormalization
from keras_renorm.ops import arguments

#: The layers that have population statistics: ours with their subclasses, and Keras's.
NORMS = (BatchNormalization, keras.layers.BatchNormalization)

#: Mean and variance of each channel, float64 `[C]`; of a layer with domains `[D, C]`.
MeanVariance: TypeAlias = tuple[np.ndarray, np.ndarray]

# Keras's layer with renorm=True keeps the last three on top.
_STATISTICS = ("moving_mean", "moving_variance", "moving_stddev", "renorm_mean", "renorm_stddev")


def find(model: keras.layers.Layer, chosen: Collection[Any] | None = None) -> list[Any]:
    """The batch norms in `model`, also in models and layers inside it, each one once.

    Args:
        model: A model, or any layer.
        chosen: Those of them to take; by default all.

    Raises:
        TypeError: If `model` is not a layer, or `chosen` no list.
        ValueError: If there is none, `chosen` is empty, or one of it is not among them.
    """
    if not isinstance(model, keras.layers.Layer):
        raise TypeError(
            f"`model` must be a Keras model or layer, received {model!r} of type "
            f"{type(model).__name__}."
        )
    found = [layer for layer in model._flatten_layers() if isinstance(layer, NORMS)]
    if not found:
        raise ValueError(
            f"The model {model.name!r} holds no batch norm: no layer of keras_renorm.layers."
            "BatchNormalization, BatchRenormalization or keras.layers.BatchNormalization."
        )
    if chosen is None:
        return found
    if isinstance(chosen, str) or not isinstance(chosen, Collection):
        raise TypeError(
            f"`layers` must be a list of batch norms, received {chosen!r} of type "
            f"{type(chosen).__name__}. Of one layer write layers=[layer]."
        )
    if not chosen:
        raise ValueError(
            f"`layers` must hold at least one batch norm of the model {model.name!r}, or be None "
            f"for all; received {chosen!r}. It has {[one.name for one in found]}."
        )
    for layer in chosen:
        if not any(layer is one for one in found):
            raise ValueError(
                f"`layers` must be batch norms of the model {model.name!r}, received "
                f"{getattr(layer, 'name', layer)!r}. It has {[one.name for one in found]}."
            )
    return [one for one in found if any(one is layer for layer in chosen)]


def require_weights(layer: Any) -> None:
    """Raises unless `layer` has its weights."""
    if not layer.built:
        raise ValueError(
            f"The batch norm {layer.name!r} has no weights yet. Call the model once, e.g. "
            "`model(x[:1])`, or load its weights."
        )


def variables(layer: Any) -> dict[str, Any]:
    """The weights of `layer` that are population statistics, by name."""
    present = {name: getattr(layer, name, None) for name in _STATISTICS}
    return {name: variable for name, variable in present.items() if variable is not None}


def dtype(variable: Any) -> str:
    """What a weight is read and given as: float64 if it is that, else float32."""
    # JAX may hold a weight in float32 whose `dtype` is float64.
    return arguments.wide(variable.value.dtype)


def read(layer: Any) -> MeanVariance:
    """The moving mean and variance of `layer`; where replicas differ, the mean over them."""
    mean, variance = (
        keras.ops.convert_to_numpy(keras.ops.cast(variable, dtype(variable))).astype("float64")
        for variable in (layer.moving_mean, layer.moving_variance)
    )
    return mean, variance


def values(layer: Any, statistics: MeanVariance) -> dict[str, np.ndarray]:
    """What the weights of `variables` are for a mean and a variance, by name.

    The deviations of Keras's `renorm=True` contain epsilon, as its update of them does.
    """
    mean, variance = statistics
    stddev = np.sqrt(variance + layer.epsilon)
    all_values = {
        "moving_mean": mean,
        "moving_variance": variance,
        "moving_stddev": stddev,
        "renorm_mean": mean,
        "renorm_stddev": stddev,
    }
    return {name: all_values[name] for name in variables(layer)}


def write(layer: Any, arrays: Mapping[str, np.ndarray]) -> None:
    """Assigns the weights of `variables`, by name; on every replica the same."""
    for name, variable in variables(layer).items():
        variable.assign(arrays[name])
