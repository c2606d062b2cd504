"""Checks that a copy loses nothing: classes, places and sharing."""

from collections.abc import Iterable, Iterator
from typing import Any

import keras

from keras_renorm import keras_internals
from keras_renorm.convert.configurations import layer_activation
from keras_renorm.convert.rewrite import Rewrite
from keras_renorm.typing import Layer


def check_copy(old: Layer, new: Layer, rewrite: Rewrite) -> None:
    """Raises unless `new` is the layer that `old` should become.

    Raises:
        TypeError: If a model lost its class.
        ValueError: If the layer around `old` makes another layer in its place.
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
        # A layer that is not built may have weights later.
        if copies.setdefault(id(old), new) is not new and (old.variables or not old.built):
            raise ValueError(
                f"The {type(old).__name__} {old.name!r} is used in several places, one of them "
                "inside a class whose configuration does not tell that. The copies would not share "
                "their weights. Call the layer in the functional model instead, or build the model "
                "anew with the layers that you want."
            )


def paired(old: Layer, new: Layer) -> Iterator[tuple[Layer, Layer]]:
    """A layer and its inner layers, each with its copy, if a configuration made the copy.

    Raises:
        ValueError: If the copy has more inner layers, or fewer.
    """
    before, after = map(keras_internals.flattened, (old, new))
    if len(before) != len(after):
        raise ValueError(
            f"The {type(old).__name__} {old.name!r} holds {len(before) - 1} layers, and a copy "
            f"from its configuration holds {len(after) - 1}. Its `get_config` leaves some out, or "
            "it uses one twice. Make `get_config` hold each layer, or convert with `in_place=True` "
            "(`fold` can only copy)."
        )
    return zip(before, after, strict=True)


def lost_class(model: Layer) -> TypeError:
    """The error for a model of a class that a copy would lose."""
    return TypeError(
        f"The model {model.name!r} has the class {type(model).__name__}, which a copy would "
        "lose. Give its constructor the arguments (self, *args, **kwargs) and no layers of its "
        "own, or convert `keras.Model(model.inputs, model.outputs)`."
    )


def no_room(inner: Layer, layer: Layer) -> ValueError:
    """The error for an inner layer that would become two layers."""
    return ValueError(
        f"The layer {inner.name!r} would become two layers, and the {type(layer).__name__} layer "
        f"{layer.name!r} around it has room for one. Give {inner.name!r} no activation, and put a "
        f"keras.layers.Activation after its call in {layer.name!r}."
    )


def _no_replacement(layer: Layer) -> ValueError:
    return ValueError(
        f"The {type(layer).__name__} at {layer.path!r} cannot be replaced, because the layer or "
        "model around it makes it in its constructor and `get_config` does not hold it. Convert "
        "the model itself with `in_place=True` (`fold` can only copy), or give that class an "
        "argument for its normalization, and build the model anew."
    )


def _comparable(layer: Layer) -> dict[str, Any]:
    """A configuration without the entries in which copies of one layer may differ."""
    # Handing over the weights sets this entry, which Keras's configurations do not hold.
    config = layer.get_config() | {"frozen_statistics": None}
    # The activation's configuration also tells whether its weights are made.
    return config if layer_activation(layer) is None else config | {"activation": None}
