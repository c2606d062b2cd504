"""Copies of models in which layers are replaced, removed or followed by others."""

import contextlib
from collections.abc import Iterator

import keras

from keras_renorm import keras_internals
from keras_renorm.convert.checks import check_copy, check_sharing
from keras_renorm.convert.copier import Copier
from keras_renorm.convert.rewrite import Rewrite
from keras_renorm.convert.weights import build, hand_over
from keras_renorm.models import require_model


def rewritten(model: keras.Model, rewrite: Rewrite) -> keras.Model:
    """A copy of `model` with replaced layers, its weights and its `trainable` flags.

    Args:
        model: The model. It stays as it is.
        rewrite: What happens to its layers.

    Returns:
        The copy, not compiled.

    Raises:
        TypeError: If `model` is no Keras model, or a copy would lose its class.
        ValueError: If a layer cannot be replaced where it lies, or a shared layer would no longer
            be shared.
    """
    require_model(model)
    copier = Copier(model, rewrite)
    with uncompiled(model):
        new_model = copier.copy(model)
    build(model, new_model)
    pairs = list(copier.pairs(model))
    for old, new in pairs:
        check_copy(old, new, rewrite)
    check_sharing(pairs)
    # Setting `trainable` on an outer layer sets it on the inner layers, too. Outer layers hold more
    # layers, and so come first.
    for old, new in sorted(pairs, key=lambda pair: -len(keras_internals.flattened(pair[0]))):
        new.trainable = rewrite.trainable(old)
    for old, new in pairs:
        hand_over(old, new, rewrite)
    if new_model.built:
        keras_internals.mark_called(new_model)
    return new_model


@contextlib.contextmanager
def uncompiled(model: keras.Model) -> Iterator[None]:
    """In the context, Keras clones `model` without its loss. Keras refuses a loss with a lambda."""
    parts = keras_internals.flattened(model)
    compiled = [part for part in parts if getattr(part, "compiled", False)]
    try:
        for part in compiled:
            part.compiled = False
        yield
    finally:
        for part in compiled:
            part.compiled = True
