"""The counterparts of batch norms among Keras's layers and ours, and how their weights move."""

import inspect
from typing import Any, TypeAlias

import keras
import numpy as np

from keras_renorm import keras_internals
from keras_renorm.convert.configurations import config_of
from keras_renorm.layers import (
    BatchNormalization,
    BatchRenormalization,
    DomainBatchNormalization,
    DomainBatchRenormalization,
)
from keras_renorm.models import LIMIT_STATES, is_batch_norm, is_linear
from keras_renorm.statistics import is_frozen
from keras_renorm.typing import Layer

KerasBatchNormalization: TypeAlias = keras.layers.BatchNormalization

# Each of our layers, and the layer like it with r and d.
RENORM_OF: dict[Any, Any] = {
    BatchNormalization: BatchRenormalization,
    DomainBatchNormalization: DomainBatchRenormalization,
}
PLAIN_OF = {renorm: plain for plain, renorm in RENORM_OF.items()}

_WEIGHTS = ("gamma", "beta", "moving_mean", "moving_variance")


def is_one_affine(layer: Any) -> bool:
    """Whether a layer's inference is one affine map: a batch norm without domains, no subclass."""
    return type(layer) in (KerasBatchNormalization, BatchNormalization, BatchRenormalization)


def as_keras(layer: Layer) -> Layer | None:
    """Keras's counterpart of one of our batch norms; None for another layer."""
    if type(layer) not in (BatchNormalization, BatchRenormalization):
        return None
    known = {*inspect.signature(KerasBatchNormalization).parameters, "name", "dtype", "trainable"}
    if is_linear(layer.activation):  # otherwise the activation that follows has the regularizer
        known.add("activity_regularizer")
    config = {key: value for key, value in config_of(layer).items() if key in known}
    if not keras_internals.keras_synchronizes():
        # Keras takes it under TensorFlow only. JAX's global arrays have global moments anyway.
        config.pop("synchronized", None)
    return KerasBatchNormalization.from_config(config)


def activation_after(layer: Layer) -> Layer | None:
    """The activation of one of our batch norms as a layer, or None if there is none.

    An activation that is a layer comes back itself: copy it.
    """
    if not isinstance(layer, BatchNormalization) or is_linear(layer.activation):
        return None
    if isinstance(layer.activation, keras.layers.Layer):
        return layer.activation
    return keras.layers.Activation(
        layer.activation,
        activity_regularizer=layer.activity_regularizer,
        name=f"{layer.name}_activation",
        dtype=layer.dtype_policy,
    )


def hand_over_norm(old: Layer, new: Layer) -> None:
    """Gives a batch norm the weights of another, and their `trainable` flags.

    The weights keep every bit. Only the moving statistics may change type: Keras's layer keeps them
    in its variables' type, ours in float32 or wider.

    Raises:
        ValueError: If moving statistics are too large for their type in `new`.
    """
    for name in _WEIGHTS:
        variable = getattr(new, name)
        if variable is not None:
            value = keras.ops.convert_to_numpy(getattr(old, name))
            with np.errstate(over="ignore"):
                variable.assign(value)
            _check_range(old, name, value, variable)
            # `statistics.freeze` sets `trainable` on gamma and beta alone.
            variable.trainable = getattr(old, name).trainable and new.trainable
    if isinstance(new, BatchRenormalization):
        new.trust_statistics()
    for name in LIMIT_STATES:
        before, after = (getattr(layer, name, None) for layer in (old, new))
        if before is not None and after is not None:
            after.assign(keras.ops.convert_to_numpy(before))


def _check_range(layer: Layer, name: str, value: Any, variable: Any) -> None:
    """Raises if a finite number of `value` became infinite in a variable."""
    if variable.dtype not in ("float16", "bfloat16"):
        return
    assigned = keras.ops.convert_to_numpy(keras.ops.cast(variable, "float32"))
    lost = value[np.isfinite(value) & ~np.isfinite(assigned)]
    if lost.size:
        raise ValueError(
            f"The {type(layer).__name__} {layer.path or layer.name!r} has {lost[0]:g} in its "
            f"{name}, which is too large for the new layer's {variable.dtype} variables. Build the "
            f"model with the dtype policy mixed_{variable.dtype}, whose variables are float32."
        )


def normalizations(model: keras.Model) -> list[Layer]:
    """The layers of a model that normalise, by class or class name, each once."""
    return [
        layer
        for layer in keras_internals.flattened(model)
        if is_batch_norm(layer) or type(layer).__name__.endswith("Normalization")
    ]


def as_ours(layer: Layer) -> Layer | None:
    """Our counterpart of one of Keras's batch norms; None for any other layer."""
    if type(layer) is not KerasBatchNormalization:
        return None
    config = without(config_of(layer), "renorm", "renorm_clipping", "renorm_momentum")
    if is_frozen(layer):
        config["frozen_statistics"] = True
    if not keras_internals.renormalizes(layer):
        return BatchNormalization.from_config(config)
    config["renorm_clipping"] = dict(layer.renorm_clipping or {})
    return BatchRenormalization.from_config(config)


def without(config: dict[str, Any], *keys: str) -> dict[str, Any]:
    """A configuration without some of its keys."""
    return {key: value for key, value in config.items() if key not in keys}
