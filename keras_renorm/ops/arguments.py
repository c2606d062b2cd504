"""Checks of the arguments that ops and layers share.

Each check raises a ValueError or TypeError that names the argument, what was received and what is
allowed. It returns the argument in its canonical form.
"""

import math
from collections.abc import Sequence
from typing import Any

import keras
import ml_dtypes
import numpy as np

from keras_renorm.typing import Tensor

# Read once: `torch.compile` cannot trace `finfo`.
_LARGEST: dict[str, float] = {
    name: float(ml_dtypes.finfo(name).max)  # type: ignore[no-untyped-call]
    for name in ("float16", "bfloat16", "float32", "float64")
}

_NOT_FLOATING = {
    *("bool", "string", "int4", "complex64", "complex128"),
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
}

LEAST = {"r_max": 1.0, "d_max": 0.0}
"""The limits' least values, with which Batch Renormalization is Batch Normalization."""


def real(name: str, value: Any, *, low: float, high: float = math.inf) -> float:
    """`value` as a float, if it is a number in [`low`, `high`]."""
    number = _number(name, value)
    if not low <= number <= high:
        allowed = f"at least {low:g}" if high == math.inf else f"in [{low:g}, {high:g}]"
        raise ValueError(f"`{name}` must be {allowed}, received {name}={value!r}.")
    return number


def integer(name: str, value: Any, *, low: int | None = None, allowed: str = "an integer") -> int:
    """`value` as an int, if it is an integer, of at least `low`. `allowed` says so in messages."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(
            f"`{name}` must be {allowed}, received {value!r} of type {type(value).__name__}."
        )
    if low is not None and value < low:
        raise ValueError(f"`{name}` must be at least {low}, received {name}={value}.")
    return int(value)


def optional_integer(name: str, value: Any, **options: Any) -> int | None:
    """None, or `value` as `integer` takes it."""
    return None if value is None else integer(name, value, **options)


def inputs(x: Tensor, at: int, mask: Tensor | None) -> tuple[Tensor, int, Tensor | None]:
    """`x` as a floating-point tensor, the axis counted from the front, `mask` as booleans.

    Raises:
        TypeError: If `x` is not floating point, or `x` or `mask` is no tensor.
        ValueError: If `axis` or the shape of `mask` does not fit `x`.
    """
    x = keras.ops.convert_to_tensor(numbers("x", x))
    floating("x", x)
    at = axis(at, len(x.shape))
    if x.shape[at] is None:
        raise ValueError(
            f"The number of channels, the size of `x` along axis {at}, must be known; received "
            f"`x` of shape {tuple(x.shape)}. Set it, e.g. with `keras.ops.reshape`."
        )
    if mask is not None:
        mask = keras.ops.cast(keras.ops.convert_to_tensor(numbers("mask", mask)), "bool")
        mask_shape(mask.shape, x.shape, layer=False)
    return x, at, mask


def numbers(name: str, value: Any) -> Any:
    """`value`, unless it is none that a tensor of numbers can be made of."""
    # A tuple of types: torch.compile takes no union of them (PyTorch 2.13).
    if value is None or isinstance(value, (str, bytes, dict)):
        raise TypeError(
            f"`{name}` must be a tensor, or an array or a list of numbers; received {value!r} of "
            f"type {type(value).__name__}. Write e.g. `keras.ops.convert_to_tensor(values)`."
        )
    return value


def shape(value: Any) -> tuple[int | None, ...]:
    """`value` as a tuple, if it is the shape of one tensor."""
    if not _is_shape(value):
        raise TypeError(
            "`input_shape` must be the shape of one tensor, a tuple of sizes, each an integer of 0 "
            f"or more, or None where it is not known; received {value!r}. Write e.g. (None, 8)."
        )
    return tuple(value)


def _is_shape(value: Any) -> bool:
    if not hasattr(value, "__iter__") or isinstance(value, str | bytes | dict):
        return False
    return all(size is None or (isinstance(size, int | np.integer) and size >= 0) for size in value)


def tensors(inputs: Any) -> list[Any]:
    """The tensors or arrays of a structure, if it holds some, and nothing else but None."""
    found: list[Any] = [x for x in keras.tree.flatten(inputs) if x is not None]
    if not found or not all(hasattr(x, "shape") for x in found):
        raise TypeError(
            "`inputs` must be a tensor, or a list, a tuple or a dictionary of tensors; received "
            f"{inputs!r}. What made them may lack a `return`."
        )
    return found


def shapes(value: Any) -> Any:
    """`value`, if it is a shape, or a list, a tuple or a dictionary of shapes."""
    if isinstance(value, dict):
        return {name: shapes(part) for name, part in value.items()}
    if _is_shape(value):
        return tuple(value)
    if not isinstance(value, list | tuple):
        raise TypeError(
            "`input_shape` must be a shape, such as (None, 8), or a list, a tuple or a dictionary "
            f"of shapes; received {value!r}."
        )
    return type(value)(shapes(part) for part in value)


def layer_dtype(value: Any) -> Any:
    """`value`, unless it names a dtype in which nothing can be normalised."""
    name = getattr(value, "name", getattr(value, "__name__", value))
    # A dictionary is a policy's configuration.
    if not isinstance(name, dict) and str(name).removeprefix("torch.") in _NOT_FLOATING:
        raise ValueError(
            f"`dtype` must be floating point, or a policy that computes in it; received {value!r}. "
            "Write e.g. dtype='float32' or dtype='mixed_bfloat16'."
        )
    return value


def initializer(name: str, value: Any) -> None:
    """Raises a TypeError for None, of which Keras makes no initializer."""
    if value is None:
        raise TypeError(
            f"`{name}` must be an initializer, or the name or configuration of one, received None. "
            "Leave it out for the default, or write e.g. 'zeros'."
        )


def one_tensor(inputs: Any) -> None:
    """Raises unless `inputs` are one tensor, or the shape of one.

    Raises:
        TypeError: They are None, or a dictionary, a list or a tuple that is no shape.
    """
    if inputs is None:
        raise TypeError(
            "`inputs` must be one tensor, received no tensor, but None or an empty structure. What "
            "made them may lack a `return`."
        )
    # A tuple of types: torch.compile takes no union of them (PyTorch 2.13).
    if not isinstance(inputs, (dict, list, tuple)):
        return
    if isinstance(inputs, dict) or not all(isinstance(i, int | np.integer | None) for i in inputs):
        raise TypeError(
            f"`inputs` must be one tensor, received a {type(inputs).__name__} of {len(inputs)}. "
            "Give the layer one of them, or make one of all, e.g. by `keras.ops.concatenate`."
        )


def limit(name: str, value: float | Tensor, dtype: str) -> Tensor:
    """A limit in `dtype`.

    Args:
        name: "r_max" or "d_max".
        value: A number, or a scalar tensor. The value of a tensor is not checked here.
        dtype: The dtype of the result.

    Raises:
        TypeError: If `value` is neither a number nor a scalar tensor.
        ValueError: If `value` is a number below the least one.
    """
    if is_number(value):
        # `tf.debugging.enable_check_numerics` takes an infinity for a fault.
        value = min(real(name, value, low=LEAST[name]), largest(dtype))
    elif tuple(getattr(value, "shape", (None,))):
        raise TypeError(f"`{name}` must be a number or a scalar tensor, received {value!r}.")
    return converted(value, dtype)


def axis(value: Any, rank: int | None = None) -> int:
    """`value` as an int. With `rank`, it is within bounds and counted from the front."""
    value = integer("axis", value, allowed="one integer")
    if rank is None:
        return value
    if rank < 2:
        raise ValueError(
            "`inputs` must have at least two dimensions, a batch and channels; received an input "
            f"of rank {rank}. Add a batch dimension, e.g. `inputs[None]`."
        )
    if not -rank <= value < rank:
        raise ValueError(
            f"`axis` must lie in [{-rank}, {rank - 1}] for an input of rank {rank}, received "
            f"axis={value}."
        )
    return value % rank


def floating(name: str, x: Tensor) -> str:
    """The dtype of `x`, if `x` is floating point."""
    dtype: str = keras.backend.standardize_dtype(x.dtype)
    if "float" not in dtype:
        raise TypeError(
            f"`{name}` must be floating point, received dtype {dtype}. Cast it first, e.g. "
            f"`keras.ops.cast({name}, 'float32')`."
        )
    return dtype


def wide(dtype: Any) -> str:
    """The dtype of statistics and sums: float64 for float64 inputs, float32 for all others."""
    # Not by `keras.backend.result_type`, which makes float32 of float64 except under TensorFlow.
    return "float64" if keras.backend.standardize_dtype(dtype) == "float64" else "float32"


def largest(dtype: Any) -> float:
    """The largest finite number of a floating-point dtype."""
    return _LARGEST[keras.backend.standardize_dtype(dtype)]


def converted(value: Any, dtype: str) -> Tensor:
    """`value` in `dtype`: a tensor, an array, a number, or a list of numbers or of tensors."""
    # `cast` alone makes float32 of Python's numbers first under TensorFlow.
    if not hasattr(value, "dtype"):
        value = keras.ops.convert_to_tensor(value, dtype)  # PyTorch: no dtype of lists of tensors
    return keras.ops.cast(value, dtype)


def mask_shape(mask: Sequence[int | None], inputs: Sequence[int | None], *, layer: bool) -> None:
    """Raises unless a mask of shape `mask` broadcasts to inputs of shape `inputs`.

    With `layer` the mask has no last dimension, as is Keras's convention. Otherwise it has all
    dimensions. Unknown dimensions pass.
    """
    mask, inputs = tuple(mask), tuple(inputs)
    expected = inputs[:-1] if layer else inputs
    fits = len(mask) == len(expected) and all(
        size in (1, None) or wanted is None or size == wanted
        for size, wanted in zip(mask, expected, strict=True)
    )
    if not fits:
        rule = "the inputs' shape without its last dimension" if layer else "the inputs' rank"
        raise ValueError(
            f"`mask` must have {rule}, that is {expected} (a dimension may be 1). Received a mask "
            f"of shape {mask} for inputs of shape {inputs}."
        )


def virtual_batch_size(value: Any, *, axis: int, synchronized: bool) -> int | None:
    """`value` as an int, if it is an integer of at least 1, or None.

    Raises:
        TypeError: If `value` is not an integer.
        ValueError: If `value` is less than 1, or ghost batches do not fit the other arguments.
    """
    if value is None:
        return None
    value = integer("virtual_batch_size", value, allowed="an integer or None")
    if value < 1:
        raise ValueError(
            f"`virtual_batch_size` must be at least 1, received virtual_batch_size={value}. Write "
            "None for moments of the whole minibatch."
        )
    if synchronized:
        raise ValueError(
            "`virtual_batch_size` takes moments over less than a replica's minibatch, "
            "`synchronized=True` over more: give one of them, received "
            f"virtual_batch_size={value}, synchronized=True."
        )
    if axis == 0:
        raise ValueError(
            f"With `virtual_batch_size` the batch must be the first axis, received "
            f"virtual_batch_size={value} with the channels on axis 0. Transpose the inputs."
        )
    return value


def is_number(value: Any) -> bool:
    """Whether `value` is a real number of Python or NumPy, and no truth value."""
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def flag(name: str, value: Any) -> bool:
    """`value` as a bool, if it is a truth value of Python or NumPy."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(
            f"`{name}` must be True or False, received {value!r} of type {type(value).__name__}."
        )
    return bool(value)


def finite(name: str, value: Any) -> float:
    """`value` as a float, if it is a finite number."""
    number = _number(name, value)
    if not math.isfinite(number):
        raise ValueError(f"`{name}` must be finite, received {name}={value!r}.")
    return number


def positive(name: str, value: Any) -> float:
    """`value` as a float, if it is a finite number greater than zero."""
    number = _number(name, value)
    if not 0 < number < math.inf:
        raise ValueError(f"`{name}` must be finite and greater than 0, received {name}={value!r}.")
    return number


def _number(name: str, value: Any) -> float:
    if not is_number(value):
        raise TypeError(
            f"`{name}` must be a number, received {value!r} of type {type(value).__name__}."
        )
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"`{name}` is too large for a float: received {value!r}.") from None


def channels(name: str, shape: Sequence[int | None], size: int | None) -> None:
    """Raises unless `shape` is that of a vector with an entry for each of `size` channels."""
    if len(shape) != 1 or (None not in (shape[0], size) and shape[0] != size):
        raise ValueError(
            f"`{name}` must be a vector with one entry per channel, of shape ({size},); received "
            f"shape {tuple(shape)}."
        )
