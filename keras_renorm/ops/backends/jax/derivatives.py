"""Gradients by hand, which JAX can differentiate backwards any number of times.

The first derivative is by hand. The next ones are those of the same formula in plain operations.
JAX has no forward derivative of a function with a gradient by hand.
"""

from typing import Any

import jax

from keras_renorm.ops.backends.kernels import Differentiable
from keras_renorm.ops.maths.operands import Arguments


def apply(function: Differentiable, arguments: Arguments, constants: Any) -> tuple[jax.Array, ...]:
    """What `function.forward` returns, with derivatives.

    Args:
        function: What to compute.
        arguments: The operands that have a gradient.
        constants: A named tuple whose entries are arrays without gradient, or None.
    """
    outputs = jax.custom_vjp(function.forward)

    def forward(arguments: Arguments, constants: Any) -> tuple[Any, Any]:
        found = outputs(arguments, constants)
        return found, (arguments, constants, found[1])

    def backward(saved: Any, upstream: Any) -> tuple[Arguments, None]:
        return _gradients(function, upstream[0][0], *saved), None

    outputs.defvjp(forward, backward)
    return outputs(arguments, constants)[0]


def _gradients(
    function: Differentiable, dy: jax.Array, arguments: Arguments, constants: Any, kept: Any
) -> Arguments:
    """The first derivatives, which can be differentiated again."""
    gradients = jax.custom_vjp(function.backward)

    def forward(*operands: Any) -> tuple[Any, Any]:
        return gradients(*operands), operands[:3]

    def backward(saved: Any, upstream: Arguments) -> tuple[Any, ...]:
        dy, arguments, constants = saved

        def plain(dy: jax.Array, arguments: Arguments) -> Arguments:
            _, pull = jax.vjp(lambda at: function.plain(at, constants), arguments)
            return pull(dy)[0]

        _, pull = jax.vjp(plain, dy, arguments)
        return *pull(upstream), None, None

    gradients.defvjp(forward, backward)
    return gradients(dy, arguments, constants, kept)
