import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("lowerings of TensorFlow", allow_module_level=True)

import tensorflow as tf

from keras_renorm import ops
from keras_renorm.ops import reference
from keras_renorm.ops.backends.tensorflow import derivatives
from keras_renorm.ops.native import loader
from keras_renorm.ops.steps import lowerings

EPSILON = 1e-3
MODES = {"eager": lambda f: f, "graph": tf.function, "jit": tf.function(jit_compile=True)}
# Of the largest entry: of float32 throughout, and of one rounding to the other types.
TOLERANCES = {"float64": 1e-13, "float32": 1e-6, "float16": 1e-3, "bfloat16": 8e-3}


@pytest.fixture(params=lowerings.NAMES, autouse=True)
def lowering(request, monkeypatch):
    """Everything here holds for each of the three."""
    if request.param == "native" and not loader.library_path().is_file():
        pytest.skip("the native library is not built")
    monkeypatch.setenv(lowerings.VARIABLE, request.param)
    return request.param


def make_case(rng, shape, axis=-1, dtype="float32", offset=0.0):
    """x and dy as `dtype` holds them, then mean, variance, gamma and beta."""
    channels = shape[axis]
    x, dy = (tf.cast(rng.normal(at, 2.0, shape), dtype) for at in (offset, 0.0))
    vectors = [rng.normal(offset, 1.0, channels), rng.uniform(0.5, 9.0, channels)]
    vectors += [rng.normal(1.0, 0.3, channels), rng.normal(size=channels)]
    wide = "float64" if dtype == "float64" else "float32"
    return [x, dy, *(tf.constant(vector, wide) for vector in vectors)]


def run(x, dy, mean, variance, gamma, beta, **options):
    """Output and gradients for x, gamma and beta; and those for mean and variance."""
    with tf.GradientTape() as tape:
        tape.watch((x, mean, variance, gamma, beta))
        y = ops.inference_step(x, mean, variance, gamma, beta, epsilon=EPSILON, **options)
    sources = (x, gamma, beta, mean, variance)
    return y, tape.gradient(y, sources, dy)


def expected(x, dy, mean, variance, gamma, beta, *, axis=-1, relu=False):
    """The same in float64, and the output before the ReLU."""
    x, dy, mean, variance, gamma, beta = (
        np.asarray(v).astype("float64") for v in (x, dy, mean, variance, gamma, beta)
    )
    last = [np.moveaxis(value, axis, -1) for value in (x, dy)]
    sigma, axes = np.sqrt(variance + EPSILON), tuple(range(x.ndim - 1))
    y = reference.inference(last[0], gamma, beta, mean, sigma)
    dy = np.where((y > 0) | (not relu), last[1], 0)
    dx = dy * gamma / sigma
    dgamma, dbeta = (dy * (last[0] - mean) / sigma).sum(axes), dy.sum(axes)
    outputs = np.maximum(y, 0) if relu else y
    return [np.moveaxis(value, -1, axis) for value in (outputs, dx)], dgamma, dbeta


def check(case, dtype, *, mode, known=True, **options):
    function = MODES[mode](lambda *tensors: run(*tensors, **options))
    if not known:
        signature = [tf.TensorSpec([None, *t.shape[1:]], t.dtype) for t in case[:2]]
        signature += [tf.TensorSpec(t.shape, t.dtype) for t in case[2:]]
        function = tf.function(function, input_signature=signature, jit_compile=mode == "jit")
    y, (dx, dgamma, dbeta, *others) = function(*case)
    assert y.dtype == dx.dtype == dtype
    options.pop("portable", None)
    (outputs, desired_dx), desired_dgamma, desired_dbeta = expected(*case, **options)
    for actual, desired in zip(
        (y, dx, dgamma, dbeta), (outputs, desired_dx, desired_dgamma, desired_dbeta), strict=True
    ):
        error = np.abs(np.asarray(actual).astype("float64") - desired).max()
        assert error <= TOLERANCES[dtype] * np.abs(desired).max() * 4
    for other in others:  # None where nothing leads to it
        assert other is None or not np.any(other)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("portable", [True, False])
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize(
    ("shape", "axis"),
    [((16, 5), -1), ((4, 7, 5), -1), ((3, 5, 6, 20), -1), ((2, 3, 4, 3, 5), -1), ((4, 6, 5), 1)],
)
def test_equals_the_reference(rng, shape, axis, relu, portable, mode):
    case = make_case(rng, shape, axis)
    check(case, "float32", mode=mode, axis=axis, relu=relu, portable=portable)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("portable", [True, False])
@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_in_every_type(rng, dtype, mode, portable):
    check(make_case(rng, (6, 5, 4, 8), dtype=dtype), dtype, mode=mode, portable=portable)


@pytest.mark.parametrize("mode", ["graph", "jit"])
@pytest.mark.parametrize("portable", [True, False])
@pytest.mark.parametrize("shape", [(6, 5), (6, 3, 3, 5), (6, 2, 5)])
def test_batches_of_unknown_size(rng, shape, mode, portable):
    check(make_case(rng, shape), "float32", mode=mode, known=False, portable=portable)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("portable", [True, False])
def test_a_large_mean_cancels_nothing(rng, mode, portable):
    x, _, _, *vectors = make_case(rng, (8, 4, 4, 5), offset=1e6)
    mean = tf.constant(np.full(5, 1e6 + 1), tf.float32)
    y, _ = MODES[mode](lambda *tensors: run(*tensors, portable=portable))(x, x, mean, *vectors)
    (desired, _), *_ = expected(x, x, mean, *vectors)
    np.testing.assert_allclose(y, desired, rtol=0, atol=1e-6 * np.abs(desired).max())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("portable", [True, False])
@pytest.mark.parametrize("shape", [(0, 5), (0, 3, 3, 5)])
def test_no_rows(shape, portable, mode):
    zero, one = tf.zeros(5), tf.ones(5)
    case = (tf.zeros(shape), tf.zeros(shape), zero, one, one, zero)
    y, (dx, dgamma, dbeta, *_) = MODES[mode](lambda *t: run(*t, portable=portable))(*case)
    assert y.shape == dx.shape == shape
    np.testing.assert_array_equal([dgamma, dbeta], np.zeros((2, 5)))


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("portable", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_second_derivatives(rng, mode, portable, dtype):
    """Of a gradient penalty."""
    x, _, *vectors = make_case(rng, (3, 2, 2, 4), dtype=dtype)

    def gradient_of_penalty(normalize):
        with tf.GradientTape() as outer:
            outer.watch((x, *vectors[2:]))
            with tf.GradientTape() as inner:
                inner.watch(x)
                loss = tf.reduce_sum(normalize(x, *vectors) ** 3)
            total = tf.reduce_sum(inner.gradient(loss, x) ** 2)
        return outer.gradient(total, (x, *vectors[2:]))

    def plain(x, mean, variance, gamma, beta):
        return tf.nn.relu((x - mean) / tf.sqrt(variance + EPSILON) * gamma + beta)

    def ours(*tensors):
        return ops.inference_step(*tensors, epsilon=EPSILON, relu=True, portable=portable)

    desired = gradient_of_penalty(plain)
    inside = MODES[mode](lambda: gradient_of_penalty(ours))()
    for found in (inside, gradient_of_penalty(MODES[mode](ours))):
        for actual, at in zip(found, desired, strict=True):
            error = np.abs(actual - at).max()
            assert error <= {"float32": 1e-5, "float64": 1e-12}[dtype] * np.abs(at).max()


@pytest.mark.parametrize("portable", [True, False])
def test_forward_derivatives(rng, portable):
    """Eagerly; around a traced function with what is by hand, inside one with the others."""
    x, tangent, *vectors = make_case(rng, (3, 2, 2, 4))

    def forwards(x, wrap=lambda function: function):
        def normalize(x):
            return ops.inference_step(x, *vectors, epsilon=EPSILON, portable=portable)

        with tf.autodiff.ForwardAccumulator(x, tangent) as accumulator:
            y = wrap(normalize)(x)
        return accumulator.jvp(y)

    desired = tangent * vectors[2] / tf.sqrt(vectors[1] + EPSILON)
    by_hand = not portable and lowerings.forced() == "native"
    in_graph = forwards(x, tf.function) if by_hand else tf.function(forwards)(x)
    for actual in (forwards(x), in_graph):
        np.testing.assert_allclose(actual, desired, rtol=1e-5, atol=1e-6)
    if by_hand:
        with pytest.raises(ValueError, match=r"inside a tf\.function"):
            tf.function(forwards)(x)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("portable", "relu"), [(True, False), (False, False), (False, True)])
def test_the_gradient_does_not_read_x(mode, portable, relu):
    """NaN and infinity in x leave the gradients of other positions, and their own, finite."""
    x = tf.constant([[np.nan, np.inf, -np.inf, 1.0], [1.0, 1.0, 1.0, 1.0]])
    zero, one = tf.zeros(4), tf.ones(4)
    dy = tf.constant([[0.0] * 4, [1.0] * 4])
    function = MODES[mode](lambda *tensors: run(*tensors, portable=portable, relu=relu))
    _, (dx, *_) = function(x, dy, zero, one, one, zero)
    np.testing.assert_allclose(dx, dy / np.sqrt(1 + EPSILON), rtol=1e-6)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("portable", [True, False])
@pytest.mark.parametrize("relu", [True, False])
def test_nothing_of_a_masked_position_reaches_a_gradient(rng, relu, portable, mode):
    """The gradients are those of the positions that count, even where the others are NaN."""
    x, dy, *vectors = make_case(rng, (6, 4, 5))
    keep = rng.random((6, 4, 1)) < 0.6
    options = {"relu": relu, "portable": portable}
    function = MODES[mode](lambda *tensors: run(*tensors, mask=keep, **options))
    y, (dx, dgamma, dbeta, *_) = function(tf.where(keep, x, np.nan), dy, *vectors)
    np.testing.assert_array_equal(np.isnan(y), np.broadcast_to(~keep, x.shape))
    (desired_y, desired_dx), desired_dgamma, desired_dbeta = expected(
        x, tf.where(keep, dy, 0), *vectors, relu=relu
    )
    near = {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(tf.where(keep, y, desired_y), desired_y, **near)
    np.testing.assert_allclose(dx, desired_dx, **near)
    np.testing.assert_allclose(dgamma, desired_dgamma, **near)
    np.testing.assert_allclose(dbeta, desired_dbeta, **near)


def operations(function, *tensors):
    """Types of the operations of a function that is traced, those in functions it calls, too."""
    graph = tf.function(function).get_concrete_function(*tensors).graph.as_graph_def()
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    return {node.op for node in nodes}


def test_which_operations_a_graph_holds(rng, lowering):
    x, _, *vectors = make_case(rng, (2, 3, 3, 4))

    def found(x, vectors=vectors, **options):
        kinds = operations(lambda x: ops.inference_step(x, *vectors, **options), x)
        return {kind for kind in kinds if kind.startswith(("KerasRenorm", "FusedBatchNorm"))}

    fused = set() if lowering == "composite" else {"FusedBatchNormV3"}
    assert found(x) == fused
    assert found(x, portable=False) == ({"KerasRenormNormalize"} if lowering == "native" else fused)
    assert found(x[0, 0], vectors=vectors) == set()  # reshaping costs more than it gains
    assert found(x, epsilon=1e-6) == set()  # less than cuDNN takes
    assert found(x, axis=1, vectors=[v[:3] for v in vectors]) == set()
    assert found(tf.cast(x, "float64")) == set()


def test_nothing_is_traced_beside_what_is_called(rng):
    derivatives._traced.cache_clear()
    case = make_case(rng, (4, 5))
    run(*case, portable=False)
    assert derivatives._traced.cache_info().currsize == 0
