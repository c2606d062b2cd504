"""Converts models of `tf_keras`, the Keras 2 of older programs, to Keras 3 and layers of ours."""

import importlib
import json
import pathlib
import zipfile
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from zoo.conversion import comparing
from zoo.errors import UserError, as_user_errors

#: Arguments of tf_keras's batch norm that Keras 3 lacks. `fused` says how it computes, not what.
_DROPPED = ("fused", "virtual_batch_size", "adjustment")

#: What tf_keras raises at files that are damaged, or hold something else.
_OF_FILES = (
    *(ValueError, TypeError, LookupError, AttributeError, OSError, EOFError),
    *(zipfile.BadZipFile, tf.errors.OpError),
)


def load_theirs(path: pathlib.Path) -> Any:
    """Loads a model with tf_keras.

    Args:
        path: File or folder.

    Raises:
        UserError: If there is no tf_keras, or it cannot load the model.
    """
    try:
        tf_keras = importlib.import_module("tf_keras")
    except ImportError as error:
        raise UserError("--kind=tf_keras needs tf_keras: pip install tf_keras.") from error
    try:
        return tf_keras.models.load_model(path, compile=False)
    except _OF_FILES as error:
        raise UserError(f"tf_keras cannot load {path}: {error}") from error


def to_keras_3(theirs: Any) -> keras.Model:
    """Builds the same model in Keras 3 and gives it the weights, layer by layer.

    Args:
        theirs: A Sequential or functional model of tf_keras.

    Raises:
        UserError: If Keras 3 cannot build it, or builds layers with other weights.
    """
    saved = json.loads(theirs.to_json())
    kinds = {"Functional": keras.Model, "Sequential": keras.Sequential}
    if saved["class_name"] not in kinds:
        raise UserError(
            f"Only Sequential and functional models can be converted, received {theirs.name!r} of "
            f"the class {saved['class_name']}."
        )
    try:
        model = kinds[saved["class_name"]].from_config(_renewed(saved["config"]))
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"Keras 3 cannot build {theirs.name!r}: {error}") from error
    for old in theirs.layers:
        _hand_over(old, model)
    return model


def _hand_over(old: Any, model: keras.Model) -> None:
    """Gives the Keras 3 layer of the same name the weights of a tf_keras layer."""
    if not old.weights:
        return
    weights = old.get_weights()
    new = model.get_layer(old.name)
    ours, theirs = ([tuple(w.shape) for w in group] for group in (new.weights, weights))
    if ours != theirs:
        raise UserError(
            f"The layer {old.name!r} has weights of shapes {theirs} in tf_keras, and {ours} in "
            "Keras 3."
        )
    new.set_weights(weights)


def _renewed(config: Any) -> Any:
    """A configuration of tf_keras as Keras 3 reads it."""
    if isinstance(config, list):
        return [_renewed(item) for item in config]
    if not isinstance(config, dict):
        return config
    if config.get("class_name") == "BatchNormalization":
        config = config | {"config": _renewed_norm(config["config"])}
    # "build_config" would make the weights before the layer has its place in the model.
    return {key: _renewed(value) for key, value in config.items() if key != "build_config"}


def _renewed_norm(config: dict[str, Any]) -> dict[str, Any]:
    axis = config["axis"]
    if isinstance(axis, list):
        if len(axis) != 1:
            raise UserError(f"The layer {config['name']!r} has axes {axis}; only one is allowed.")
        axis = axis[0]
    for name in ("virtual_batch_size", "adjustment"):
        if config.get(name) is not None:
            raise UserError(
                f"The layer {config['name']!r} has {name}={config[name]!r}, which Keras 3 lacks. "
                "Save the model from tf_keras without it."
            )
    return {key: value for key, value in config.items() if key not in _DROPPED} | {"axis": axis}


def convert_file(source: pathlib.Path, output: pathlib.Path, report: Callable[[str], None]) -> None:
    """Writes a model with layers of this package.

    Its batch norms with renorm=True become `keras_renorm.layers.BatchRenormalization`, the others
    `BatchNormalization`. It must be a Sequential or functional model of layers that Keras 3 has,
    too.

    Args:
        source: What `model.save` of tf_keras wrote: a .keras file, .h5, or a SavedModel's folder.
        output: `*.keras` to write; it must not exist.
        report: Called with sentences about what was found.

    Raises:
        UserError: If the files are not as they must be, or the model cannot be converted.
    """
    comparing.check_files(source, output, ".keras")
    theirs = load_theirs(source)
    with as_user_errors(ValueError, TypeError):
        model = to_keras_3(theirs)
    comparing.write_with_our_layers(theirs, model, output, report)
