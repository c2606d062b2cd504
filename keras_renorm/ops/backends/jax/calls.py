"""The native library's calls as functions of JAX arrays, on the CPU.

They are those of `keras_renorm.ops.backends.kernels.StepCalls`. The passes are left out: they
return float64, which JAX has only on demand.
"""

import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from keras_renorm.ops import arguments as checks
from keras_renorm.ops.backends.kernels import Forward
from keras_renorm.ops.maths.operands import Arguments, Constants, Settings
from keras_renorm.ops.native import layout, loader


@loader.once
def register() -> loader.NativeLibrary:
    """Makes the library's handlers known to JAX, once per process.

    Raises:
        NativeLibraryError: The library does not load, or this JAX does not take it.
    """
    library = loader.load()
    loader.check_ffi(f"JAX {jax.__version__}", _ffi_version())
    for name, handler in loader.handlers().items():
        try:
            jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(handler), platform="cpu")
        except Exception as error:
            raise loader.NativeLibraryError(
                f"JAX {jax.__version__} does not take the handler {name}: {error}"
            ) from error
    return library


def _ffi_version() -> int:
    """The version of the interface to XLA for `loader.check_ffi`, from the header that holds it.

    -1 where there is no `jax.ffi`, no header, or no version in it.
    """
    if not hasattr(jax, "ffi"):
        return -1
    path = pathlib.Path(jax.ffi.include_dir(), "xla/ffi/api/c_api.h")
    header = path.read_text(encoding="utf-8") if path.is_file() else ""
    numbers = re.findall(r"define XLA_FFI_API_(?:MAJOR|MINOR) (\d+)", header)
    return 1000 * int(numbers[0]) + int(numbers[1]) if len(numbers) == 2 else -1


def forward(arguments: Arguments, constants: Constants, settings: Settings) -> Forward:
    """See `keras_renorm.ops.backends.kernels.StepCalls`."""
    operands = [*arguments, *constants[:4]]
    return Forward(*_call("forward", operands, arguments.x, constants.mask, settings))


def backward(
    dy: jax.Array, x: jax.Array, statistics: jax.Array, mask: jax.Array | None, settings: Settings
) -> Arguments:
    """See `keras_renorm.ops.backends.kernels.StepCalls`."""
    return Arguments(*_call("backward", [dy, x, statistics], x, mask, settings))


def _call(
    name: str,
    operands: list[jax.Array],
    x: jax.Array,
    mask: jax.Array | None,
    settings: Settings,
) -> list[jax.Array]:
    """Makes a call of the library, with attributes in the types that the handlers take.

    The mask is the last operand, if there is one: a value per element, or per position of `x`.
    """
    register()
    axis, size = settings.axis, settings.ghost_size
    if mask is not None:
        shape = (*x.shape[:axis], mask.shape[axis], *x.shape[axis + 1 :])
        operands = [*operands, jnp.broadcast_to(mask, shape)]
    ghosts = 1 if size is None else -(-x.shape[0] // size)
    own, wide = (x.dtype, x.shape), checks.wide(x.dtype)
    results = [
        jax.ShapeDtypeStruct(shape, dtype)
        for dtype, shape in layout.results(name, own, wide, "float64", ghosts, x.shape[axis])
    ]
    types: dict[type, Any] = {bool: bool, int: np.int64, float: np.float64}
    given = layout.attributes(settings)
    attributes = {key: types[type(value)](value) for key, value in given.items()}
    call = jax.ffi.ffi_call(loader.target(name), results, vmap_method="sequential")
    return list(call(*operands, **attributes))
