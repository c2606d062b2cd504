import threading

import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("ops of TensorFlow", allow_module_level=True)

import tensorflow as tf

from keras_renorm import layers
from keras_renorm.ops.xla import loader, tensorflow_calls

if not loader.library_path().is_file():
    pytest.skip("the native library is not built", allow_module_level=True)


def step(x, dy, weights=None, *, axis=1, ghost_size=None, relu=False, gamma=None):
    one, zero = tf.ones(x.shape[axis]), tf.zeros(x.shape[axis])
    gamma = one if gamma is None else gamma
    settings = {"axis": axis, "relu": relu, "ghost_size": ghost_size}
    limits = tf.constant(3.0), tf.constant(5.0)
    y, saved, *moved = tensorflow_calls.forward(
        x, gamma, zero, zero, one, *limits, weights, epsilon=1e-3, momentum=0.9, **settings
    )
    return y, saved, *moved, *tensorflow_calls.backward(dy, x, saved, weights, **settings)


def images(*shape, seed=0):
    x, dy = np.random.default_rng(seed).normal(size=(2, *shape))
    return tf.constant(x, tf.float32), tf.constant(dy, tf.float32)


def kinds(function):
    """Types of the operations of a traced function that are calls of the library."""
    found = {op.type for op in function.graph.get_operations()}
    return {kind for kind in found if "KerasRenorm" in kind or kind == "XlaCallModule"}


def test_graphs_hold_ops_and_what_xla_compiles_holds_modules():
    plain, compiled = tf.function(step), tf.function(step, jit_compile=True)
    x, dy = images(8, 5)
    ops = {"KerasRenormForward", "KerasRenormBackward"}
    assert kinds(plain.get_concrete_function(x, dy)) == ops
    assert kinds(compiled.get_concrete_function(x, dy)) == {"XlaCallModule"}


@pytest.mark.parametrize("ghost_size", [None, 3])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", [(8, 5), (64, 7, 7, 48), (3, 40, 6), (1, 16), (0, 4), (9000, 33)])
def test_both_give_the_same_bits(shape, masked, ghost_size):
    x, dy = images(*shape)
    axis = len(shape) - 1
    weights = tf.constant(np.arange(shape[0]) % 3 > 0) if masked else None
    if masked:
        weights = tf.reshape(weights, (-1, *[1] * axis))

    def run(x, dy):
        return step(x, dy, weights, axis=axis, ghost_size=ghost_size, relu=True)

    eager = run(x, dy)
    for function in (tf.function(run), tf.function(run, jit_compile=True)):
        for one, other in zip(function(x, dy), eager, strict=True):
            np.testing.assert_array_equal(one, other)


def test_shapes_are_known_as_far_as_they_can_be():
    signature = [tf.TensorSpec([None, 7, 20]), tf.TensorSpec([None, 7, 20])]
    traced = tf.function(
        lambda x, dy: step(x, dy, axis=2, ghost_size=2), input_signature=signature
    ).get_concrete_function()
    vector = [20]
    assert [shape.as_list() for shape in traced.output_shapes] == [
        [None, 7, 20],
        [9, None, 20],
        vector,
        vector,
        [],
        [None, 7, 20],
        vector,
        vector,
    ]
    assert traced(*images(5, 7, 20))[1].shape == (9, 3, 20)


def test_the_gradient_of_a_compiled_function_is_compiled():
    layer = layers.BatchRenormalization(r_max=3.0, d_max=5.0)
    x, dy = images(16, 6)
    layer.build(x.shape)
    gradients = []
    for function in (tf.function(layer, jit_compile=True), layer):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x, training=True)
        gradients.append(tape.gradient(y, [x, layer.gamma], dy))
        layer.moving_mean.assign(np.zeros(6))
        layer.moving_variance.assign(np.ones(6))
    for one, other in zip(*gradients, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


def test_a_compiled_function_within_a_graph_is_compiled():
    compiled = tf.function(step, jit_compile=True)
    x, dy = images(16, 6)

    @tf.function
    def both(x, dy):
        return compiled(x, dy), step(x, dy)

    for one, other in zip(*both(x, dy), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("channels", [5, 16, 48, 100])
def test_a_gradient_whose_memory_is_taken_is_not_needed_any_more(channels):
    x, dy = images(1000, channels)

    @tf.function
    def taken(x, dy):
        return step(x, 2 * dy)[5]

    @tf.function
    def kept(x, dy):
        twice = 2 * dy
        return step(x, twice)[5], twice

    dx, twice = kept(x, dy)
    np.testing.assert_array_equal(twice, 2 * dy)
    np.testing.assert_array_equal(taken(x, dy), dx)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_operands_of_other_sizes_are_refused(jit_compile):
    run = tf.function(step, jit_compile=jit_compile)
    with pytest.raises(tf.errors.InvalidArgumentError, match="gamma has 4 values, not 5"):
        run(*images(8, 5), gamma=tf.ones(4))


def test_operands_of_other_types_are_refused():
    with pytest.raises(tf.errors.InvalidArgumentError, match="gamma is not of the type"):
        step(*images(8, 5), gamma=tf.ones(5, tf.float64))


def test_attributes_keep_all_their_bits():
    x = tf.zeros((4, 1), tf.float64)
    one, zero = tf.ones(1, tf.float64), tf.zeros(1, tf.float64)
    epsilon = 0.1 + 2**-50
    limits = [tf.constant(value, tf.float64) for value in (3.0, 5.0)]
    _, saved, *_ = tensorflow_calls.forward(
        x, one, zero, zero, one, *limits, axis=1, epsilon=epsilon
    )
    inverse = tensorflow_calls.unpack(saved).inverse
    np.testing.assert_array_equal(inverse, [[1 / np.sqrt(epsilon)]])


def test_many_short_passes_on_many_threads():
    """Helpers come and go between passes: none may run a task twice, or one of another pass."""
    inputs = [images(rows, 64, seed=rows) for rows in (4096, 2048, 8192)]
    expected = [[t.numpy().tobytes() for t in step(*pair)] for pair in inputs]
    wrong = []

    def work(i):
        for k in range(60):
            which = (i + k) % len(inputs)
            if [t.numpy().tobytes() for t in step(*inputs[which])] != expected[which]:
                wrong.append(which)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
