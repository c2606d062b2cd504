"""What the argument `norm` of a model means."""

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
}


@dataclasses.dataclass(frozen=True)
class Normalizer:
    """How a model normalizes: the one object through which its file adds normalization layers.

    A model asks it for `use_bias` of the layer before a normalization, and calls it on that
    layer's output. A family with residual branches calls it nowhere else than where its paper
    puts a normalization, so that what replaces them can be added here.

    Attributes:
        make: Makes a layer, called as `make(name=..., **options)`; None to normalize nothing.
        options: Arguments of every layer made.

    Example:
        >>> norm = Normalizer(layers.BatchRenormalization, {"momentum": 0.9})
        >>> x = keras.layers.Dense(100, use_bias=norm.use_bias)(x)
        >>> x = norm(x, "hidden1_norm")
    """

    make: Callable[..., keras.layers.Layer] | None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def use_bias(self) -> bool:
        """Whether a layer followed by a normalization needs a bias; beta takes its part if not."""
        return self.make is None

    def __call__(self, x: Tensor, name: str) -> Tensor:
        """Normalizes `x`.

        Args:
            x: Tensor `[..., C]`.
            name: Name of the layer.

        Returns:
            Tensor of the same shape; `x` itself if there is nothing to add.

        Raises:
            TypeError: If `make` made something other than a Keras layer.
        """
        if self.make is None:
            return x
        layer = self.make(name=name, **self.options)
        if not isinstance(layer, keras.layers.Layer):
            raise TypeError(
                "A callable `norm` must return a keras.layers.Layer when called as "
                f"norm(name=..., **norm_options), received {layer!r} from {self.make!r}."
            )
        return layer(x)


def create_normalizer(norm: Norm, options: Mapping[str, Any] | None = None) -> Normalizer:
    """Returns the normalizer that the arguments `norm` and `norm_options` of a model ask for.

    Args:
        norm: "batch_norm", "batch_renorm", "none", or a callable that makes a layer when called as
            `norm(name=..., **norm_options)`.
        options: Arguments of every normalization layer, such as `{"r_max": 3.0}`.

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
    if isinstance(norm, str):
        make = _look_up(norm)
        _check_options(norm, make, options)
        return Normalizer(make, options)
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
    if "name" in options:
        raise ValueError("`norm_options` must not hold 'name': a model names its layers itself.")
    return Normalizer(norm, options)


def _look_up(norm: str) -> Callable[..., keras.layers.Layer] | None:
    if norm not in NORMS:
        raise ValueError(
            f"Unknown norm {norm!r}.{nearest(norm, NORMS)} Allowed are {_quoted(NORMS)} and a "
            "callable that makes a layer."
        )
    return NORMS[norm]


def _check_options(norm: str, make: Any, options: Mapping[str, Any]) -> None:
    """Refuses an option that no layer of this kind takes, before Keras does so less clearly."""
    if make is None and options:
        raise ValueError(
            f"norm='none' adds no layer and takes no `norm_options`, received {dict(options)!r}."
        )
    allowed = _parameters(make) if make is not None else set()
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
    return found - {"self", "name"}


def _quoted(names: Any) -> str:
    return ", ".join(repr(name) for name in sorted(names))
