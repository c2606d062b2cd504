"""The argument `norm` of a model, and the layers that it makes."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import keras

from keras_renorm import layers
from keras_renorm.typing import Tensor
from zoo.errors import nearest

#: A name, or what makes a layer when called as `norm(name=..., **norm_options)`.
Norm: TypeAlias = str | Callable[..., keras.layers.Layer]

#: The names that `norm` takes, and what makes their layers; None for no layer.
NORMS: dict[str, Callable[..., keras.layers.Layer] | None] = {
    "batch_norm": layers.BatchNormalization,
    "batch_renorm": layers.BatchRenormalization,
    "none": None,
    "skip_init": None,
}


@dataclasses.dataclass(frozen=True)
class Normalizer:
    """How a model normalizes: the one object through which its file adds normalization layers.

    A model asks it for `use_bias` of the layer before a normalization, and calls it on that
    layer's output, together with the nonlinearity that follows. A family with residual branches
    hands the end of each to `scale_branch`.

    Attributes:
        make: Makes a layer, called as `make(name=..., **options)`; None to normalize nothing.
        options: Arguments of every layer made.
        data_format: Layout of the feature maps, "channels_last" or "channels_first".
        branch_scale: What makes the scale of a residual branch, called as
            `branch_scale(depth=..., name=...)`; None for no scale.

    Example:
        >>> norm = Normalizer(layers.BatchRenormalization, {"momentum": 0.9})
        >>> x = keras.layers.Dense(100, use_bias=norm.use_bias)(x)
        >>> x = norm(x, "hidden1", "relu")
    """

    make: Callable[..., keras.layers.Layer] | None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    data_format: str = "channels_last"
    branch_scale: Callable[..., keras.layers.Layer] | None = None

    @property
    def use_bias(self) -> bool:
        """Whether a layer followed by a normalization needs a bias; beta takes its part if not."""
        return self.make is None

    @property
    def axis(self) -> int:
        """The axis of the channels."""
        return -1 if self.data_format == "channels_last" else 1

    def __call__(self, x: Tensor, name: str, activation: str | None = None) -> Tensor:
        """Normalizes `x` and applies the nonlinearity.

        A layer of `keras_renorm` computes both in one pass over the memory. Beside any other, and
        without one, the nonlinearity is a layer of its own.

        Args:
            x: Tensor `[..., C]`, or feature maps in the layout `data_format`.
            name: What the names of the layers begin with: `{name}_norm`, `{name}_activation`.
            activation: Name of the nonlinearity; None for none.

        Returns:
            Tensor of the same shape; `x` itself if there is nothing to add.

        Raises:
            TypeError: If `make` made something other than a Keras layer.
        """
        fused = activation is not None and _takes_activation(self.make)
        if self.make is not None:
            x = self._layer(f"{name}_norm", {"activation": activation} if fused else {})(x)
        if activation is None or fused:
            return x
        return keras.layers.Activation(activation, name=f"{name}_activation")(x)

    def scale_branch(self, x: Tensor, name: str, depth: int) -> Tensor:
        """Scales the end of a residual branch, if the model scales branches instead of normalizing.

        Args:
            x: Tensor `[..., C]`.
            name: What the name of the layer begins with: `{name}_skip_init`.
            depth: Number of residual blocks of the network.

        Returns:
            Tensor of the same shape; `x` itself if the branches are not scaled.
        """
        if self.branch_scale is None:
            return x
        return self.branch_scale(depth=depth, name=f"{name}_skip_init")(x)

    def _layer(self, name: str, options: Mapping[str, Any]) -> keras.layers.Layer:
        if self.data_format == "channels_first":
            options = {"axis": 1, **options}
        layer = self.make(name=name, **options, **self.options) if self.make else None
        if not isinstance(layer, keras.layers.Layer):
            raise TypeError(
                "A callable `norm` must return a keras.layers.Layer when called as "
                f"norm(name=..., **norm_options), received {layer!r} from {self.make!r}."
            )
        return layer


def create_normalizer(
    norm: Norm,
    options: Mapping[str, Any] | None = None,
    *,
    data_format: str = "channels_last",
    residual: bool = True,
) -> Normalizer:
    """Returns the normalizer for the arguments `norm` and `norm_options` of a model.

    Args:
        norm: "batch_norm", "batch_renorm", "none", "skip_init", or a callable that makes a layer
            when called as `norm(name=..., **norm_options)`, with `axis=1` where the channels come
            first.
        options: Arguments of every normalization layer, such as `{"r_max": 3.0}`; with
            "skip_init" `{"initial_value": ...}`.
        data_format: Layout of the feature maps, "channels_last" or "channels_first".
        residual: Whether the model has residual branches, which "skip_init" scales.

    Returns:
        A `Normalizer`.

    Raises:
        TypeError: If `norm` is neither a name nor a callable that makes layers, or `options` is not
            a mapping with names for keys.
        ValueError: If the name or the name of an option is unknown.
    """
    if not isinstance(options, Mapping | None):
        raise TypeError(f"`norm_options` must be a mapping or None, received {options!r}.")
    options = dict(options or {})
    for option in options:
        if not isinstance(option, str):
            raise TypeError(f"The keys of `norm_options` must be strings, received {option!r}.")
    for option in sorted(_OF_THE_MODEL & options.keys()):
        raise ValueError(
            f"`norm_options` must not hold {option!r}: a model chooses it for each of its layers."
        )
    if isinstance(norm, str):
        make = _look_up(norm, residual)
        _check_options(norm, make, options)
        if norm == "skip_init":
            return Normalizer(None, {}, data_format, _BranchScale(options))
        return Normalizer(make, options, data_format)
    if isinstance(norm, keras.layers.Layer):
        raise TypeError(
            f"`norm` must make a layer for each place, received the layer {norm!r}: pass the "
            f"class, {type(norm).__name__}, or a function that makes one, with its arguments in "
            "`norm_options`."
        )
    if not callable(norm):
        raise TypeError(
            f"`norm` must be one of {_quoted(NORMS)} or a callable that makes a layer, received "
            f"{norm!r}. For no normalization write norm='none'."
        )
    return Normalizer(norm, options, data_format)


#: Arguments of the layers that a model sets itself.
_OF_THE_MODEL = {"activation", "axis", "name"}


@dataclasses.dataclass(frozen=True)
class _BranchScale:
    """Makes `SkipInit` layers, with the depth if the initial value depends on it."""

    options: Mapping[str, Any]

    def __call__(self, *, depth: int, name: str) -> keras.layers.Layer:
        options = dict(self.options)
        if isinstance(options.get("initial_value"), str):
            options["depth"] = depth
        return layers.SkipInit(name=name, **options)


def _look_up(norm: str, residual: bool) -> Callable[..., keras.layers.Layer] | None:
    allowed = [name for name in NORMS if residual or name != "skip_init"]
    if norm in NORMS and norm not in allowed:
        raise ValueError(
            "norm='skip_init' scales residual branches, and this model has none. Allowed are "
            f"{_quoted(allowed)} and a callable that makes a layer."
        )
    if norm not in NORMS:
        raise ValueError(
            f"Unknown norm {norm!r}.{nearest(norm, allowed)} Allowed are {_quoted(allowed)} and a "
            "callable that makes a layer."
        )
    return NORMS[norm]


def _takes_activation(make: Any) -> bool:
    """Whether the layer computes the nonlinearity, too."""
    return isinstance(make, type) and issubclass(make, layers.BatchNormalization)


def _check_options(norm: str, make: Any, options: Mapping[str, Any]) -> None:
    """Refuses an option that no layer of this kind takes, before Keras does so less clearly."""
    if norm == "none" and options:
        raise ValueError(
            f"norm='none' adds no layer and takes no `norm_options`, received {dict(options)!r}."
        )
    allowed = {"initial_value", "dtype"} if make is None else _parameters(make)
    for option in sorted(options.keys() - allowed):
        raise ValueError(
            f"Unknown key {option!r} in `norm_options` for norm={norm!r}."
            f"{nearest(option, allowed)} Allowed are {_quoted(allowed)}."
        )


def _parameters(layer_class: type[keras.layers.Layer]) -> set[str]:
    """The names that a layer's constructor takes, those it hands on to its bases included."""
    bases = [base for base in layer_class.__mro__ if issubclass(base, keras.layers.Layer)]
    constructors = [vars(base)["__init__"] for base in bases if "__init__" in vars(base)]
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    found = {
        parameter.name
        for constructor in constructors
        for parameter in inspect.signature(constructor).parameters.values()
        if parameter.kind in named
    }
    return found - {"self", *_OF_THE_MODEL}


def _quoted(names: Any) -> str:
    return ", ".join(repr(name) for name in sorted(names))
