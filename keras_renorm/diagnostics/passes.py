"""Forward passes that are watched and leave the model as it was."""

import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import keras

from keras_renorm.diagnostics.graphs import layers
from keras_renorm.diagnostics.norms import is_norm
from keras_renorm.diagnostics.tables import listing
from keras_renorm.statistics import hooks

# Runs in the place of a layer's `call`, on (layer, its call, positional and keyword arguments).
Around: TypeAlias = Callable[[Any, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


def forward(
    model: keras.Model,
    x: Any,
    watched: Iterable[Any],
    around: Around,
    *,
    training: bool,
    random: bool = False,
) -> Any:
    """The model's output for `x`, with `around` in the place of the calls of some layers.

    No variable changes: Keras diverts all updates to a scope that is thrown away. So random layers
    draw the same numbers in each pass, and in training those that they would draw without it.

    Args:
        model: The model.
        x: A batch of its inputs.
        watched: The layers or operations.
        around: What runs in the place of their `call`.
        training: Whether the model runs in training mode.
        random: Whether dropout, noise and augmentation are on in training mode. Without them what
            differs from inference is the normalization.

    Returns:
        The model's output.

    Raises:
        TypeError: If `x` is not one batch, but what gives batches.
        ValueError: If the model is not built, `x` holds no examples, or a watched layer is called
            in a part that is compiled.
    """
    if not model.built:
        raise ValueError(
            f"The model {model.name!r} has no weights yet. Call it once on a batch, `model(x)`, "
            "and then the gauge."
        )
    if _gives_batches(x):
        raise TypeError(
            f"`x` must be one batch of the model's inputs, received a {type(x).__name__}. Write "
            "next(iter(dataset)), of which the labels do not belong to `x`."
        )
    if any(leaf.shape[:1] == (0,) for leaf in keras.tree.flatten(x) if hasattr(leaf, "shape")):
        raise ValueError("`x` holds no examples. Give a batch of the size that training uses.")
    quiet = [] if random else _without_norm(model)
    calls = dict.fromkeys(quiet, _quiet) | dict.fromkeys(watched, around)
    wrapped = [(layer, "call", _wrapped(layer, one)) for layer, one in calls.items()]
    with hooks.replaced(wrapped), keras.StatelessScope(), _generators_kept():
        return model(x, training=training)


def _generators_kept() -> contextlib.AbstractContextManager[None]:
    """The context after which PyTorch's generators, no variables of Keras, are as they were."""
    if keras.backend.backend() != "torch":
        return contextlib.nullcontext()
    import torch

    # Its dropout without a seed draws from those of the process.
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    return torch.random.fork_rng(devices)


def left_out(model: keras.Model) -> list[str]:
    """Names of the layers that are random in training, and off in a pass without `random`."""
    quiet = set(map(id, _without_norm(model)))
    return [name for name, layer in _random(model) if id(layer) in quiet]


def noise(model: keras.Model) -> list[str]:
    """Sentences on the layers that draw random numbers: those left out, and those that are not."""
    out = left_out(model)
    kept = [(name, layer) for name, layer in _random(model) if name not in out]
    notes = []
    if out:
        notes.append(f"Left out, for they are random in training: {listing(out)}.")
    for modes, reason in ((True, "for a norm lies in them"), (False, "which inference has, too")):
        names = [name for name, layer in kept if layer._call_has_training_arg == modes]
        if names:
            notes.append(f"With their randomness, {reason}: {listing(names)}.")
    return notes


def _random(model: keras.Model) -> list[tuple[str, keras.layers.Layer]]:
    return [(name, layer) for name, layer in layers(model) if layer._seed_generators]


def _quiet(
    layer: Any, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """A call in inference mode."""
    return call(*args, **(kwargs | {"training": False}))


def _without_norm(model: keras.Model) -> list[keras.layers.Layer]:
    """Layers that know training from inference and hold no normalization."""
    return [
        layer
        for _, layer in layers(model)
        if layer._call_has_training_arg and not any(map(is_norm, layer._flatten_layers()))
    ]


def _gives_batches(x: Any) -> bool:
    """Whether `x` is a dataset, a loader or an iterator; tensors and arrays can be gone through."""
    if isinstance(x, keras.utils.PyDataset):
        return True
    batch = isinstance(x, list | tuple | Mapping) or hasattr(x, "shape")
    return isinstance(x, Iterable) and not batch


def _wrapped(layer: Any, around: Around) -> Callable[..., Any]:
    """What stands in the place of the layer's `call`."""
    call = layer.call

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        # A layer that is only to be quiet is not looked at, so its call may be compiled.
        if around is not _quiet and any(map(_is_traced, keras.tree.flatten((args, kwargs)))):
            instead = {
                "tensorflow": "Take out the tf.function around it, or run "
                "tf.config.run_functions_eagerly(True) before the gauge.",
                "jax": "Take out the jax.jit or the scan around it, or run the gauge in "
                "`with jax.disable_jit():`.",
            }[keras.backend.backend()]
            raise ValueError(
                f"The layer {layer.name!r} is called in a function or a loop that is compiled by "
                f"itself, so what it is called on cannot be read. {instead}"
            )
        return around(layer, call, args, kwargs)

    return wrapped


def _is_traced(x: Any) -> bool:
    """Whether `x` is a tensor without values."""
    if keras.backend.backend() == "tensorflow":
        return keras.ops.is_tensor(x) and not hasattr(x, "numpy")
    if keras.backend.backend() == "jax":
        import jax

        return isinstance(x, jax.core.Tracer)
    return False
