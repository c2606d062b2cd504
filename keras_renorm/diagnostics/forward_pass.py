"""Forward passes that are watched and leave the model unchanged."""

from collections.abc import Mapping
from typing import Any

import keras

from keras_renorm.diagnostics.tables import listing
from keras_renorm.keras_internals import flattened, knows_training, seed_generators
from keras_renorm.models import Around, LayerCall, is_batch_norm, named_layers, unchanged, watched
from keras_renorm.ops import backends


def forward(
    model: keras.Model,
    x: Any,
    around: Mapping[Any, Around],
    *,
    training: bool,
    random: bool = False,
) -> Any:
    """The model's output for `x`, with `around` in the place of the calls of some layers.

    No variable changes: Keras diverts all updates to a scope that is thrown away. So random layers
    draw the same numbers in each pass, and the pass does not change what they draw in training.

    Args:
        model: The model.
        x: A batch of its inputs.
        around: For each layer or operation to watch, the function in the place of its `call`.
        training: Whether the model runs in training mode.
        random: Whether dropout, noise and augmentation are on in training mode. Without them only
            the normalization differs from inference.

    Returns:
        The model's output.

    Raises:
        TypeError: If `x` is not one batch, but a source of batches or no data.
        ValueError: If the model is not built, `x` holds no examples, or a watched layer is called
            in a compiled part.
    """
    if not model.built:
        raise ValueError(
            f"The model {model.name!r} has no weights yet. Call it once on a batch, `model(x)`, "
            "and then the gauge."
        )
    if not (isinstance(x, list | tuple | Mapping) or hasattr(x, "shape")):
        raise TypeError(
            f"`x` must be one batch of the model's inputs, received a {type(x).__name__}. Write "
            "x = next(iter(dataset)), or x, y = next(iter(dataset)) if there are labels."
        )
    if any(leaf.shape[:1] == (0,) for leaf in keras.tree.flatten(x) if hasattr(leaf, "shape")):
        raise ValueError("`x` holds no examples. Give a batch of the size that training uses.")
    quiet = [] if random else _without_norm(model)
    calls = dict.fromkeys(quiet, _quiet) | {layer: _seeing(one) for layer, one in around.items()}
    with watched(calls), unchanged(model):
        return model(x, training=training)


def left_out(model: keras.Model) -> list[str]:
    """Names of the layers that are random in training, and switched off without `random`."""
    quiet = set(map(id, _without_norm(model)))
    return [name for name, layer in _random(model) if id(layer) in quiet]


def noise(model: keras.Model) -> list[str]:
    """Sentences on the layers that draw random numbers: those switched off, and the others."""
    out = left_out(model)
    kept = [(name, layer) for name, layer in _random(model) if name not in out]
    notes = []
    if out:
        notes.append(f"Left out, because they are random in training: {listing(out)}.")
    for modes, reason in ((True, "as they hold a norm"), (False, "which inference has, too")):
        names = [name for name, layer in kept if knows_training(layer) == modes]
        if names:
            notes.append(f"With their randomness, {reason}: {listing(names)}.")
    return notes


def _random(model: keras.Model) -> list[tuple[str, keras.layers.Layer]]:
    return [
        (name, layer)
        for name, layer in named_layers(model)
        if seed_generators(layer) and not _never_drops(layer)
    ]


def _never_drops(layer: keras.layers.Layer) -> bool:
    """Whether a layer is a recurrent cell without dropout: that has a seed generator, too."""
    rates = [getattr(layer, name, None) for name in ("dropout", "recurrent_dropout")]
    return rates == [0, 0]


def _quiet(call: LayerCall) -> Any:
    """A call in inference mode."""
    return call.run(training=False)


def _without_norm(model: keras.Model) -> list[keras.layers.Layer]:
    """Layers that know training from inference and hold no normalization."""
    return [
        layer
        for _, layer in named_layers(model)
        if knows_training(layer) and not any(map(is_batch_norm, flattened(layer)))
    ]


def _seeing(around: Around) -> Around:
    """`around`, with an error for calls whose tensors have no values to look at."""
    backend = backends.current()

    def checked(call: LayerCall) -> Any:
        if any(map(backend.is_traced, keras.tree.flatten((call.args, call.kwargs)))):
            raise ValueError(
                f"The layer {call.layer.name!r} is called in a function or a loop that is compiled "
                f"by itself, so its inputs cannot be read. {backend.untraced}"
            )
        return around(call)

    return checked
