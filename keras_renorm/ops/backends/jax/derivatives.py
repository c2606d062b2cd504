"""Calls of the native library with JAX's derivatives backwards, as many as one likes.

The first one is a call, too; the next ones are those of the same formula in plain operations. JAX
has no forward derivative of a function whose backward one is given.
"""

from typing import Any

import jax

from keras_renorm.ops.backends.tensorflow.derivatives import Functions


def apply(
    functions: Functions, x: jax.Array, gamma: jax.Array, beta: jax.Array, *constants: jax.Array
) -> tuple[jax.Array, ...]:
    """What `functions.forward` returns, with derivatives.

    Args:
        functions: What to compute.
        x: Array `[..., C, ...]`.
        gamma: `[C]`.
        beta: `[C]`.
        *constants: Arrays that have no gradient.
    """

    @jax.custom_vjp
    def outputs(*arrays: jax.Array) -> tuple[jax.Array, ...]:
        return tuple(functions.forward(*arrays))

    def forward(*arrays: jax.Array) -> tuple[Any, Any]:
        found = outputs(*arrays)
        kept = () if functions.kept is None else (found[functions.kept],)
        return found, (arrays, kept)

    def backward(saved: Any, upstream: tuple[jax.Array, ...]) -> tuple[jax.Array | None, ...]:
        arrays, kept = saved
        gradients = _gradients(functions, upstream[0], arrays[:3], (*arrays[3:], *kept))
        return *gradients, *(None for _ in constants)

    outputs.defvjp(forward, backward)
    found: tuple[jax.Array, ...] = outputs(x, gamma, beta, *constants)
    return found


def _gradients(
    functions: Functions,
    dy: jax.Array,
    arguments: tuple[jax.Array, ...],
    others: tuple[jax.Array, ...],
) -> tuple[jax.Array, ...]:
    """The first derivatives, which can be differentiated again."""
    cut = len(others) - (functions.kept is not None)

    @jax.custom_vjp
    def gradients(dy: jax.Array, *arrays: jax.Array) -> tuple[jax.Array, ...]:
        return tuple(functions.backward(dy, *arrays))

    def forward(dy: jax.Array, *arrays: jax.Array) -> tuple[Any, Any]:
        return gradients(dy, *arrays), (dy, *arrays)

    def backward(saved: Any, upstream: tuple[jax.Array, ...]) -> tuple[jax.Array | None, ...]:
        dy, arguments, constants = saved[0], saved[1:4], saved[4 : 4 + cut]

        def plain(dy: jax.Array, *arguments: jax.Array) -> tuple[jax.Array, ...]:
            _, pull = jax.vjp(lambda *at: functions.output(*at, *constants), *arguments)
            first: tuple[jax.Array, ...] = pull(dy)
            return first

        _, pull = jax.vjp(plain, dy, *arguments)
        return *pull(upstream), *(None for _ in others)

    gradients.defvjp(forward, backward)
    found: tuple[jax.Array, ...] = gradients(dy, *arguments, *others)
    return found
