"""Gradients by hand that can be differentiated once more, and forwards, under TensorFlow.

A function with a gradient of its own is a black box to TensorFlow, and so is that gradient. Here it
gets a gradient, too: that of the same formula in plain operations. Forwards it is differentiated
eagerly and from around a traced function, not from inside one (see `of_this_graph`).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from keras_renorm.ops.backends.kernels import Differentiable, PlainOutput
from keras_renorm.ops.backends.tensorflow import runtime
from keras_renorm.ops.maths.operands import Arguments


def apply(function: Differentiable, arguments: Arguments, constants: Any) -> tuple[tf.Tensor, ...]:
    """What `function.forward` returns, with derivatives.

    Args:
        function: What to compute.
        arguments: The operands that have a gradient.
        constants: A named tuple whose entries are tensors without gradient, or None.
    """
    others: list[tf.Tensor] = []

    @tf.custom_gradient
    def output(*tensors: tf.Tensor) -> Any:
        own, fixed = Arguments(*tensors[:3]), _packed(constants, tensors[3:])
        (y, *rest), kept = function.forward(Arguments(*_held(own)), fixed)
        others.extend(rest)

        def gradients(
            dy: tf.Tensor | tf.IndexedSlices, *_: tf.Tensor
        ) -> tuple[tf.Tensor | None, ...]:
            first = _gradients(function, _dense(dy, own.x), own, fixed, kept)
            return *first, *(None for _ in tensors[3:])

        return y, gradients

    # The others go past TensorFlow's operation for such a function, which ties all results to all
    # operands: an update by them would seem to come after any read of a variable that is one, such
    # as the counter that a limit is of, and the optimizer of graphs drops the edge that says so.
    y = output(*arguments, *_flat(constants))
    return y, *others


def _gradients(
    function: Differentiable, dy: tf.Tensor, arguments: Arguments, constants: Any, kept: Any
) -> tuple[tf.Tensor, ...]:
    """The first derivatives, which have a gradient of their own."""

    @tf.custom_gradient
    def once(*tensors: tf.Tensor) -> Any:
        # Where this is the gradient of a traced function, the tensors may be the function's.
        dy, *rest = of_this_graph(tensors)
        own, fixed = Arguments(*rest[:3]), _packed(constants, rest[3:])

        def twice(*upstream: tf.Tensor | None) -> tuple[tf.Tensor | None, ...]:
            if function.refusal is not None:
                raise ValueError(function.refusal)
            pairs = zip(upstream, own, strict=True)
            given = [tf.zeros_like(at) if u is None else u for u, at in pairs]
            derive = _by_tapes(function.plain) if _is_recorded(dy) else _traced(function.plain)
            return *derive(given, dy, own, fixed), *(None for _ in rest[3:])

        inputs = [dy, *own]
        if tf.executing_eagerly():  # or a tape around this would keep what lies between
            inputs = [tf.stop_gradient(value) for value in inputs]
        return tuple(function.backward(inputs[0], Arguments(*inputs[1:]), fixed, kept)), twice

    found: tuple[tf.Tensor, ...] = once(dy, *arguments, *_flat(constants))
    return found


def _dense(dy: tf.Tensor | tf.IndexedSlices, like: tf.Tensor) -> tf.Tensor:
    """The gradient as a tensor: where rows of the output were gathered, graphs hand over slices."""
    if isinstance(dy, tf.IndexedSlices):
        rows = tf.shape(like, out_type=dy.indices.dtype)[0]  # `dense_shape` may be None
        return tf.math.unsorted_segment_sum(dy.values, dy.indices, rows)
    return dy


def _flat(constants: Any) -> list[tf.Tensor]:
    return [value for value in constants if value is not None]


def _packed(constants: Any, tensors: Sequence[tf.Tensor]) -> Any:
    """A named tuple like `constants`, of the tensors that `_flat` returns of it."""
    rest = iter(tensors)
    return type(constants)(*(None if value is None else next(rest) for value in constants))


def of_this_graph(tensors: Sequence[tf.Tensor]) -> tuple[tf.Tensor, ...]:
    """The tensors, where TensorFlow traces a graph as tensors of that graph.

    A function with a gradient of its own needs this where it is called directly on tensors of a
    graph around it: in a branch of `tf.cond`, or in the gradient of a traced function. TensorFlow
    cannot differentiate it from outside otherwise.

    Raises:
        ValueError: An accumulator in that graph differentiates them forwards: TensorFlow passes
            over gradients by hand there, and would return 0.
    """
    if tf.executing_eagerly():
        return tuple(tensors)
    if runtime.has_tangents(tensors):
        raise ValueError(
            "A normalization in training cannot be differentiated by a "
            "tf.autodiff.ForwardAccumulator inside a tf.function, received one there. Write the "
            "accumulator around the tf.function."
        )
    return tuple(map(tf.identity, tensors))


def _held(tensors: Sequence[tf.Tensor]) -> Sequence[tf.Tensor]:
    """The operands of a function with a gradient of its own, which alone is to count.

    TensorFlow's eager forward differentiation takes that of the operations in it otherwise.
    """
    if tf.executing_eagerly() and runtime.has_tangents(tensors):
        return [tf.stop_gradient(tensor) for tensor in tensors]
    return tensors


def _is_recorded(tensor: tf.Tensor) -> bool:
    """Whether tapes record what is done now: not in graphs and forward differentiation."""
    if not tf.executing_eagerly():
        return False
    with tf.GradientTape() as tape:
        tape.watch(tensor)
        copy = tf.identity(tensor)
    return tape.gradient(copy, tensor) is not None


def _by_tapes(plain: PlainOutput) -> Callable[..., list[tf.Tensor]]:
    """The second derivatives of `plain`.

    Called with the upstream gradients of its first ones, then dy, then the arguments, then the
    constants, it returns the gradients for dy and the arguments.
    """

    def derivatives(
        upstream: Sequence[tf.Tensor], dy: tf.Tensor, arguments: Arguments, constants: Any
    ) -> list[tf.Tensor]:
        with tf.GradientTape() as outer:
            outer.watch((dy, *arguments))
            with tf.GradientTape() as inner:
                inner.watch(arguments)
                y = plain(arguments, constants)
            first = inner.gradient(y, list(arguments), dy)
        found: list[tf.Tensor] = outer.gradient(
            first, [dy, *arguments], upstream, unconnected_gradients="zero"
        )
        return found

    return derivatives


@functools.cache
def _traced(plain: PlainOutput) -> Callable[..., list[tf.Tensor]]:
    """The same as a traced function, which needs no tape; each shape is traced once and kept."""

    @tf.function(autograph=False)
    def derivatives(
        upstream: Sequence[tf.Tensor], dy: tf.Tensor, arguments: Arguments, constants: Any
    ) -> list[tf.Tensor]:
        first = tf.gradients(plain(arguments, constants), list(arguments), dy)
        found: list[tf.Tensor] = tf.gradients(
            first, [dy, *arguments], upstream, unconnected_gradients="zero"
        )
        return found

    return derivatives
