"""The native kernels as functions of JAX arrays, on the CPU.

The same two calls as in `tensorflow_calls`, without the separate ones: those return float64, which
JAX has only when asked for.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from keras_renorm.ops.native import loader


@loader.once
def register() -> loader.NativeLibrary:
    """Makes the library's handlers known to JAX, once per process.

    Raises:
        NativeLibraryError: The library does not load, or this JAX does not take it.
    """
    library = loader.load()
    for name, handler in loader.handlers().items():
        try:
            jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(handler), platform="cpu")
        except Exception as error:
            raise loader.NativeLibraryError(
                f"JAX {jax.__version__} does not take the handler {name}: {error}"
            ) from error
    return library


def wide(dtype: Any) -> Any:
    """Returns the type of the per-channel operands: float64 for float64, else float32."""
    return jnp.float64 if dtype == jnp.float64 else jnp.float32


def _optional(weights: jax.Array | None, x: jax.Array, axis: int) -> list[jax.Array]:
    """The last operand, where there is one: a value per element, or per position of `x`."""
    if weights is None:
        return []
    if weights.dtype != jnp.bool_:
        weights = weights.astype(jnp.float32)
    shape = (*x.shape[:axis], weights.shape[axis], *x.shape[axis + 1 :])
    return [jnp.broadcast_to(weights, shape)]


def _attributes(
    axis: int,
    ghost_size: int | None,
    relu: bool,
    epsilon: float = 0.0,
    momentum: float = 1.0,
    by_stddev: bool = False,
) -> dict[str, Any]:
    """A call's attributes, in the types that the handlers take."""
    types: dict[type, Any] = {bool: bool, int: np.int64, float: np.float64}
    given = loader.attributes(axis, ghost_size, relu, epsilon, momentum, by_stddev)
    return {key: types[type(value)](value) for key, value in given.items()}


def forward(
    x: jax.Array,
    gamma: jax.Array,
    beta: jax.Array,
    moving_mean: jax.Array,
    moving_variance: jax.Array,
    r_max: jax.Array,
    d_max: jax.Array,
    weights: jax.Array | None = None,
    *,
    axis: int,
    epsilon: float,
    relu: bool = False,
    ghost_size: int | None = None,
    momentum: float = 1.0,
    by_stddev: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]:
    """Batch Renormalization and the moving update; see `tensorflow_calls.forward`.

    Args:
        x: [..., channels, ...].
        gamma: [channels], of type `wide(x.dtype)`, as are all the following.
        beta: [channels].
        moving_mean: [channels].
        moving_variance: [channels].
        r_max: Scalar; a value below 1 counts as 1.
        d_max: Scalar; a value below 0 counts as 0.
        weights: Mask (bool) or weights, of the rank of `x` and broadcast against it.
        axis: The axis of the channels, at least 0.
        epsilon: Added to both variances.
        relu: Whether to take the positive part of y.
        ghost_size: Rows of the batch with moments of their own; None for all together.
        momentum: Weight of the old moving statistics in the new ones.
        by_stddev: Whether sigma is averaged, and not the variance.

    Returns:
        y, the packed statistics [9, ghosts, channels], the moving mean and variance after the
        update [channels], and whether there was one: a scalar, 1 or 0.
    """
    register()
    ghosts = 1 if ghost_size is None else -(-x.shape[0] // ghost_size)
    vector = jax.ShapeDtypeStruct((x.shape[axis],), wide(x.dtype))
    results = (
        jax.ShapeDtypeStruct(x.shape, x.dtype),
        jax.ShapeDtypeStruct((loader.STATISTICS, ghosts, x.shape[axis]), wide(x.dtype)),
        vector,
        vector,
        jax.ShapeDtypeStruct((), wide(x.dtype)),
    )
    call = jax.ffi.ffi_call(loader.target("forward"), results, vmap_method="sequential")
    found: tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array] = tuple(
        call(
            x,
            gamma,
            beta,
            moving_mean,
            moving_variance,
            r_max,
            d_max,
            *_optional(weights, x, axis),
            **_attributes(axis, ghost_size, relu, epsilon, momentum, by_stddev),
        )
    )
    return found


def backward(
    dy: jax.Array,
    x: jax.Array,
    statistics: jax.Array,
    weights: jax.Array | None = None,
    *,
    axis: int,
    relu: bool = False,
    ghost_size: int | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gradients of `forward` for x, gamma and beta; see `tensorflow_calls.backward`.

    Args:
        dy: Gradient of the output, like x.
        x: The input of `forward`.
        statistics: Its packed statistics.
        weights: Its weights.
        axis: As there.
        relu: As there.
        ghost_size: As there.
    """
    register()
    vector = jax.ShapeDtypeStruct((x.shape[axis],), statistics.dtype)
    results = (jax.ShapeDtypeStruct(x.shape, x.dtype), vector, vector)
    call = jax.ffi.ffi_call(loader.target("backward"), results, vmap_method="sequential")
    dx, dgamma, dbeta = call(
        dy,
        x,
        statistics,
        *_optional(weights, x, axis),
        **_attributes(axis, ghost_size, relu),
    )
    return dx, dgamma, dbeta
