"""JAX."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import sparse

from keras_renorm.ops.backends.interface import Backend
from keras_renorm.ops.backends.jax import calls, derivatives
from keras_renorm.ops.backends.jax.collective import MappedDevices
from keras_renorm.ops.backends.kernels import StepCalls
from keras_renorm.ops.native import loader


class Jax(Backend):
    """See `keras_renorm.ops.backends.interface.Backend`."""

    compiles = True
    synchronizes = True
    untraced = (
        "Take out the jax.jit or the scan around it, or run the gauge in `with jax.disable_jit():`."
    )
    leaks = (jax.errors.UnexpectedTracerError,)
    differentiable = staticmethod(derivatives.apply)

    def is_sparse(self, x: Any) -> bool:
        """Whether `x` is a sparse array."""
        return isinstance(x, sparse.JAXSparse)

    def native_problem(self) -> str | None:
        """Why JAX does not take the library, or None."""
        return loader.problem(calls.register)

    def off_cpu(self) -> str | None:
        """Another platform than the CPU, or several devices."""
        platform, devices = jax.default_backend(), jax.device_count()
        if platform != "cpu":
            return f"JAX computes on {platform}"
        # XLA cannot cut a call of the library: it would gather the whole batch on each device.
        return None if devices == 1 else f"JAX computes on {devices} devices"

    def step_calls(self, x: jax.Array) -> StepCalls | None:
        """The library's calls through XLA's FFI."""
        return calls

    def product(self, x: jax.Array, factor: jax.Array) -> jax.Array:
        """With a selection in the gradient of the factor, so that XLA keeps no `x` for it.

        That gradient sums `dy * x`. XLA fuses the product with the sum, which then reads the `x` of
        the forward pass. It fuses no selection with a sum, but with `x`, which it computes again.
        """
        whole = jnp.broadcast_to(factor, x.shape)
        # Only -inf is below the lowest number: XLA does not know that nothing is to be selected.
        below = factor < jnp.finfo(factor.dtype).min
        return x * jnp.where(below, jax.lax.stop_gradient(whole), whole)

    def at_once(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """By `jax.jit`."""
        known = inspect.signature(function).parameters
        return _compiled(function, *(name for name in ("momentum", "epsilon") if name in known))

    def in_one_pass(self, function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
        """By `jax.jit`, even where operations run one by one."""
        return _compiled(function, "settings")

    def replicas(self) -> MappedDevices | None:
        """The devices of the running function, or None outside `jax.shard_map` and `jax.pmap`.

        A single device counts, too: its results have the same types as those of several. In older
        versions `jax.pmap` is not made of `jax.shard_map`, and tells nobody its axis.
        """
        mesh = getattr(jax.sharding, "get_abstract_mesh", lambda: None)()
        axes = tuple(getattr(mesh, "manual_axes", ()))
        return MappedDevices(axes) if axes else None

    def is_traced(self, x: Any) -> bool:
        """Whether `x` is a tracer."""
        return isinstance(x, jax.core.Tracer)

    def compiled(
        self, function: Callable[..., Any], variables: Sequence[Any], *, eager: bool
    ) -> Callable[[Sequence[Any], Any], Any]:
        """By `jax.jit`. The variables are arguments, as it would make them constants otherwise."""

        def run(values: Sequence[Any], part: Any, shared: Any) -> Any:
            return function([*zip(variables, values, strict=True)], part, shared)

        call = run if eager else jax.jit(run)
        return lambda parts, shared: call([v.value for v in variables], parts[0], shared)


@functools.cache
def _compiled(function: Callable[..., Any], *static: str) -> Callable[..., Any]:
    return jax.jit(function, inline=True, static_argnames=static)


BACKEND = Jax("jax", "JAX")
