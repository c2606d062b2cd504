"""Gradients by hand that can be differentiated once more, and forwards, under TensorFlow.

A function with a gradient of its own is a black box to TensorFlow, and so is that gradient. Here it
gets a gradient, too: that of the same formula in plain operations. Forwards it is differentiated
eagerly and from around a traced function, not from inside one (see `of_this_graph`). JAX and
PyTorch have ways of their own: `keras_renorm.ops.backends.jax.derivatives` and `torch_derivatives`.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import keras

from keras_renorm.typing import Tensor


class Functions(NamedTuple):
    """A function of x, gamma and beta, which have a gradient, and of constants, which have none.

    Attributes:
        forward: `forward(x, gamma, beta, *constants)`: the output first, and what has no gradient.
        backward: `backward(dy, x, gamma, beta, *constants, *kept)`: the first gradients.
        output: `output(x, gamma, beta, *constants)`: the output in plain operations.
        kept: Which of the results of `forward` is kept for `backward`, if any.
    """

    forward: Callable[..., tuple[Tensor, ...]]
    backward: Callable[..., tuple[Tensor, ...]]
    output: Callable[..., Tensor]
    kept: int | None


def differentiable(
    gradient: Callable[..., tuple[Tensor, ...]],
    output: Callable[..., Tensor],
    constants: Sequence[Tensor],
    *,
    refusal: str | None = None,
) -> Callable[..., tuple[Tensor, ...]]:
    """`gradient` with a gradient of its own, that of the gradient of `output`.

    Args:
        gradient: `gradient(dy, *arguments)`, the gradients of `output` for its arguments.
        output: `output(*arguments, *constants)`, in plain operations. Traces of it are kept, and
            found again by this very object.
        constants: Tensors that have no gradient.
        refusal: The message of the ValueError that a second derivative raises; None where there is
            one.

    Returns:
        A function like `gradient`; under another backend than TensorFlow `gradient` itself.
    """
    if keras.backend.backend() != "tensorflow":
        return gradient
    import tensorflow as tf

    @tf.custom_gradient
    def once(*tensors: Tensor) -> Any:
        # Where this is the gradient of a traced function, the tensors may be the function's.
        dy, *rest = of_this_graph(tensors)
        cut = len(rest) - len(constants)
        arguments, fixed = rest[:cut], rest[cut:]

        def twice(*upstream: Tensor | None) -> Any:
            if refusal is not None:
                raise ValueError(refusal)
            pairs = zip(upstream, arguments, strict=True)
            upstream = tuple(tf.zeros_like(at) if u is None else u for u, at in pairs)
            derive = _by_tapes(output) if _is_recorded(dy) else _traced(output)
            return *derive(upstream, dy, arguments, fixed), *(None for _ in fixed)

        inputs = dy, *arguments
        return gradient(*(held(inputs) if tf.executing_eagerly() else inputs)), twice

    return lambda dy, *arguments: once(dy, *arguments, *constants)


def of_this_graph(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The tensors, where TensorFlow traces a graph as tensors of that graph.

    A function with a gradient of its own needs this where it is called directly on tensors of a
    graph around it: in a branch of `tf.cond`, or in the gradient of a traced function. TensorFlow
    cannot differentiate it from outside otherwise.

    Raises:
        ValueError: An accumulator in that graph differentiates them forwards: TensorFlow passes
            over gradients by hand there, and would return 0.
    """
    if keras.backend.backend() != "tensorflow":
        return tuple(tensors)
    import tensorflow as tf

    from keras_renorm.ops.backends.tensorflow import runtime as tensorflow_runtime

    if tf.executing_eagerly():
        return tuple(tensors)
    if tensorflow_runtime.has_tangents(tensors):
        raise ValueError(
            "A normalization in training cannot be differentiated by a "
            "tf.autodiff.ForwardAccumulator inside a tf.function, received one there. Write the "
            "accumulator around the tf.function."
        )
    return tuple(map(tf.identity, tensors))


def held(arguments: Sequence[Tensor]) -> Iterator[Tensor]:
    """The arguments of a function with a gradient of its own, which alone is to count.

    TensorFlow's eager forward differentiation takes that of the operations in it otherwise.
    """
    return map(keras.ops.stop_gradient, arguments)


def _is_recorded(tensor: Tensor) -> bool:
    """Whether tapes record what is done now: not in graphs and forward differentiation."""
    import tensorflow as tf

    if not tf.executing_eagerly():
        return False
    with tf.GradientTape() as tape:
        tape.watch(tensor)
        copy = tf.identity(tensor)
    return tape.gradient(copy, tensor) is not None


def _by_tapes(output: Callable[..., Tensor]) -> Callable[..., list[Tensor]]:
    """The second derivatives of `output`.

    Called with the upstream gradients of its first ones, then dy, then the arguments, then the
    constants, it returns the gradients for dy and the arguments.
    """
    import tensorflow as tf

    def derivatives(
        upstream: Sequence[Tensor],
        dy: Tensor,
        arguments: Sequence[Tensor],
        constants: Sequence[Tensor],
    ) -> list[Tensor]:
        with tf.GradientTape() as outer:
            outer.watch((dy, *arguments))
            with tf.GradientTape() as inner:
                inner.watch(arguments)
                y = output(*arguments, *constants)
            first = inner.gradient(y, arguments, dy)
        found: list[Tensor] = outer.gradient(
            first, [dy, *arguments], upstream, unconnected_gradients="zero"
        )
        return found

    return derivatives


@functools.cache
def _traced(output: Callable[..., Tensor]) -> Callable[..., list[Tensor]]:
    """The same as a traced function, which needs no tape; each shape is traced once and kept."""
    import tensorflow as tf

    @tf.function(autograph=False)
    def derivatives(
        upstream: Sequence[Tensor],
        dy: Tensor,
        arguments: Sequence[Tensor],
        constants: Sequence[Tensor],
    ) -> list[Tensor]:
        y = output(*arguments, *constants)
        first = tf.gradients(y, arguments, dy)
        found: list[Tensor] = tf.gradients(
            first, [dy, *arguments], upstream, unconnected_gradients="zero"
        )
        return found

    return derivatives
