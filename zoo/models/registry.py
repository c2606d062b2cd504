"""The models by name."""

import dataclasses
import fnmatch
import functools
import inspect
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from zoo.catalog import SMALL_INCEPTIONS, WIDE_RESNETS
from zoo.errors import nearest
from zoo.models.arguments import choice, fraction, positive_integer, positive_integers
from zoo.models.cifar_resnet import cifar_resnet
from zoo.models.head import Head
from zoo.models.inception_bn import inception_bn
from zoo.models.inception_v3 import inception_v3
from zoo.models.mlp import mlp, mlp_sigmoid
from zoo.models.normalization import Norm, create_normalizer
from zoo.models.resnet import resnet
from zoo.models.resnet_v2 import resnet_v2
from zoo.models.small_inception import small_inception
from zoo.models.wide_resnet import wide_resnet
from zoo.weights.loading import load
from zoo.weights.records import RECORDS
from zoo.weights.source import Source, find


@dataclasses.dataclass(frozen=True)
class Architecture:
    """The facts that `create_model` needs about a model.

    Attributes:
        build: Builds the model from the keyword arguments in `_COMMON`. It may have more arguments
            with defaults.
        input_shape: Shape of an image if the caller gives none, `(H, W, C)`.
        num_classes: Number of classes if the caller gives none.
        residual: Whether it has residual branches, and so takes `norm="skip_init"`.
        images: Whether it takes images only, and not inputs of any shape.
        min_size: Least height and width of an image.
    """

    build: Callable[..., keras.Model]
    input_shape: tuple[int, int, int] = (32, 32, 3)
    num_classes: int = 10
    residual: bool = False
    images: bool = True
    min_size: int = 1


def _cifar_resnet(depth: int) -> Architecture:
    return Architecture(functools.partial(cifar_resnet, depth=depth), residual=True)


def _resnet(build: Callable[..., keras.Model], depth: int) -> Architecture:
    return Architecture(functools.partial(build, depth=depth), (224, 224, 3), 1000, residual=True)


def _wide_resnet(depth: int, width: int) -> Architecture:
    return Architecture(functools.partial(wide_resnet, depth=depth, width=width), residual=True)


def _small_inception(width: int) -> Architecture:
    return Architecture(functools.partial(small_inception, width=width))


#: The models that `list_models` lists. A new one is one more entry.
MODELS: dict[str, Architecture] = {
    "mlp": Architecture(mlp, images=False),
    "mlp_sigmoid": Architecture(mlp_sigmoid, (28, 28, 1), images=False),
    "inception_bn": Architecture(inception_bn, (224, 224, 3), 1000, min_size=32),
    "inception_v3": Architecture(inception_v3, (299, 299, 3), 1000, min_size=75),
    **{f"resnet{depth}": _cifar_resnet(depth) for depth in (20, 32, 44, 56, 110)},
    **{f"resnet{depth}": _resnet(resnet, depth) for depth in (18, 34, 50, 101, 152)},
    **{f"resnet{depth}v2": _resnet(resnet_v2, depth) for depth in (50, 101, 152)},
    **{f"small_inception_{width}": _small_inception(width) for width in SMALL_INCEPTIONS},
    **{f"wide_resnet_{depth}_{width}": _wide_resnet(depth, width) for depth, width in WIDE_RESNETS},
}

#: Families with numbers in their names, of which `MODELS` holds some: the pattern of a name, and
#: what makes the model's record from the numbers.
FAMILIES: dict[str, Callable[..., Architecture]] = {
    r"small_inception_([1-9]\d{0,8})": _small_inception,
    r"wide_resnet_([1-9]\d{0,8})_([1-9]\d{0,8})": _wide_resnet,
}

#: What every `build` is given.
_COMMON = ("input_shape", "norm", "head", "name")

#: Dropout before the classifier where nothing normalizes, as De & Smith 2020 advise.
_SKIP_INIT_DROPOUT = 0.2


def list_models(pattern: str = "*", *, pretrained: bool = False) -> list[str]:
    """Returns the names of the models, sorted.

    Args:
        pattern: Shell pattern that the names must match, such as "resnet*".
        pretrained: Whether to list only models with weights; see `zoo.list_weights`.

    Returns:
        Names that `create_model` takes.
    """
    names = {record.architecture for record in RECORDS.values()} if pretrained else MODELS.keys()
    return sorted(fnmatch.filter(names, pattern))


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    input_shape: Sequence[int | None] | None = None,
    norm: Norm = "batch_renorm",
    norm_options: Mapping[str, Any] | None = None,
    include_top: bool = True,
    pooling: str | None = None,
    data_format: str | None = None,
    classifier_activation: Any = "softmax",
    dropout_rate: float | None = None,
    weights: str | os.PathLike[str] | None = None,
    **model_options: Any,
) -> keras.Model:
    """Builds an image classifier, with fresh weights or with those of a checkpoint.

    The model takes images `[B, H, W, C]` of float32 pixels scaled to [0, 1] (`uint8 / 255`). It
    gives probabilities `[B, K]`, or logits with `classifier_activation=None`. A layer before a
    normalization has no bias, except with `norm="none"` and `norm="skip_init"`. For a checkpoint,
    prepare the images with `zoo.preprocessing`.

    Args:
        name: One of `list_models()`, or `wide_resnet_D_W` with another depth D = 6n+4 and width W,
            or `small_inception_W` with another width W, a multiple of 6.
        num_classes: Number of classes K. By default the number in the model's usual data set: 10,
            or 1000 for ImageNet's models.
        input_shape: Shape of an image, `(H, W, C)`, or `(C, H, W)` where the channels come first.
            By default the shape in the model's usual data set.
        norm: "batch_renorm", "batch_norm", "none" for no normalization, "skip_init" for a learnable
            scale at the end of each residual branch instead (De & Smith 2020; residual models
            only), or a callable that makes a layer when called as `norm(name=..., **norm_options)`,
            with `axis=1` where the channels come first.
        norm_options: Arguments of every normalization layer, such as `{"momentum": 0.9}`; with
            "skip_init", `{"initial_value": ...}`.
        include_top: Whether the model classifies; if not, it ends with its features.
        pooling: Without a top: "avg" or "max" over the positions; None for the feature maps.
        data_format: "channels_last" or "channels_first"; by default as in Keras's settings.
        classifier_activation: Activation of the output; None for logits.
        dropout_rate: Fraction of the features dropped before the classification, in training. By
            default 0, and 0.2 with "skip_init".
        weights: None for fresh weights. Or a checkpoint: one of `zoo.list_weights()`, the part of
            its name after the model's, such as "keras_imagenet", or the path of a file that ends
            in .h5, written by `model.save_weights` or `keras.applications`. The checkpoint's
            normalization options, such as epsilon, are the defaults of `norm_options`. If
            `num_classes` differs from the checkpoint's, the last layer stays fresh, with a warning.
        **model_options: Arguments of this model, such as `hidden_units` of "mlp", or
            `stochastic_depth_rate` of residual models (see `zoo.models.residual`).

    Returns:
        A Keras functional model named `name`. With `auxiliary_head=True`, the default of
        "inception_bn", it has two outputs: the classifier's and the auxiliary classifier's.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a name or an option is unknown or a number is out of range. The message
            names the nearest known name.
        zoo.weights.WeightsError: If the weights are not available or do not fit.

    Example:
        >>> model = zoo.create_model("resnet20", norm_options={"r_max": 3.0, "d_max": 5.0})
    """
    model = find_architecture(name)
    _check_model_options(name, model_options)
    source = None if weights is None else find(name, weights)
    if source is not None:
        model = _as_trained(model, source)
        norm_options = _norm_options(norm, norm_options, source)
    layout = choice(
        "data_format",
        keras.config.image_data_format() if data_format is None else data_format,
        ("channels_last", "channels_first"),
    )
    _check_top(include_top, pooling)
    head = Head(
        include_top=include_top,
        pooling=pooling,
        num_classes=positive_integer(
            "num_classes", model.num_classes if num_classes is None else num_classes
        ),
        activation=classifier_activation,
        dropout_rate=_dropout_rate(dropout_rate, norm),
        data_format=layout,
    )
    built = model.build(
        name=name,
        input_shape=_input_shape(name, model, input_shape, layout),
        norm=create_normalizer(norm, norm_options, data_format=layout, residual=model.residual),
        head=head,
        **model_options,
    )
    if source is not None:
        load(built, source)
    return built


def find_architecture(name: str) -> Architecture:
    """Returns the record of a model.

    Args:
        name: One of `list_models()`, or another of a family with numbers in its names.

    Returns:
        Its record.

    Raises:
        TypeError: If the name is not a string.
        ValueError: If there is no such model; the message names the nearest.
    """
    if not isinstance(name, str):
        raise TypeError(f"`name` must be a string such as 'resnet20', received {name!r}.")
    if name in MODELS:
        return MODELS[name]
    for pattern, make in FAMILIES.items():
        if numbers := re.fullmatch(pattern, name):
            return make(*map(int, numbers.groups()))
    raise ValueError(
        f"Unknown model {name!r}.{nearest(name, MODELS)} Known are "
        f"{', '.join(map(repr, list_models()))}."
    )


def _as_trained(model: Architecture, source: Source) -> Architecture:
    """The architecture with the image size and the number of classes of a checkpoint."""
    if source.num_classes is not None:
        model = dataclasses.replace(model, num_classes=source.num_classes)
    if source.record is not None:
        model = dataclasses.replace(model, input_shape=source.record.input_shape)
    return model


def _norm_options(norm: Norm, options: Any, source: Source) -> Any:
    """The options of the normalization layers, with those of a checkpoint where none is given."""
    if norm not in ("batch_norm", "batch_renorm") or not isinstance(options, Mapping | None):
        return options  # `create_normalizer` says what is wrong with these.
    return {**source.norm_options, **(options or {})}


def _check_top(include_top: bool, pooling: str | None) -> None:
    choice("include_top", include_top, (True, False))
    choice("pooling", pooling, (None, "avg", "max"))
    if pooling is not None and include_top:
        raise ValueError(
            f"`pooling` is for models without a top, received pooling={pooling!r} with "
            "include_top=True. Write include_top=False, or leave it out."
        )


def _input_shape(
    name: str, model: Architecture, shape: Sequence[int | None] | None, layout: str
) -> tuple[int | None, ...]:
    """The shape of an image in the model's layout."""
    first = layout == "channels_first"
    if shape is None:
        *positions, channels = model.input_shape
        return (channels, *positions) if first else (*positions, channels)
    if not model.images:
        return positive_integers("input_shape", shape, example="(28, 28, 1)")
    sizes = positive_integers("input_shape", shape, example="(32, 32, 3)", unknown=True)
    form = "(C, H, W)" if first else "(H, W, C)"
    channels_known = len(sizes) == 3 and sizes[0 if first else 2] is not None
    if not channels_known:
        raise ValueError(
            f"`input_shape` of {name} must be {form}, with None for a size that varies but not for "
            f"the channels, received {sizes}."
        )
    if any(n is not None and n < model.min_size for n in (sizes[1:] if first else sizes[:2])):
        raise ValueError(
            f"Images of {name} must have at least {model.min_size} pixels in height and width, "
            f"received input_shape={sizes}."
        )
    return sizes


def _dropout_rate(rate: float | None, norm: Norm) -> float:
    if rate is None:
        return _SKIP_INIT_DROPOUT if norm == "skip_init" else 0.0
    return fraction("dropout_rate", rate)


def own_options(name: str) -> set[str]:
    """Returns the arguments of `create_model` that only this model takes.

    Args:
        name: Name of the model.

    Raises:
        TypeError: If it is no string.
        ValueError: If there is no model of that name.
    """
    build = find_architecture(name).build
    fixed = build.keywords if isinstance(build, functools.partial) else {}
    return set(inspect.signature(build).parameters) - set(_COMMON) - set(fixed)


def _check_model_options(name: str, options: Mapping[str, Any]) -> None:
    own = own_options(name)
    common = set(inspect.signature(create_model).parameters) - {"name", "model_options"}
    for option in sorted(options.keys() - own):
        allowed = ", ".join(map(repr, sorted(own | common)))
        others = ", ".join(other for other in list_models() if option in own_options(other))
        hint = f" It is for {others}." if others else nearest(option, own | common)
        raise ValueError(
            f"Unknown option {option!r} for model {name!r}.{hint} Allowed are {allowed}."
        )
