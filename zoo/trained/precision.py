"""Models that trained in half precision, for others that compute in float32."""

from typing import Any

import keras

from keras_renorm import keras_internals

#: Keras's names of the policies by which layers compute in half precision.
_HALVES = ("mixed_float16", "mixed_bfloat16", "float16", "bfloat16")


def in_float32(model: keras.Model) -> keras.Model:
    """Returns a model whose layers all compute in float32: a copy, or the model if they do so.

    LiteRT has no convolutions in half precision, and a processor often computes in it slowly.

    Args:
        model: The model, which stays as it is.
    """
    layers = keras_internals.flattened(model)
    if all(layer.dtype_policy.name not in _HALVES for layer in layers):
        return model
    described = _in_float32(keras.saving.serialize_keras_object(model))
    copy = keras.saving.deserialize_keras_object(described)
    copy.set_weights(model.get_weights())
    return copy


def _in_float32(described: Any) -> Any:
    """What Keras describes a layer by, with other policies."""
    if isinstance(described, dict):
        changed = {name: _in_float32(value) for name, value in described.items()}
        if changed.get("dtype") in _HALVES:
            changed["dtype"] = "float32"
        if changed.get("class_name") == "DTypePolicy" and changed["config"]["name"] in _HALVES:
            changed["config"] = {"name": "float32"}
        return changed
    if isinstance(described, list | tuple):
        return type(described)(map(_in_float32, described))
    return described
