"""Begins a training with weights, and trains a part of them."""

import fnmatch
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from keras_renorm import keras_internals
from keras_renorm.layers import BatchRenormalization
from zoo.errors import UserError, nearest
from zoo.training.optimizers import HEAD
from zoo.training.storage import model_files

#: Variables of a norm that its schedules and limits go by: they are no weights.
_STATES = ("update_count", "deviations", "seen")


def is_model_file(config: Mapping[str, Any]) -> bool:
    """Returns whether the weights are those of a `model.keras`."""
    return str(config["weights"] or "").endswith(".keras")


def load_file(model: keras.Model, path: str) -> None:
    """Gives a model the weights of the layers of the same names in a `.keras` file.

    A layer takes all of its weights in their order, those of the layers in it among them. The
    classifier stays fresh if its classes differ. So do the counters of the norms, which schedules
    go by.

    Args:
        model: The model.
        path: The file.

    Raises:
        UserError: When there is no such file, or another layer does not fit.
    """
    if not Path(path).is_file():
        raise UserError(f"--config.weights={path}: there is no such file.")
    stored = model_files.load(Path(path))
    theirs = {layer.name: _weights(layer) for layer in stored.layers}
    for layer in model.layers:
        ours, found = _weights(layer), theirs.get(layer.name, [])
        here, there = _described(ours), _described(found)
        if here == there:
            for weight, value in zip(ours, found, strict=True):
                weight.assign(value)
            _trust_statistics(layer)
        elif layer.name not in HEAD:
            raise UserError(
                f"--config.weights={path} does not fit: layer {layer.name} has weights {here} here "
                f"and {there} there."
            )


def _weights(layer: keras.layers.Layer) -> list[Any]:
    """Returns a layer's weights in their order, without the states of schedules and limits."""
    return [weight for weight in layer.weights if weight.name not in _STATES]


def _described(weights: list[Any]) -> str:
    """Returns names and shapes: a layer that holds layers has several weights of one name."""
    return ", ".join(f"{weight.name} {tuple(weight.shape)}" for weight in weights) or "none"


def _trust_statistics(layer: keras.layers.Layer) -> None:
    for inner in keras_internals.flattened(layer):
        if isinstance(inner, BatchRenormalization):
            inner.trust_statistics()


def freeze(model: keras.Model, patterns: str | None) -> None:
    """Freezes the layers whose names match. Their norms use the moving statistics.

    Args:
        model: The model.
        patterns: Shell patterns with commas between, such as "stem*,stage1*"; None for no layer.
            The classifier is never frozen.

    Raises:
        UserError: When a pattern matches no layer that can be trained.
    """
    layers = {layer.name: layer for layer in model.layers if layer.weights}
    for pattern in (patterns or "").split(",") if patterns else ():
        names = [name for name in fnmatch.filter(layers, pattern.strip()) if name not in HEAD]
        if not names:
            raise UserError(
                f"--config.freeze: {pattern!r} matches no layer.{nearest(pattern, layers)} Layers "
                f"are {', '.join(layers)}."
            )
        for name in names:
            layers[name].trainable = False
