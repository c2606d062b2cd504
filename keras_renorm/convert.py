"""Conversion of models: the same network and weights with other normalisation layers.

Each converter returns a new model and leaves the old one as it is.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import keras

from keras_renorm.layers import BatchNormalization

# What a converter puts in the place of a layer: a new one, without weights yet; or None to keep it.
_Replace: TypeAlias = Callable[[keras.layers.Layer], keras.layers.Layer | None]


def to_synchronized(model: keras.Model) -> keras.Model:
    """A copy of `model` whose batch norms use the moments of all replicas.

    Every `keras_renorm.layers.BatchNormalization` and `BatchRenormalization` gets
    `synchronized=True`, and every `keras.layers.BatchNormalization` becomes one of ours. Weights,
    names and `trainable` flags are kept, and a layer that is used twice stays one layer. The copy
    is not compiled.

    To train under a `tf.distribute` strategy, call it in `strategy.scope()`.

    Args:
        model: A Sequential or functional model, which may hold other such models, and layers
            around a batch norm such as `keras.layers.TimeDistributed`.

    Returns:
        The new model.

    Raises:
        TypeError: If `model` is not a Sequential or functional model.
        ValueError: If a batch norm lies inside a layer that makes it by itself, so that it cannot
            be replaced, or is a Keras layer with `renorm=True`.

    Example:
        >>> with strategy.scope():
        ...     model = keras_renorm.convert.to_synchronized(keras.applications.ResNet50())
    """
    return _convert(model, lambda layer: _with_synchronization(layer, True))


def to_unsynchronized(model: keras.Model) -> keras.Model:
    """A copy of `model` whose batch norms use each replica's own moments.

    The way back from `to_synchronized`; see there. Keras's batch norms become ours here, too.

    Args:
        model: As for `to_synchronized`.

    Returns:
        The new model.

    Raises:
        TypeError: As in `to_synchronized`.
        ValueError: As in `to_synchronized`.
    """
    return _convert(model, lambda layer: _with_synchronization(layer, False))


def _with_synchronization(
    layer: keras.layers.Layer, synchronized: bool
) -> keras.layers.Layer | None:
    """Our layer in the place of a batch norm; None in the place of any other."""
    if not isinstance(layer, BatchNormalization | keras.layers.BatchNormalization):
        return None
    config = layer.get_config() | {"synchronized": synchronized}
    if isinstance(layer, BatchNormalization):
        return type(layer).from_config(config)
    if getattr(layer, "renorm", False):
        raise ValueError(
            f"The layer {layer.name!r} is a keras.layers.BatchNormalization with renorm=True, "
            "whose seven weights are not converted. Replace it with "
            "keras_renorm.layers.BatchRenormalization first."
        )
    return BatchNormalization.from_config(config)


def _convert(model: keras.Model, replace: _Replace) -> keras.Model:
    """A copy of `model` with replaced layers, its weights and its `trainable` flags."""
    if not isinstance(model, keras.Sequential) and not hasattr(model, "operations"):
        raise TypeError(
            "Only Sequential and functional models can be converted, received "
            f"{getattr(model, 'name', model)!r} of type {type(model).__name__}. Build the model "
            "again with the layers that you want, and hand its weights over: "
            "`new_model.set_weights(model.get_weights())`."
        )
    with _uncompiled(model):
        new_model = keras.models.clone_model(
            model, clone_function=lambda layer: _clone(layer, replace), recursive=True
        )
    if model.built and not new_model.built:
        new_model.build(model.input_shape)
    for old, new in _pairs(model, new_model):
        _check(old, new, replace)
        # A model sets those of its layers, too; they come after it here.
        new.trainable = old.trainable
    for old, new in zip(model.variables, new_model.variables, strict=True):
        new.assign(keras.ops.convert_to_numpy(old))
    return new_model


@contextlib.contextmanager
def _uncompiled(model: keras.Model) -> Iterator[None]:
    """Has Keras clone `model` without its loss, which for a Python lambda it refuses."""
    compiled = [m for m in model._flatten_layers() if getattr(m, "compiled", False)]
    try:
        for part in compiled:
            part.compiled = False
        yield
    finally:
        for part in compiled:
            part.compiled = True


def _clone(operation: Any, replace: _Replace) -> Any:
    """A layer or other operation without weights, replaced itself or in its configuration."""
    if isinstance(operation, keras.layers.Layer):
        new = replace(operation)
        if new is not None:
            return new
    config = _replaced_in(operation.get_config(), replace)
    if isinstance(operation, keras.layers.Lambda):
        # Keras refuses Python lambdas from configurations; this one is not from a file.
        return type(operation).from_config(config, safe_mode=False)
    return type(operation).from_config(config)


def _replaced_in(config: Any, replace: _Replace) -> Any:
    """A configuration, with the layers that are serialised in it replaced."""
    if isinstance(config, list | tuple):
        return type(config)(_replaced_in(item, replace) for item in config)
    if not isinstance(config, dict):
        return config
    if config.get("class_name") in ("BatchNormalization", "BatchRenormalization"):
        config = {key: value for key, value in config.items() if key != "build_config"}
        layer = replace(keras.saving.deserialize_keras_object(config))
        return config if layer is None else config | keras.saving.serialize_keras_object(layer)
    # "build_config" would make the weights before the layer has its place, and so its path.
    return {k: _replaced_in(v, replace) for k, v in config.items() if k != "build_config"}


def _pairs(model: keras.Model, new_model: keras.Model) -> list[tuple[Any, Any]]:
    """Each model and layer of `model`, outer ones first, with its copy."""
    old, new = model._flatten_layers(), new_model._flatten_layers()
    if len(old) != len(new):
        raise ValueError(
            f"The model {model.name!r} has {len(old)} layers, and a copy of it from its "
            f"configuration {len(new)}: a layer of it does not keep its sublayers in `get_config`."
        )
    return list(zip(old, new, strict=True))


def _check(old: keras.layers.Layer, new: keras.layers.Layer, replace: _Replace) -> None:
    """Raises unless `new` is what `old` should have become."""
    expected = replace(old) or old
    if type(new) is not type(expected):
        if isinstance(old, keras.Model):
            raise TypeError(
                f"The functional model {old.name!r} is of the class {type(old).__name__}, which a "
                "copy would lose. Give its constructor the arguments (self, *args, **kwargs), or "
                "convert `keras.Model(model.inputs, model.outputs)`."
            )
        _refuse(old)
    if expected is not old and new.get_config() != expected.get_config():
        _refuse(old)


def _refuse(layer: keras.layers.Layer) -> None:
    raise ValueError(
        f"The {type(layer).__name__} at {layer.path!r} cannot be replaced, because the layer or "
        "model around it makes it by itself and does not keep it in `get_config`. Give that class "
        "an argument for its normalization, and build the model anew."
    )
