"""What a copy would lose, and must not: classes, places and sharing."""

from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

import keras

from keras_renorm import keras_internals
from keras_renorm.convert.configurations import layer_activation
from keras_renorm.convert.rewrite import Rewrite

Layer: TypeAlias = keras.layers.Layer


def check_model(model: Any) -> None:
    """Raises a TypeError unless `model` is a Keras model."""
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"Only Keras models can be converted, received {model!r} of type "
            f"{type(model).__name__}. For a single layer, convert keras.Sequential([layer])."
        )


def check_copy(old: Layer, new: Layer, rewrite: Rewrite) -> None:
    """Raises unless `new` is what `old` should have become.

    Raises:
        TypeError: If a model lost its class.
        ValueError: If what holds `old` makes another layer in its place.
    """
    expected = rewrite.replace(old) or old
    if type(new) is not type(expected):
        raise lost_class(old) if isinstance(old, keras.Model) else _no_replacement(old)
    if expected is not old and _comparable(new) != _comparable(expected):
        raise _no_replacement(old)


def check_sharing(pairs: Iterable[tuple[Layer, Layer]]) -> None:
    """Raises a ValueError if a layer with weights has several copies."""
    copies: dict[int, Layer] = {}
    for old, new in pairs:
        if copies.setdefault(id(old), new) is not new and _has_weights(old):
            raise _no_sharing(old)


def paired(old: Layer, new: Layer) -> Iterator[tuple[Layer, Layer]]:
    """A layer and those in it with their copies, where a copy comes from a configuration.

    Raises:
        ValueError: If the copy has more of them, or fewer.
    """
    before, after = map(keras_internals.flattened, (old, new))
    if len(before) != len(after):
        raise ValueError(
            f"The {type(old).__name__} {old.name!r} has {len(before) - 1} layers in it, and a copy "
            f"of it from its configuration {len(after) - 1}: it does not keep them in "
            "`get_config`, or uses one twice."
        )
    return zip(before, after, strict=True)


def lost_class(model: Layer) -> TypeError:
    """The error for a model of a class that a copy would lose."""
    return TypeError(
        f"The model {model.name!r} is of the class {type(model).__name__}, which a copy would "
        "lose. Give its constructor the arguments (self, *args, **kwargs) and no layers of its "
        "own, or convert `keras.Model(model.inputs, model.outputs)`."
    )


def no_room(inner: Layer, layer: Layer) -> ValueError:
    """The error for a layer in another that would become two."""
    return ValueError(
        f"The layer {inner.name!r} would become two layers, for which there is no room in the "
        f"{type(layer).__name__} layer {layer.name!r} that holds it. Give it no activation, and "
        "put a keras.layers.Activation where that layer calls it."
    )


def _no_replacement(layer: Layer) -> ValueError:
    return ValueError(
        f"The {type(layer).__name__} at {layer.path!r} cannot be replaced, because the layer or "
        "model around it makes it by itself and does not keep it in `get_config`. Convert the "
        "model itself with `in_place=True`, or give that class an argument for its normalization, "
        "and build the model anew."
    )


def _no_sharing(layer: Layer) -> ValueError:
    return ValueError(
        f"The {type(layer).__name__} {layer.name!r} is used in several places, one of them inside "
        "a class of its own, whose configuration does not tell that: the copies would not share "
        "their weights. Call the layer in the functional model instead, or build the model anew "
        "with the layers that you want."
    )


def _comparable(layer: Layer) -> dict[str, Any]:
    """A configuration without what copies of one layer may have otherwise."""
    # The handing over of weights sets what a configuration of Keras's does not tell.
    config = layer.get_config() | {"frozen_statistics": None}
    # Whether its weights are made is in its configuration, too.
    return config if layer_activation(layer) is None else config | {"activation": None}


def _has_weights(layer: Layer) -> bool:
    """Whether a layer has weights, or may have them later."""
    return not layer.built or bool(layer.variables)
