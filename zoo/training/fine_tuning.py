"""Begins a training with weights, and trains a part of them."""

import fnmatch
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
from keras.layers import Layer

from keras_renorm import keras_internals
from keras_renorm.layers import BatchRenormalization
from keras_renorm.models.members import LIMIT_STATES, is_batch_norm
from zoo.errors import UserError, nearest
from zoo.training.optimizers import HEAD
from zoo.training.storage import model_files
from zoo.weights.matching import is_head

_LOG = logging.getLogger("zoo.training")


def is_model_file(config: Mapping[str, Any]) -> bool:
    """Returns whether the weights are those of a `model.keras`."""
    return str(config["weights"] or "").endswith(".keras")


def load_file(model: keras.Model, path: str, *, keep_epsilon: bool = False) -> None:
    """Gives a model the weights of the layers of the same names in a `.keras` file.

    A layer takes all of its weights in their order, those of the layers in it among them, and its
    norms take the epsilon that they were trained with. The classifier stays fresh if its classes
    differ. So do the counters of the norms, which schedules go by, and an auxiliary head that the
    file lacks. Warnings name the layers without weights, and those that only the file has.

    Args:
        model: The model.
        path: The file.
        keep_epsilon: Whether the norms keep the model's own epsilon.

    Raises:
        UserError: When there is no such file, or another layer does not fit.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"--config.weights={path}: there is no such file.")
    stored = {layer.name: layer for layer in model_files.load(file).layers}
    fresh = []
    for layer in model.layers:
        trained = stored.pop(layer.name, Layer())
        ours, theirs = _weights(layer), _weights(trained)
        here, there = _described(layer), _described(trained)
        if here == there:
            for weight, value in zip(ours, theirs, strict=True):
                weight.assign(value)
            _settle_norms(layer, trained, keep_epsilon)
        elif layer.name in HEAD or (is_head(layer.name) and not theirs):
            fresh.append(layer.name)
        else:
            raise UserError(
                f"--config.weights={path} does not fit: layer {layer.name} has weights {here} here "
                f"and {there} there."
            )
    unused = [name for name, layer in stored.items() if layer.weights]
    for names, what in ((fresh, "get no weights from it"), (unused, "are only in it")):
        if names:
            _LOG.warning("--config.weights=%s: layers %s: %s.", path, what, ", ".join(names))


def _weights(layer: Layer) -> list[Any]:
    """Returns a layer's weights in their order, without the states of schedules and limits."""
    return [weight for weight in layer.weights if weight.name not in LIMIT_STATES]


def _described(layer: Layer) -> str:
    """Returns names and shapes: a layer that holds layers has several weights of one name."""
    parts = [f"{weight.name} {tuple(weight.shape)}" for weight in _weights(layer)]
    norms = len(_norms(layer))
    return ", ".join(parts + [f"batch norms: {norms}"] * (norms > 0)) or "none"


def _settle_norms(layer: Layer, trained: Layer, keep_epsilon: bool) -> None:
    """Lets the norms in a layer go by the statistics that they have got."""
    for norm, origin in zip(_norms(layer), _norms(trained), strict=True):
        if not keep_epsilon:
            norm.epsilon = origin.epsilon
        if isinstance(norm, BatchRenormalization):
            norm.trust_statistics()


def _norms(layer: Layer) -> list[Any]:
    return [inner for inner in keras_internals.flattened(layer) if is_batch_norm(inner)]


def freeze(model: keras.Model, patterns: str | None) -> None:
    """Freezes the layers whose names match. Their norms use the moving statistics.

    Args:
        model: The model.
        patterns: Shell patterns with commas between, such as "stem*,stage1*"; None for no layer.
            The classifier is never frozen.

    Raises:
        UserError: When a pattern matches no layer that can be trained.
    """
    layers = {
        layer.name: layer for layer in model.layers if layer.weights and layer.name not in HEAD
    }
    for pattern in [] if patterns is None else patterns.split(","):
        names = fnmatch.filter(layers, pattern.strip())
        if not names:
            raise UserError(
                f"--config.freeze: {pattern!r} matches no layer.{nearest(pattern, layers)} Layers "
                f"are {', '.join(layers)}. The classifier is never frozen."
            )
        for name in names:
            layers[name].trainable = False
