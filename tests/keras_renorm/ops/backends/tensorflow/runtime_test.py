import ctypes
import os
import subprocess
import sys
import threading

import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("ops of TensorFlow", allow_module_level=True)

import tensorflow as tf

from keras_renorm import layers
from keras_renorm.ops.backends.tensorflow import calls
from keras_renorm.ops.backends.tensorflow import runtime as tensorflow_runtime
from keras_renorm.ops.maths.operands import Affine, Arguments, Constants, Settings
from keras_renorm.ops.native import loader
from keras_renorm.ops.native.layout import Statistics

if not loader.library_path().is_file():
    pytest.skip("the native library is not built", allow_module_level=True)


def step(x, dy, weights=None, *, axis=1, ghost_size=None, relu=False, gamma=None):
    one, zero = tf.ones(x.shape[axis]), tf.zeros(x.shape[axis])
    gamma = one if gamma is None else gamma
    settings = Settings(axis, 1e-3, relu, ghost_size, momentum=0.9)
    constants = Constants(zero, one, tf.constant(3.0), tf.constant(5.0), weights)
    y, saved, *moved = calls.forward(Arguments(x, gamma, zero), constants, settings)
    return y, saved, *moved, *calls.backward(dy, x, saved, weights, settings)


def images(*shape, seed=0):
    x, dy = np.random.default_rng(seed).normal(size=(2, *shape))
    return tf.constant(x, tf.float32), tf.constant(dy, tf.float32)


def kinds(function):
    """Types of the operations of a traced function that are calls of the library."""
    found = {op.type for op in function.graph.get_operations()}
    return {kind for kind in found if "KerasRenorm" in kind or kind == "XlaCallModule"}


def test_xla_is_sought_in_all_of_tensorflows_libraries(monkeypatch):
    known = tensorflow_runtime._ffi_api()
    elsewhere = "libtensorflow_elsewhere.so.2"
    monkeypatch.setattr(tensorflow_runtime, "_FOR_XLA", (elsewhere, *tensorflow_runtime._FOR_XLA))
    assert tensorflow_runtime._ffi_api() == known
    monkeypatch.setattr(tensorflow_runtime, "_FOR_XLA", (elsewhere,))
    with pytest.raises(loader.NativeLibraryError, match=rf"XLA FFI \(.*{elsewhere}"):
        tensorflow_runtime._ffi_api()


def test_an_xla_that_does_not_say_its_version_is_asked_for_nothing_more(monkeypatch):
    """TensorFlow 2.17 ends the process where it is given a handler."""
    older = (ctypes.c_size_t * 64)(64 * 8)  # all else is 0, also in place of a version
    monkeypatch.setattr(tensorflow_runtime, "_ffi_api", lambda: ctypes.addressof(older))
    with pytest.raises(loader.NativeLibraryError, match=r"TensorFlow \d.* has an old or unknown"):
        tensorflow_runtime._register_handlers(loader.load())


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


@pytest.mark.parametrize("by", ["tape", "gradients"])
def test_the_gradient_of_a_compiled_function_within_a_graph_is_compiled(by):
    layer = layers.BatchRenormalization(r_max=3.0, d_max=5.0)
    x, dy = images(16, 6)
    layer.build(x.shape)
    compiled = tf.function(lambda x: layer(x, training=True), jit_compile=True)

    @tf.function
    def gradient(x, dy):
        if by == "gradients":
            return tf.gradients(compiled(x), x, dy)[0]
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = compiled(x)
        return tape.gradient(y, x, dy)

    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True)
    expected = tape.gradient(y, x, dy)
    layer.moving_mean.assign(np.zeros(6))
    layer.moving_variance.assign(np.ones(6))
    np.testing.assert_allclose(gradient(x, dy), expected, rtol=1e-6, atol=1e-6)


def test_a_function_traced_before_can_be_compiled_where_all_calls_are_modules(monkeypatch):
    monkeypatch.setenv("KERAS_RENORM_CALLS", "xla")
    traced = tf.function(step)
    x, dy = images(16, 6)
    expected = traced(x, dy)
    compiled = tf.function(lambda x, dy: traced(x, dy), jit_compile=True)
    for one, other in zip(compiled(x, dy), expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_another_way_of_calling_is_refused(monkeypatch):
    monkeypatch.setenv("KERAS_RENORM_CALLS", "XLA")
    with pytest.raises(ValueError, match=r"KERAS_RENORM_CALLS='XLA' must be xla, .* or unset"):
        step(*images(16, 6))


def test_variables_are_operands():
    x, dy = images(16, 6)
    for one, other in zip(step(tf.Variable(x), dy), step(x, dy), strict=True):
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
    arguments, constants = Arguments(x, one, zero), Constants(zero, one, *limits)
    _, saved, *_ = calls.forward(arguments, constants, Settings(1, epsilon))
    inverse = Statistics(*tf.unstack(saved)).inverse
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


def run_python(code, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_first_calls_of_threads_at_once_register_once():
    run_python("""
import threading
import tensorflow as tf
from keras_renorm.ops.backends.tensorflow import runtime as tensorflow_runtime
threads = [threading.Thread(target=tensorflow_runtime.register) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
""")


@pytest.mark.slow
@pytest.mark.parametrize("said", ["environment", "no number", "config"])
def test_threads_are_as_many_as_tensorflow_may_use(said):
    call = """
import tensorflow as tf
from keras_renorm import layers
from keras_renorm.ops.native import loader
{}
layers.BatchNormalization()(tf.zeros((4, 2)), training=True)
print(loader.load().handle.keras_renorm_threads())
"""
    if said == "environment":
        assert int(run_python(call.format(""), TF_NUM_INTRAOP_THREADS="3")) == 3
    elif said == "no number":  # TensorFlow ignores it, too
        found = int(run_python(call.format(""), TF_NUM_INTRAOP_THREADS="all"))
        assert found == len(os.sched_getaffinity(0))
    else:  # after the import, which registers the ops
        set_one = "tf.config.threading.set_intra_op_parallelism_threads(1)"
        assert int(run_python(call.format(set_one))) == 1


def test_a_saved_training_function_loads_where_the_package_is_imported(tmp_path):
    module = tf.Module()
    module.step = tf.function(lambda x, dy: step(x, dy))
    x, dy = images(16, 6)
    expected = module.step(x, dy)
    tf.saved_model.save(module, tmp_path / "saved")
    np.save(tmp_path / "both.npy", np.stack([x, dy]))
    loaded = f"""
import numpy as np, tensorflow as tf
import keras_renorm
x, dy = np.load({str(tmp_path / "both.npy")!r})
results = tf.saved_model.load({str(tmp_path / "saved")!r}).step(tf.constant(x), tf.constant(dy))
np.savez({str(tmp_path / "results.npz")!r}, *[value.numpy() for value in results])
"""
    run_python(loaded)
    with np.load(tmp_path / "results.npz") as results:
        for key, value in zip(results.files, expected, strict=True):
            np.testing.assert_array_equal(results[key], value)


def test_a_forked_process_computes_alone():
    run_python("""
import os
import numpy as np, tensorflow as tf
from keras_renorm.ops.backends.tensorflow import calls
from keras_renorm.ops.maths.operands import Arguments, Constants, Settings
vector, one = tf.ones(64), tf.ones(())
x = tf.random.normal((9000, 64))
operands = Arguments(x, vector, vector), Constants(vector, vector, one, one), Settings(1, 1.0)
run = lambda: calls.forward(*operands).y.numpy().tobytes()
expected = run()
child = os.fork()
if child == 0:
    os._exit(0 if run() == expected else 1)
assert os.waitpid(child, 0)[1] == 0
""")


@pytest.mark.parametrize("channels", [16, 5])
@pytest.mark.parametrize("again", [False, True])
def test_an_input_is_written_over_only_if_nothing_else_reads_it(channels, again):
    x, _ = images(64, channels)
    zero, one = tf.zeros(channels), tf.ones(channels)

    @tf.function
    def run(x):
        doubled = 2 * x  # the graph owns it: its memory may be reused
        y = calls.normalize(doubled, Affine(one, zero, 3 * one, zero), Settings(axis=1))
        return y, doubled + 0 * y if again else x

    y, other = run(x)
    np.testing.assert_allclose(y, 3 * (2 * x - 1), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(other, 2 * x if again else x)
