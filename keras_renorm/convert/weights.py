"""Gives copies the weights of their layers, and all else that these have learned."""

import tempfile
from typing import Any

import keras
import numpy as np

from keras_renorm.convert.rewrite import Rewrite
from keras_renorm.keras_internals import flattened
from keras_renorm.models import is_batch_norm
from keras_renorm.statistics import freeze, is_frozen
from keras_renorm.typing import Layer


def build(model: keras.Model, new_model: keras.Model) -> None:
    """Gives a copy weights if `model` has any."""
    if not model.built or new_model.built:
        return
    if isinstance(model, keras.Sequential):
        new_model.build(model.input_shape)
        return
    config = model.get_build_config() or {}
    if type(model).build_from_config is not keras.Model.build_from_config:
        new_model.build_from_config(config)
    elif "input_shape" in config:
        new_model(_symbols(config["input_shape"]))
    elif config:
        shapes = config["shapes_dict"].items()
        new_model(**{key.removesuffix("_shape"): _symbols(shape) for key, shape in shapes})


def hand_over(old: Layer, new: Layer, rewrite: Rewrite) -> None:
    """Gives `new` the weights of `old`, as `rewrite` rules.

    Raises:
        ValueError: If `new` has no weights, or different ones.
    """
    if old.built and not new.built:
        _build_as(old, new)
    expected = rewrite.replace(old) or old
    if is_batch_norm(expected) and is_frozen(expected):
        freeze(new)
    if expected is old:
        _hand_over_own(old, new)
    elif old.built:
        rewrite.transfer(old, new)


def _build_as(old: Layer, new: Layer) -> None:
    """Gives a copy the weights that no symbolic call of its model made."""
    if not isinstance(old, keras.Model):
        # This is the case of activations of Keras's layers.
        new.build_from_config(old.get_build_config() or {})
    if not new.built:
        raise ValueError(
            f"A copy of the {type(old).__name__} {old.name!r} has no weights, because Keras cannot "
            "build it from the shapes that the model was called with. Write its "
            "`get_build_config` and `build_from_config`."
        )


def _symbols(shapes: Any) -> Any:
    """Symbolic inputs. A call with them gives weights their paths, which `build` does not."""
    return keras.tree.map_shape_structure(keras.KerasTensor, _plain(shapes))


def _plain(structure: Any) -> Any:
    """A structure of plain dicts and lists: JAX does not know those that Keras tracks."""
    if isinstance(structure, dict):
        return {key: _plain(value) for key, value in structure.items()}
    if isinstance(structure, list | tuple):
        kind = list if isinstance(structure, list) else tuple
        return kind(_plain(value) for value in structure)
    return structure


def _hand_over_own(old: Layer, new: Layer) -> None:
    """Gives a copy of the same class the variables of `old`, without those of inner layers."""
    before, after = _in_one_order(_own_variables(old), _own_variables(new))
    if after and not before:
        raise ValueError(
            f"The {type(old).__name__} {old.name!r} has no weights yet. Call the model once on a "
            "batch, `model(x)`: its `build` does not build the layers that its `call` uses."
        )
    if [v.shape for v in before] != [v.shape for v in after]:
        raise ValueError(
            f"The {type(old).__name__} {old.name!r} has weights of the shapes "
            f"{[tuple(v.shape) for v in before]}, and a copy from its configuration has "
            f"{[tuple(v.shape) for v in after]}. Make `get_config` and `build` of that class "
            "create the same weights."
        )
    if old.built:
        _hand_over_state(old, new)
    for variable, value in zip(after, before, strict=True):
        variable.assign(np.asarray(keras.ops.convert_to_numpy(value)))
        variable.trainable = value.trainable and new.trainable


def _own_variables(layer: Layer) -> list[Any]:
    """The variables of a layer, without those of inner layers."""
    inner = {id(v) for part in flattened(layer) if part is not layer for v in part.variables}
    return [variable for variable in layer.variables if id(variable) not in inner]


def _in_one_order(before: list[Any], after: list[Any]) -> tuple[list[Any], list[Any]]:
    """The variables of two layers, sorted by name if the names are the same.

    The configuration of a quantized layer makes them in another order.
    """
    by_name = [sorted(variables, key=lambda v: v.name) for variables in (before, after)]
    if [v.name for v in by_name[0]] == [v.name for v in by_name[1]]:
        return by_name[0], by_name[1]
    return before, after


def _hand_over_state(old: Layer, new: Layer) -> None:
    """Gives `new` the state of `old` beside its variables, as a file of the model does.

    That includes what `adapt` found: the mean that a `Normalization` subtracts, a vocabulary.
    """
    if type(new).load_own_variables is not keras.layers.Layer.load_own_variables:
        store: dict[str, Any] = {}
        old.save_own_variables(store)
        new.load_own_variables(store)
    if hasattr(old, "save_assets") and hasattr(new, "load_assets"):
        with tempfile.TemporaryDirectory() as folder:
            old.save_assets(folder)
            new.load_assets(folder)
