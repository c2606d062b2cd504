from typing import NamedTuple

import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("derivatives of TensorFlow", allow_module_level=True)

import tensorflow as tf

from keras_renorm.ops.backends.kernels import Differentiable
from keras_renorm.ops.backends.tensorflow import derivatives
from keras_renorm.ops.maths.operands import Arguments

MODES = {"eager": lambda f: f, "graph": tf.function, "jit": tf.function(jit_compile=True)}
X, SCALE, SHIFT = (tf.constant(v, "float64") for v in ([0.5, -2.0, 3.0], 1.5, [1.0, 0.0, 2.0]))


class Moved(NamedTuple):
    """The constants of a cube."""

    shift: tf.Tensor
    nothing: None = None


def plain(x, scale, shift):
    return scale * (x - shift) ** 3


def output(arguments, constants):
    x, scale, offset = arguments
    return plain(x, scale, constants.shift) + offset


def by_hand(refusal=None):
    """`plain` with its gradient for x and scale written down; `shift` is a constant of it."""

    def forward(arguments, constants):
        return (output(arguments, constants),), None

    def backward(dy, arguments, constants, _):
        (x, scale, _), shift = arguments, constants.shift
        dscale = tf.reduce_sum((x - shift) ** 3 * dy)
        return Arguments(3 * scale * (x - shift) ** 2 * dy, dscale, tf.reduce_sum(dy))

    function = Differentiable(forward, backward, output, refusal)

    def cube(x, scale, shift):
        given = derivatives.of_this_graph((x, scale, tf.zeros_like(scale), shift))
        return derivatives.apply(function, Arguments(*given[:3]), Moved(given[3]))[0]

    return cube


def second(function, x, scale):
    """Gradients of a function of the first gradients, for x and scale."""
    with tf.GradientTape() as outer:
        outer.watch((x, scale))
        with tf.GradientTape() as inner:
            inner.watch((x, scale))
            loss = tf.reduce_sum(tf.sin(function(x, scale, SHIFT)))
        dx, dscale = inner.gradient(loss, (x, scale))
        total = tf.reduce_sum(dx**2) * dscale
    return outer.gradient(total, (x, scale))


@pytest.mark.parametrize("mode", MODES)
def test_second_derivatives_are_those_of_the_plain_function(mode):
    desired = second(plain, X, SCALE)
    whole = MODES[mode](lambda x, scale: second(by_hand(), x, scale))
    from_outside = MODES[mode](by_hand())
    for found in (whole(X, SCALE), second(from_outside, X, SCALE)):
        for actual, expected in zip(found, desired, strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-12)


@pytest.mark.parametrize("mode", [*MODES, "unknown size"])
def test_rows_of_the_output_may_be_gathered(mode):
    """Graphs then hand over a gradient of slices. Row 1 has none, row 2 that of two."""

    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.gather(by_hand()(x, SCALE, SHIFT), [0, 2, 2])
        return tape.gradient(y, x)

    unknown = tf.function(input_signature=[tf.TensorSpec([None], "float64")])
    found = MODES.get(mode, unknown)(gradient)(X)
    np.testing.assert_allclose(found, 3 * SCALE * (X - SHIFT) ** 2 * [1, 0, 2])


@pytest.mark.parametrize("mode", MODES)
def test_forward_derivatives_are_those_of_the_plain_function(mode):
    tangents = tf.constant([0.3, 1.0, -0.7], "float64"), tf.constant(0.2, "float64")
    found = []
    for function in (plain, MODES[mode](by_hand())):
        with tf.autodiff.ForwardAccumulator((X, SCALE), tangents) as accumulator:
            y = function(X, SCALE, SHIFT)
        found.append(accumulator.jvp(y))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_forwards_over_backwards_is_that_of_the_plain_function(mode):
    """A product with the Hessian."""
    found = []
    for function in (plain, MODES[mode](by_hand())):
        with tf.autodiff.ForwardAccumulator(
            X, tf.constant([0.3, 1.0, -0.7], "float64")
        ) as forwards:
            with tf.GradientTape() as tape:
                tape.watch(X)
                loss = tf.reduce_sum(tf.sin(function(X, SCALE, SHIFT)))
            gradient = tape.gradient(loss, X)
        found.append(forwards.jvp(gradient))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-12)


def test_a_forward_derivative_inside_a_traced_function_is_refused():
    """TensorFlow returns 0 there."""

    @tf.function
    def forwards(x):
        with tf.autodiff.ForwardAccumulator(x, x) as accumulator:
            y = by_hand()(x, SCALE, SHIFT)
        return accumulator.jvp(y)

    with pytest.raises(ValueError, match=r"Write the accumulator around the tf\.function"):
        forwards(X)


def test_tapes_trace_nothing():
    """Which would cost 0.3 s for each new shape, and its memory for ever."""
    derivatives._traced.cache_clear()
    second(by_hand(), X, SCALE)
    assert derivatives._traced.cache_info().currsize == 0


def test_a_refusal_is_raised_by_the_second_derivative_only():
    function = by_hand("Not twice.")
    with tf.GradientTape() as tape:
        tape.watch(X)
        y = function(X, SCALE, SHIFT)
    np.testing.assert_allclose(tape.gradient(y, X), 3 * SCALE * (X - SHIFT) ** 2)
    with pytest.raises(ValueError, match=r"^Not twice\.$"):
        second(function, X, SCALE)
