"""The layers in a model: all with their names, and the batch norms and kernels among them."""

import collections
from collections.abc import Collection, Iterator
from typing import Any

import keras
import numpy as np

from keras_renorm import keras_internals

# For each layer: how many weights come before its kernel, and which of its axes are the outputs.
# A depthwise kernel ends in (channels, multiplier), which together are the output channels.
KERNELS: dict[type, tuple[int, tuple[int, ...]]] = {
    keras.layers.Dense: (0, (-1,)),
    keras.layers.Conv1D: (0, (-1,)),
    keras.layers.Conv2D: (0, (-1,)),
    keras.layers.Conv3D: (0, (-1,)),
    keras.layers.Conv1DTranspose: (0, (-2,)),
    keras.layers.Conv2DTranspose: (0, (-2,)),
    keras.layers.Conv3DTranspose: (0, (-2,)),
    keras.layers.DepthwiseConv1D: (0, (-2, -1)),
    keras.layers.DepthwiseConv2D: (0, (-2, -1)),
    keras.layers.SeparableConv1D: (1, (-1,)),
    keras.layers.SeparableConv2D: (1, (-1,)),
}

# The variables of a norm that its limits depend on: its calls in training, and what it has seen.
LIMIT_STATES = ("update_count", "deviations", "seen")


def is_batch_norm(layer: Any) -> bool:
    """Whether a layer has population statistics: ours or Keras's batch norm, or a subclass."""
    return isinstance(layer, keras.layers.BatchNormalization)


def is_linear(activation: Any) -> bool:
    """Whether an activation, as layers hold them, does nothing."""
    return activation in (None, keras.activations.linear)


def named_layers(model: keras.Model) -> Iterator[tuple[str, keras.layers.Layer]]:
    """Each layer of a model once, with its name after the names of the layers around it.

    Raises:
        TypeError: If `model` is not a Keras model.
    """
    require_model(model)
    seen = {id(model)}
    names: collections.Counter[str] = collections.Counter()

    def walk(parent: keras.layers.Layer, prefix: str) -> Iterator[tuple[str, keras.layers.Layer]]:
        for layer in keras_internals.children(parent):
            if id(layer) in seen:
                continue
            seen.add(id(layer))
            name = prefix + layer.name
            names[name] += 1
            if names[name] > 1:  # a subclassed model may give one name to many
                name += f"#{names[name]}"
            yield name, layer
            yield from walk(layer, f"{name}/")

    return walk(model, "")


def batch_norms(model: keras.layers.Layer, chosen: Collection[Any] | None = None) -> list[Any]:
    """The batch norms in `model`, also in models and layers inside it, each once.

    Args:
        model: A model, or any layer.
        chosen: The batch norms to return; by default all.

    Raises:
        TypeError: If `model` is not a layer, or `chosen` no list.
        ValueError: If there is no batch norm, `chosen` is empty, or `chosen` holds another layer.
    """
    require_layer(model)
    found = [layer for layer in keras_internals.flattened(model) if is_batch_norm(layer)]
    if not found:
        raise ValueError(
            f"The model {model.name!r} holds no batch norm: no layer of keras_renorm.layers."
            "BatchNormalization, BatchRenormalization or keras.layers.BatchNormalization."
        )
    if chosen is None:
        return found
    _check_chosen(chosen, model, found)
    return [one for one in found if any(one is layer for layer in chosen)]


def require_model(model: Any) -> None:
    """Raises a TypeError unless `model` is a Keras model."""
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"`model` must be a Keras model, received {model!r} of type {type(model).__name__}. "
            "For a single layer, give keras.Sequential([keras.Input(shape), layer])."
        )


def require_layer(model: Any) -> None:
    """Raises a TypeError unless `model` is a Keras model or layer."""
    if not isinstance(model, keras.layers.Layer):
        raise TypeError(
            f"`model` must be a Keras model or layer, received {model!r} of type "
            f"{type(model).__name__}. It comes first, before names and paths."
        )


def _check_chosen(chosen: Any, model: keras.layers.Layer, found: list[Any]) -> None:
    """Raises unless `chosen` is a list of some of the batch norms that were found in a model."""
    if isinstance(chosen, str | np.ndarray) or not isinstance(chosen, Collection):
        raise TypeError(
            f"`layers` must be a list of batch norms, received {chosen!r} of type "
            f"{type(chosen).__name__}. For one layer write layers=[layer]."
        )
    if not chosen:
        raise ValueError(
            f"`layers` must hold at least one batch norm of the model {model.name!r}, or be None "
            f"for all; received {chosen!r}. It has {[one.name for one in found]}."
        )
    for layer in chosen:
        if isinstance(layer, str):
            raise TypeError(
                f"`layers` must hold layers, received the name {layer!r}. Write "
                f"layers=[model.get_layer({layer!r})]."
            )
        if not any(layer is one for one in found):
            raise ValueError(
                f"`layers` must be batch norms of the model {model.name!r}, received "
                f"{getattr(layer, 'name', layer)!r}. It has {[one.name for one in found]}."
            )
