"""The weights of a batch norm that are its population statistics."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import keras
import numpy as np

from keras_renorm.layers import BatchRenormalization
from keras_renorm.ops import arguments

#: Mean and variance of each channel, float64 `[C]`; for a layer with domains `[D, C]`.
MeanVariance: TypeAlias = tuple[np.ndarray, np.ndarray]

# Keras's layer with renorm=True keeps the last three on top.
_STATISTICS = ("moving_mean", "moving_variance", "moving_stddev", "renorm_mean", "renorm_stddev")


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
    """The type in which a weight is read and given: float64 for float64, else float32."""
    # JAX may hold a weight in float32 whose `dtype` is float64.
    return arguments.wide(variable.value.dtype)


def read(layer: Any) -> MeanVariance:
    """The moving mean and variance of `layer`; where replicas differ, the mean over them."""
    mean, variance = (
        keras.ops.convert_to_numpy(keras.ops.cast(variable, dtype(variable))).astype("float64")
        for variable in (layer.moving_mean, layer.moving_variance)
    )
    return mean, variance


def is_initial(layer: Any) -> bool:
    """Whether the moving mean and variance are exactly the default initial ones, 0 and 1."""
    mean, variance = map(keras.ops.convert_to_numpy, (layer.moving_mean, layer.moving_variance))
    return bool(np.all(mean == 0) and np.all(variance == 1))


def values(layer: Any, statistics: MeanVariance) -> dict[str, np.ndarray]:
    """The values of the weights in `variables` for a mean and a variance, by name.

    The deviations of Keras's `renorm=True` contain epsilon, as Keras's update of them does.
    """
    mean, variance = statistics
    kinds = {"mean": mean, "variance": variance, "stddev": np.sqrt(variance + layer.epsilon)}
    return {name: kinds[name.partition("_")[2]] for name in variables(layer)}


def write(layer: Any, arrays: Mapping[str, np.ndarray]) -> None:
    """Assigns the weights in `variables`, by name; every replica gets the same.

    Adaptive limits begin again, because they have seen other statistics. Without that, the next
    minibatches would soon replace statistics that the limits do not trust.
    """
    for name, variable in variables(layer).items():
        variable.assign(arrays[name])
    if isinstance(layer, BatchRenormalization):
        layer.trust_statistics()
