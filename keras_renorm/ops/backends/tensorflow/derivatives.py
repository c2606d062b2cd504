"""Gradients by hand that TensorFlow can differentiate once more, and forwards.

A function with a gradient by hand is a black box to TensorFlow, and so is that gradient. Here the
gradient gets a gradient, too: that of the same formula in plain operations. Forward differentiation
works eagerly and around a traced function, but not inside one (see `of_this_graph`).
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

    # The other outputs go past TensorFlow's operation for such a function. It ties all results to
    # all operands: an update by them would seem to follow any read of a variable among these, such
    # as a limit's counter. The optimizer of graphs then drops the edge that orders read and update.
    y = output(*arguments, *_flat(constants))
    return y, *others


def _gradients(
    function: Differentiable, dy: tf.Tensor, arguments: Arguments, constants: Any, kept: Any
) -> tuple[tf.Tensor, ...]:
    """The first derivatives, with a gradient of their own."""

    @tf.custom_gradient
    def once(*tensors: tf.Tensor) -> Any:
        # In the gradient of a traced function, the tensors may belong to the function's graph.
        dy, *rest = of_this_graph(tensors)
        own, fixed = Arguments(*rest[:3]), _packed(constants, rest[3:])

        def twice(*upstream: tf.Tensor | None) -> tuple[tf.Tensor | None, ...]:
            if function.refusal is not None:
                raise ValueError(function.refusal)
            pairs = zip(upstream, own, strict=True)
            given = [tf.zeros_like(at) if u is None else u for u, at in pairs]
            by_tapes = functools.partial(_by_tapes, function.plain)
            derive = by_tapes if _is_recorded(dy) else _traced(function.plain)
            return *derive(given, dy, own, fixed), *(None for _ in rest[3:])

        inputs = [dy, *own]
        if tf.executing_eagerly():  # or an outer tape would keep the intermediate tensors
            inputs = [tf.stop_gradient(value) for value in inputs]
        return tuple(function.backward(inputs[0], Arguments(*inputs[1:]), fixed, kept)), twice

    return once(dy, *arguments, *_flat(constants))


def _dense(dy: tf.Tensor | tf.IndexedSlices, like: tf.Tensor) -> tf.Tensor:
    """The gradient as a tensor. Graphs hand over slices where rows of the output were gathered."""
    if isinstance(dy, tf.IndexedSlices):
        rows = tf.shape(like, out_type=dy.indices.dtype)[0]  # `dense_shape` may be None
        return tf.math.unsorted_segment_sum(dy.values, dy.indices, rows)
    return dy


def _flat(constants: Any) -> list[tf.Tensor]:
    return [value for value in constants if value is not None]


def _packed(constants: Any, tensors: Sequence[tf.Tensor]) -> Any:
    """The inverse of `_flat`: a named tuple like `constants`, of `tensors`."""
    rest = iter(tensors)
    return type(constants)(*(None if value is None else next(rest) for value in constants))


def of_this_graph(tensors: Sequence[tf.Tensor]) -> tuple[tf.Tensor, ...]:
    """The tensors, made tensors of the graph that TensorFlow traces, if any.

    A function with a gradient by hand needs this for tensors of an outer graph: in a branch of
    `tf.cond`, or in the gradient of a traced function. Otherwise TensorFlow cannot differentiate it
    from outside.

    Raises:
        ValueError: An accumulator in that graph differentiates the tensors forwards. TensorFlow
            passes over gradients by hand there, and would return 0.
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


def conditional(
    predicate: tf.Tensor,
    on_true: Callable[..., Any],
    on_false: Callable[..., Any],
    operands: Sequence[tf.Tensor],
) -> Any:
    """`tf.cond`, with a gradient that XLA compiles for operands of unknown sizes, too.

    XLA knows no sizes of what only one branch keeps for its gradient, and neither kernels nor all
    of TensorFlow's operations take such a tensor. So the branches keep nothing there, and the
    gradient's branches compute the outputs once more.
    """

    def chosen(make: Callable[..., Callable[[], Any]]) -> Any:
        return tf.cond(predicate, make(on_true), make(on_false))

    def outputs(*operands: tf.Tensor) -> Any:
        return chosen(lambda branch: lambda: branch(*operands))

    if not runtime.in_compiled() or all(o.shape.is_fully_defined() for o in operands):
        return outputs(*operands)

    form = list[Any]()  # without an annotation, which autograph cannot take over

    @tf.custom_gradient
    def keeping_nothing(*operands: tf.Tensor) -> Any:
        def gradients(*upstream: tf.Tensor) -> Any:
            def of(branch: Callable[..., Any]) -> Callable[[], Any]:
                def derive() -> Any:
                    with tf.GradientTape() as tape:
                        tape.watch(operands)
                        found = _leaves(branch(*operands))
                    return tape.gradient(found, operands, upstream, unconnected_gradients="zero")

                return derive

            return chosen(of)

        form.append(outputs(*operands))
        return _leaves(form[0]), gradients

    found = iter(keeping_nothing(*operands))
    return tf.nest.map_structure(lambda leaf: None if leaf is None else next(found), form[0])


def _leaves(found: Any) -> list[tf.Tensor]:
    return [leaf for leaf in tf.nest.flatten(found) if leaf is not None]


def _held(tensors: Sequence[tf.Tensor]) -> Sequence[tf.Tensor]:
    """Cuts the operands of a function off, so that only its gradient by hand counts.

    Otherwise TensorFlow's eager forward differentiation also follows the operations in it.
    """
    if tf.executing_eagerly() and runtime.has_tangents(tensors):
        return [tf.stop_gradient(tensor) for tensor in tensors]
    return tensors


def _is_recorded(tensor: tf.Tensor) -> bool:
    """Whether tapes record operations now: not in graphs, nor in forward differentiation."""
    if not tf.executing_eagerly():
        return False
    with tf.GradientTape() as tape:
        tape.watch(tensor)
        copy = tf.identity(tensor)
    return tape.gradient(copy, tensor) is not None


def _by_tapes(
    plain: PlainOutput,
    upstream: Sequence[tf.Tensor],
    dy: tf.Tensor,
    arguments: Arguments,
    constants: Any,
) -> list[tf.Tensor]:
    """The second derivatives of `plain`: the gradients for dy and the arguments.

    `upstream` are the gradients of the first derivatives.
    """
    with tf.GradientTape() as outer:
        outer.watch((dy, *arguments))
        with tf.GradientTape() as inner:
            inner.watch(arguments)
            y = plain(arguments, constants)
        first = inner.gradient(y, list(arguments), dy)
    return outer.gradient(first, [dy, *arguments], upstream, unconnected_gradients="zero")


@functools.cache
def _traced(plain: PlainOutput) -> Callable[..., list[tf.Tensor]]:
    """`_by_tapes` as a traced function, which needs no tape. It keeps a trace for each shape."""

    @tf.function(autograph=False)
    def derivatives(
        upstream: Sequence[tf.Tensor], dy: tf.Tensor, arguments: Arguments, constants: Any
    ) -> list[tf.Tensor]:
        first = tf.gradients(plain(arguments, constants), list(arguments), dy)
        return tf.gradients(first, [dy, *arguments], upstream, unconnected_gradients="zero")

    return derivatives
