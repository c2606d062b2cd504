"""The models by name."""

import fnmatch
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from zoo.errors import nearest
from zoo.models.arguments import positive_integer, positive_integers
from zoo.models.cifar_resnet import cifar_resnet
from zoo.models.mlp import mlp
from zoo.models.normalization import Norm, create_normalizer

#: Every model that `create_model` knows. A new one is one more line: its name, and what builds it
#: from the keyword arguments in `_COMMON` and, if it likes, some of its own with defaults.
MODELS: dict[str, Callable[..., keras.Model]] = {
    "mlp": mlp,
    "resnet20": functools.partial(cifar_resnet, depth=20),
    "resnet32": functools.partial(cifar_resnet, depth=32),
    "resnet44": functools.partial(cifar_resnet, depth=44),
    "resnet56": functools.partial(cifar_resnet, depth=56),
    "resnet110": functools.partial(cifar_resnet, depth=110),
}

#: What `create_model` gives to every one of them.
_COMMON = ("input_shape", "num_classes", "norm", "classifier_activation", "name")


def list_models(pattern: str = "*") -> list[str]:
    """Returns the names of the models, sorted.

    Args:
        pattern: Shell pattern that the names must match, such as "resnet*".

    Returns:
        Names that `create_model` takes.
    """
    return sorted(fnmatch.filter(MODELS, pattern))


def create_model(
    name: str,
    *,
    num_classes: int = 10,
    input_shape: Sequence[int] = (32, 32, 3),
    norm: Norm = "batch_renorm",
    norm_options: Mapping[str, Any] | None = None,
    classifier_activation: Any = "softmax",
    **model_options: Any,
) -> keras.Model:
    """Builds an image classifier with fresh weights.

    Its input is images `[B, H, W, C]` of float32 pixels scaled to [0, 1] (`uint8 / 255`), its
    output probabilities `[B, K]`, or logits with `classifier_activation=None`. A layer before a
    normalization has no bias, except with `norm="none"`.

    Args:
        name: One of `list_models()`.
        num_classes: Number of classes K.
        input_shape: Shape of an image, `(H, W, C)`.
        norm: "batch_renorm", "batch_norm", "none" for no normalization, or a callable that makes a
            layer when called as `norm(name=..., **norm_options)`.
        norm_options: Arguments of every normalization layer, such as `{"momentum": 0.9}`.
        classifier_activation: Activation of the output; None for logits.
        **model_options: Arguments of this model, such as `hidden_units` of "mlp".

    Returns:
        A Keras functional model named `name`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a name or an option is unknown or a number is out of range; the message
            names the nearest that is known.

    Example:
        >>> model = zoo.create_model("resnet20", norm_options={"r_max": 3.0, "d_max": 5.0})
    """
    if not isinstance(name, str):
        raise TypeError(f"`name` must be a string such as 'resnet20', received {name!r}.")
    if name not in MODELS:
        raise ValueError(
            f"Unknown model {name!r}.{nearest(name, MODELS)} Known are "
            f"{', '.join(map(repr, list_models()))}."
        )
    build = MODELS[name]
    _check_model_options(name, build, model_options)
    return build(
        name=name,
        num_classes=positive_integer("num_classes", num_classes),
        input_shape=positive_integers("input_shape", input_shape, example="(32, 32, 3)"),
        norm=create_normalizer(norm, norm_options),
        classifier_activation=classifier_activation,
        **model_options,
    )


def _check_model_options(name: str, build: Any, options: Mapping[str, Any]) -> None:
    fixed = build.keywords if isinstance(build, functools.partial) else {}
    own = set(inspect.signature(build).parameters) - set(_COMMON) - set(fixed)
    for option in sorted(options.keys() - own):
        allowed = ", ".join(map(repr, sorted({*own, *_COMMON, "norm_options"} - {"name"})))
        raise ValueError(
            f"Unknown option {option!r} for model {name!r}.{nearest(option, own)} "
            f"Allowed are {allowed}."
        )
