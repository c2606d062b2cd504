import hashlib
import os
import subprocess
import sys
import threading

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

if keras.backend.backend() != "tensorflow":
    pytest.skip("calls from TensorFlow", allow_module_level=True)

import tensorflow as tf

from keras_renorm import ops
from keras_renorm.ops import reference
from keras_renorm.ops.backends.tensorflow import calls, stablehlo
from keras_renorm.ops.maths import passes as plain
from keras_renorm.ops.maths.operands import Affine, Arguments, Constants, Line, Settings
from keras_renorm.ops.native import loader
from keras_renorm.ops.native.layout import Statistics

if not loader.library_path().is_file():
    pytest.skip("the native library is not built", allow_module_level=True)

# Half a unit in the last place, relative; more for float64, since the reference rounds too.
UNIT = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": 2.0**-49}
EPSILON = 1e-3

# Fewer in the processes that this file starts for the lesser instruction sets.
EXAMPLES = 25 if "KERAS_RENORM_INSTRUCTION_SET" in os.environ else 100


class Case:
    """Inputs of one call, and the call in three ways."""

    def __init__(
        self,
        shape,
        axis,
        *,
        dtype="float32",
        offset=0.0,
        seed=0,
        limits=(3.0, 5.0),
        relu=False,
        weights=None,
        ghost_size=None,
        poison=False,
    ):
        rng = np.random.default_rng(seed)
        self.axis, self.relu, self.ghost_size, self.limits = axis, relu, ghost_size, limits
        self.dtype, self.wide = dtype, "float64" if dtype == "float64" else "float32"
        x, dy = rng.normal(size=(2, *shape))
        self.weights = weights
        if poison and weights is not None:
            masked = np.broadcast_to(weights == 0, shape)
            x[masked], dy[masked] = np.nan, np.inf
        self.x, self.dy = (tf.cast(tf.constant(a), dtype) for a in (x + offset, dy))
        channels = shape[axis]
        vectors = [
            rng.normal(size=channels),
            rng.normal(size=channels),
            rng.normal(size=channels) + offset,
            rng.uniform(0.3, 3, channels),
        ]
        self.vectors = [tf.constant(v, self.wide) for v in vectors]

    @property
    def settings(self):
        return Settings(self.axis, EPSILON, self.relu, self.ghost_size)

    def constants(self, mean, variance):
        limits = [tf.constant(v, self.wide) for v in self.limits]
        weights = None if self.weights is None else tf.constant(self.weights)
        return Constants(mean, variance, *limits, weights)

    def forward(self, **average):
        arguments, constants = (
            Arguments(self.x, *self.vectors[:2]),
            self.constants(*self.vectors[2:]),
        )
        return calls.forward(arguments, constants, self.settings._replace(**average))

    def run(self, x, dy, gamma, beta, *moving):
        constants = self.constants(*moving)
        y, statistics, *_ = calls.forward(Arguments(x, gamma, beta), constants, self.settings)
        gradients = calls.backward(dy, x, statistics, constants.mask, self.settings)
        return y, statistics, *gradients

    def __call__(self, run=None):
        y, statistics, dx, dgamma, dbeta = (run or self.run)(self.x, self.dy, *self.vectors)
        rows = Statistics(*tf.unstack(statistics))
        # In float64: else the sum of a mean and its remainder would round to the mean.
        result = {key: tf.cast(v, "float64").numpy() for key, v in rows._asdict().items()}
        result["mean"] += result["mean_remainder"]
        gradients = {"y": y, "dx": dx, "dgamma": dgamma, "dbeta": dbeta}
        return result | {key: tf.cast(v, "float64").numpy() for key, v in gradients.items()}

    def expected(self, float64):
        x, dy = (tf.cast(a, "float64").numpy() for a in (self.x, self.dy))
        return float64(
            x,
            dy,
            [v.numpy() for v in self.vectors],
            self.limits,
            axis=self.axis,
            epsilon=EPSILON,
            relu=self.relu,
            weights=self.weights,
            ghost_size=self.ghost_size,
        )


def assert_close(actual, expected, tolerance, scale=1.0):
    assert actual.shape == expected.shape
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(expected))
    error = np.abs(np.nan_to_num(actual) - np.nan_to_num(expected))
    bound = tolerance * (np.abs(np.nan_to_num(expected)) + scale)
    assert np.all(error <= bound), f"{np.max(error / bound):.2g} times the tolerance"


def assert_agrees(case, result, expected):
    unit, wide = UNIT[case.dtype], UNIT[case.wide]
    assert_close(result["mean"], expected["mean"], 16 * wide)
    assert_close(result["variance"], expected["variance"], 64 * wide, EPSILON)
    assert_close(result["count"], expected["count"], 16 * wide)
    assert_close(result["r"], expected["r"], 64 * wide)
    assert_close(result["d"], expected["d"], 64 * wide)
    # A channel without positions is not centred: r x / sqrt(epsilon) and d nearly cancel.
    largest = np.max(np.abs(np.nan_to_num(case.x.numpy().astype("float64"))), initial=1)
    scale = 1.0 if expected["count"].all() else largest / EPSILON**0.5
    assert_close(result["y"], expected["y"], 64 * wide + 2 * unit, scale)
    if case.relu and np.any(np.abs(expected["affine"]) < 1e3 * wide):
        return  # rounding may take such a value to the other side of zero
    assert_close(result["dx"], expected["dx"], 128 * wide + 2 * unit, 32.0)
    for key in ("dgamma", "dbeta"):
        assert_close(result[key], expected[key], 32 * wide, 1 + expected["magnitude"])


@st.composite
def cases(draw):
    rank = draw(st.integers(2, 5))
    shape = [draw(st.sampled_from([1, 2, 3, 5, 8])) for _ in range(rank)]
    axis = draw(st.integers(0, rank - 1))
    shape[draw(st.integers(0, rank - 1))] = draw(st.sampled_from([1, 7, 40, 129, 300]))
    shape[axis] = draw(st.sampled_from([1, 2, 3, 5, 16, 17, 20, 33, 64, 65, 100]))
    ghost_size = None if axis == 0 else draw(st.sampled_from([None, None, 1, 2, 3, 50]))
    dtype = draw(st.sampled_from(sorted(UNIT)))
    offsets = [0.0, 3.0, 1e3, 1e6] if dtype == "float32" else [0.0, 3.0]
    seed = draw(st.integers(0, 2**32 - 1))
    return Case(
        tuple(shape),
        axis,
        dtype=dtype,
        offset=draw(st.sampled_from(offsets)),
        seed=seed,
        limits=draw(st.sampled_from([(1.0, 0.0), (3.0, 5.0), (1e30, 1e30)])),
        relu=draw(st.booleans()),
        weights=draw(weightings(shape, axis, seed)),
        ghost_size=ghost_size,
        poison=draw(st.booleans()),
    )


@st.composite
def weightings(draw, shape, axis, seed):
    kind = draw(st.sampled_from(["none", "mask", "weights"]))
    if kind == "none":
        return None
    own = [1 if i == axis and draw(st.booleans()) else n for i, n in enumerate(shape)]
    rng = np.random.default_rng(seed)
    mask = rng.random(own) < draw(st.sampled_from([0.0, 0.3, 0.9]))
    if kind == "mask":
        return mask
    return np.where(mask, rng.uniform(0.1, 3, own), 0).astype("float32")


@settings(max_examples=EXAMPLES, deadline=None)
@given(case=cases())
def test_agrees_with_float64(float64, case):
    assert_agrees(case, case(), case.expected(float64))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", sorted(UNIT))
@pytest.mark.parametrize(("shape", "axis"), [((90, 33, 34, 48), 3), ((3000, 1500), 1)])
def test_agrees_with_float64_where_the_output_is_written_past_the_cache(
    float64, shape, axis, dtype
):
    case = Case(shape, axis, dtype=dtype, relu=shape[-1] == 48)
    result, expected = case(), case.expected(float64)
    assert_agrees(case, result, expected)
    far = np.abs(expected["affine"]) > 0.01 if case.relu else np.full(shape, True)
    assert_close(result["dx"][far], expected["dx"][far], 4 * UNIT[dtype] + 1e-6)


@settings(max_examples=15, deadline=None)
@given(case=cases(), jit=st.booleans(), known=st.booleans())
def test_eager_is_graph_is_jit(case, jit, known):
    size = case.x.shape[case.axis]
    shape = (
        case.x.shape if known else [size if i == case.axis else None for i in range(case.x.ndim)]
    )
    signature = [tf.TensorSpec(shape, case.dtype)] * 2 + [tf.TensorSpec([size], case.wide)] * 4
    compiled = tf.function(case.run, jit_compile=jit, input_signature=signature)
    for key, value in case(compiled).items():
        np.testing.assert_array_equal(value, case()[key], err_msg=key)


@pytest.mark.parametrize(("shape", "axis"), [((4000, 48), 1), ((64, 40, 100), 1), ((9, 3, 7), 1)])
@pytest.mark.parametrize("pattern", ["offset", "first row 0", "last row 0", "steps", "first half"])
def test_variance_is_accurate(float64, shape, axis, pattern):
    case = Case(shape, axis, offset=1e6)
    x = case.x.numpy()
    n = shape[0]
    if pattern == "first row 0":
        x[0] = 0
    elif pattern == "last row 0":
        x[-1] = 0
    elif pattern == "steps":
        x += np.float32(1e3) * np.arange(n, dtype="float32").reshape([-1] + [1] * (x.ndim - 1))
    elif pattern == "first half":
        x[: n // 2] -= np.float32(1e6)
    case.x = tf.constant(x)
    result, expected = case(), case.expected(float64)
    np.testing.assert_allclose(result["variance"], expected["variance"], rtol=1e-5)
    error = np.abs(result["mean"] - expected["mean"])
    assert np.all(error <= 1e-6 * np.sqrt(expected["variance"]))
    assert_close(result["y"], expected["y"], 1e-5)


def test_no_limits_is_batch_normalization_to_the_bit():
    case = Case((32, 6, 20), 2, limits=(1.0, 0.0))
    first = case.run(case.x, case.dy, *case.vectors)
    other = [case.vectors[0], case.vectors[1], case.vectors[2] + 7, case.vectors[3] * 9]
    for one, two in zip(first, case.run(case.x, case.dy, *other), strict=True):
        np.testing.assert_array_equal(one, two)
    statistics = Statistics(*tf.unstack(first[1]))
    assert np.all(statistics.r == 1)
    assert np.all(statistics.d == 0)


def test_nothing_clipped_is_inference():
    case = Case((50, 30), 1, limits=(np.inf, np.inf))
    gamma, beta, mean, variance = (v.numpy() for v in case.vectors)
    inference = gamma * (case.x.numpy() - mean) / np.sqrt(variance + EPSILON) + beta
    np.testing.assert_allclose(case()["y"], inference, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("axis", [1, 2])
def test_nan_shows_in_its_channel_only(axis):
    case = Case((6, 40, 50), axis)
    x = case.x.numpy()
    x[(2, 3, 4)] = np.nan
    case.x = tf.constant(x)
    bad = np.moveaxis(np.isnan(case()["y"]), axis, 0).reshape(x.shape[axis], -1)
    channel = 3 if axis == 1 else 4
    assert bad[channel].all()
    assert not np.delete(bad, channel, 0).any()


def test_every_half_is_read_and_written_as_it_is():
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    zero, one = tf.zeros(64), tf.ones(64)
    x = tf.constant(halves.reshape(-1, 64))
    y = calls.normalize(x, Affine(zero, zero, one, zero), Settings(axis=1)).numpy().ravel()
    np.testing.assert_array_equal(y, halves)  # subnormals, too, in threads that flush those


@pytest.mark.parametrize("shape", [(0, 5), (0, 3, 3, 20), (2, 0, 20)])
def test_the_moments_of_no_rows_are_0(shape):
    result = Case(shape, len(shape) - 1)()
    assert not result["mean"].any()
    assert not result["variance"].any()
    assert not result["count"].any()
    assert not result["dgamma"].any()
    assert not result["dbeta"].any()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("shape", "axis"), [((8, 9, 20), 2), ((8, 20, 70), 1)])
def test_separate_calls_are_the_joint_ones(shape, axis, dtype):
    weights = (
        np.random.default_rng(1).random(
            (8, *(1 if i + 1 == axis else n for i, n in enumerate(shape[1:])))
        )
        < 0.8
    )
    case = Case(shape, axis, dtype=dtype, weights=weights, relu=True)
    y, statistics, dx, _, dbeta = case.run(case.x, case.dy, *case.vectors)
    s, mask = Statistics(*tf.unstack(statistics[:, 0])), tf.constant(weights)
    batch, _ = calls.moments(case.x, mask, Settings(axis))
    np.testing.assert_array_equal(batch.mean, s.mean)
    np.testing.assert_allclose(batch.mean_remainder, s.mean_remainder, rtol=1e-5, atol=1e-14)
    np.testing.assert_allclose(batch.variance, s.variance, rtol=1e-6)
    np.testing.assert_array_equal(batch.count, s.count)
    affine = Affine(s.mean, s.mean_remainder, s.scale, s.offset)
    settings = Settings(axis, relu=True)
    np.testing.assert_array_equal(calls.normalize(case.x, affine, settings), y)
    first, second = calls.gradient_sums(case.dy, case.x, affine, mask, settings)
    np.testing.assert_allclose(first, dbeta, rtol=1e-5, atol=1e-5)
    bias = s.scale * first / s.count
    slope = s.scale * second * s.inverse**2 / s.count
    line = Line(bias, slope)
    again = calls.input_gradient(case.dy, case.x, affine, line, mask, settings)
    np.testing.assert_allclose(
        tf.cast(again, "float32"), tf.cast(dx, "float32"), rtol=4 * UNIT[dtype], atol=1e-4
    )


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("masked", [False, True])
def test_each_ghost_is_a_batch_to_the_bit(axis, masked):
    weights = np.random.default_rng(1).random((7, 40, 1) if axis == 2 else (7, 1, 50)) < 0.8
    case = Case((7, 40, 50), axis, relu=True, weights=weights if masked else None, ghost_size=3)
    y, statistics, dx, dgamma, dbeta = case.run(case.x, case.dy, *case.vectors)
    ghosts, case.ghost_size = [], None
    for rows in (slice(0, 3), slice(3, 6), slice(6, 7)):
        case.weights = weights[rows] if masked else None
        ghosts.append(case.run(case.x[rows], case.dy[rows], *case.vectors))
    parts = list(zip(*ghosts, strict=True))
    np.testing.assert_array_equal(y, np.concatenate(parts[0]))
    np.testing.assert_array_equal(statistics, np.concatenate(parts[1], axis=1))
    np.testing.assert_array_equal(dx, np.concatenate(parts[2]))
    np.testing.assert_allclose(dgamma, np.sum(parts[3], 0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(dbeta, np.sum(parts[4], 0), rtol=1e-5, atol=1e-5)


def test_a_ghost_of_more_rows_than_there_are_is_the_whole_batch():
    case = Case((7, 5), 1)
    whole = case.run(case.x, case.dy, *case.vectors)
    case.ghost_size = 2**63 - 1
    for actual, desired in zip(case.run(case.x, case.dy, *case.vectors), whole, strict=True):
        np.testing.assert_array_equal(actual, desired)


def test_no_rows_are_no_ghosts():
    case = Case((0, 5), 1, ghost_size=2)
    y, statistics, dx, dgamma, dbeta = case.run(case.x, case.dy, *case.vectors)
    assert y.shape == dx.shape == (0, 5)
    assert statistics.shape == (9, 0, 5)
    np.testing.assert_array_equal([dgamma, dbeta], 0)


@pytest.mark.parametrize("dtype", sorted(UNIT))
@pytest.mark.parametrize("by_stddev", [False, True])
@pytest.mark.parametrize("ghost_size", [None, 3])
def test_the_moving_update_is_that_of_ops_moving(dtype, by_stddev, ghost_size):
    """On a batch with a channel of NaN, one masked, one with an overflow and one of a NaN ghost."""
    weights = np.ones((8, 5, 6), bool)
    weights[:, :, 1] = False
    case = Case((8, 5, 6), 2, dtype=dtype, weights=weights, ghost_size=ghost_size)
    x = case.x.numpy().astype("float64")
    x[2, 3, 0], x[7, 0, 3] = np.nan, np.nan
    x[:, 1, 2] = np.inf
    case.x = tf.cast(x, dtype)
    average = {"momentum": 0.9, "by_stddev": by_stddev}
    _, statistics, mean, variance, updated = case.forward(**average)
    rows = Statistics(*tf.unstack(statistics if ghost_size else statistics[:, 0]))
    expected = ops.update_moving(
        *case.vectors[2:],
        ops.Moments(rows.mean, rows.variance, rows.count, rows.mean_remainder),
        epsilon=EPSILON,
        **average,
    )
    tolerance = {"rtol": 8 * UNIT[case.wide], "atol": 8 * UNIT[case.wide]}
    np.testing.assert_allclose(mean, expected.mean, **tolerance)
    np.testing.assert_allclose(variance, expected.variance, **tolerance)
    kept = [0, 1, 2, 3] if ghost_size is None else [1, 2]
    np.testing.assert_array_equal(mean.numpy()[kept], case.vectors[2].numpy()[kept])
    np.testing.assert_array_equal(variance.numpy()[kept], case.vectors[3].numpy()[kept])
    changed = np.delete(np.arange(6), kept)
    assert (mean.numpy()[changed] != case.vectors[2].numpy()[changed]).all()
    assert updated == expected.updated == 1


def test_without_an_update_none_is_told():
    case = Case((4, 3), 1, weights=np.zeros((4, 1), bool))
    result = case.forward(momentum=0.5)
    assert result.updated == 0
    np.testing.assert_array_equal(result.moving_mean, case.vectors[2])
    np.testing.assert_array_equal(result.moving_variance, case.vectors[3])


def test_ghosts_of_channels_are_refused():
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="ghost batches of 2 rows, with the ch"
    ):
        Case((4, 3), 0, ghost_size=2)()


def test_masks_broadcast():
    case = Case((6, 5, 4, 3), 3, weights=np.array([True, False] * 3).reshape(6, 1, 1, 1))
    full = Case((6, 5, 4, 3), 3, weights=np.broadcast_to(case.weights, (6, 5, 4, 3)).copy())
    for key, value in case().items():
        np.testing.assert_allclose(value, full()[key], rtol=1e-6, atol=1e-6, err_msg=key)


def test_a_mask_of_no_shape_is_refused():
    case = Case((6, 5), 1, weights=np.ones((4, 1), bool))
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"[Ii]ncompatible shapes"):
        case()


def test_threads_calling_at_once_get_the_same_bits():
    case = Case((64, 28, 28, 64), 3, relu=True)
    expected = [t.numpy().tobytes() for t in case.run(case.x, case.dy, *case.vectors)]
    compiled = tf.function(case.run)
    compiled(case.x, case.dy, *case.vectors)
    results = [None] * 10

    def work(i):
        tensors = compiled(case.x, case.dy, *case.vectors)
        results[i] = [t.numpy().tobytes() for t in tensors]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(result == expected for result in results)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_hundred_steps_trace_once(jit_compile):
    case, traces = Case((16, 8), 1), []

    @tf.function(jit_compile=jit_compile)
    def step(x, dy):
        traces.append(1)
        return case.run(x, dy, *case.vectors)

    stablehlo.custom_call.cache_clear()
    for _ in range(100):
        step(case.x, case.dy)
    assert len(traces) == 1
    assert stablehlo.custom_call.cache_info().misses == (2 if jit_compile else 0)


def test_runs_on_every_replica():
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    case = Case((16, 7, 20), 2, relu=True)
    results = tf.function(lambda: strategy.run(lambda: case.run(case.x, case.dy, *case.vectors)))()
    for one, expected in zip(results, case.run(case.x, case.dy, *case.vectors), strict=True):
        for value in strategy.experimental_local_results(one):
            np.testing.assert_array_equal(value, expected)


_DIGEST = """
import hashlib, sys
import numpy as np, tensorflow as tf
threads, = sys.argv[1:]
tf.config.threading.set_intra_op_parallelism_threads(int(threads))
from keras_renorm.ops.backends.tensorflow import calls, runtime
from keras_renorm.ops.maths.operands import Arguments, Constants, Settings
digest = hashlib.sha256()
for shape, axis in [((64, 14, 14, 48), 3), ((16, 40, 500), 1), ((70, 3), 1), ((300, 300), 1)]:
    rng = np.random.default_rng(0)
    x, dy = tf.constant(rng.normal(size=(2, *shape)), tf.float32)
    one, zero = tf.ones(shape[axis]), tf.zeros(shape[axis])
    settings = Settings(axis, epsilon=1e-3, momentum=0.9)
    constants = Constants(zero, one, tf.constant(3.0), tf.constant(5.0))
    y, saved, *moved = calls.forward(Arguments(x, one, zero), constants, settings)
    for tensor in (y, saved, *moved, *calls.backward(dy, x, saved, None, settings)):
        digest.update(tensor.numpy().tobytes())
np.save(sys.stdout.buffer, np.asarray(y)[:1])
print(digest.hexdigest(), runtime.register().instruction_set, file=sys.stderr)
"""


def _digest(threads, instruction_set=""):
    environment = os.environ | {"KERAS_RENORM_INSTRUCTION_SET": instruction_set}
    done = subprocess.run(
        [sys.executable, "-c", _DIGEST, str(threads)],
        capture_output=True,
        check=True,
        env=environment,
    )
    return done.stderr.decode().split()[-2:]


def test_bits_do_not_depend_on_the_number_of_threads():
    one, many = _digest(1), _digest(4)
    assert len(one[0]) == hashlib.sha256().digest_size * 2
    assert one == many


@pytest.mark.slow
@pytest.mark.parametrize("instruction_set", ["baseline", "avx2"])
def test_every_instruction_set_agrees_with_float64(run_checks, instruction_set):
    """The whole of this file's main test, in a process of its own."""
    if _digest(1, instruction_set)[1] != instruction_set:
        pytest.skip(f"this machine has no {instruction_set} kernels")
    run_checks(
        "calls_test.py",
        "-k",
        "test_agrees_with_float64 or variance or nan_shows or every_half",
        KERAS_RENORM_INSTRUCTION_SET=instruction_set,
    )


# A unit in the last place of what is rounded to the type, and the sums' error.
ROUNDING = {"float16": 2e-3, "bfloat16": 1.6e-2, "float32": 2e-6, "float64": 1e-13}


def check_near(actual, expected, rounding):
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    actual, expected = (tf.cast(value, "float64").numpy() for value in (actual, expected))
    allowed = rounding * max(1.0, np.abs(expected).max(initial=0))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=allowed)


@st.composite
def passes_cases(draw):
    shape = [draw(st.integers(0, 9)), *draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))]
    axis, dtype = draw(st.integers(0, len(shape) - 1)), draw(st.sampled_from([*ROUNDING]))
    shape[axis] = max(1, shape[axis])
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    mask = None
    if draw(st.booleans()):
        mask = rng.random([n if draw(st.booleans()) else 1 for n in shape]) > 0.4
    return rng, tuple(shape), axis, dtype, mask, draw(st.booleans())


@given(passes_cases())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_the_passes_are_those_of_plain_operations(case):
    """Also of no rows, and of NaN under the mask."""
    rng, shape, axis, dtype, mask, relu = case
    x, dy = (tf.cast(a, dtype) for a in rng.normal(1.0, 2.0, (2, *shape)))
    wide = "float64" if dtype == "float64" else "float32"
    vectors = [tf.constant(v, wide) for v in rng.normal(size=(6, shape[axis]))]
    vectors[1] *= 0.01
    affine, line, settings = Affine(*vectors[:4]), Line(*vectors[4:]), Settings(axis, relu=relu)
    # Away from 0, where the two may round to different sides of the ReLU.
    output = plain.normalize(tf.cast(x, wide), affine, Settings(axis))
    x = tf.where(tf.abs(output) < 0.1, x + tf.cast(1, dtype), x)
    output = plain.normalize(tf.cast(x, wide), affine, Settings(axis))
    dy = tf.where(tf.abs(output) < 0.05, tf.zeros_like(dy), dy)
    received = tf.where(output > 0, dy, tf.zeros_like(dy)) if relu else dy
    if mask is not None:
        mask = tf.constant(mask)
        x, dy, received = (tf.where(mask, a, tf.cast(np.nan, dtype)) for a in (x, dy, received))
    both = (calls, plain)
    batches = [module.moments(x, mask, settings)[0] for module in both]
    for name in ("variance", "count"):
        check_near(*(getattr(batch, name) for batch in batches), ROUNDING[wide])
    check_near(*(batch.mean + batch.mean_remainder for batch in batches), ROUNDING[wide])
    upstream = zip(both, (dy, received), strict=True)  # plain operations know of no ReLU there
    sums = [module.gradient_sums(dy, x, affine, mask, settings) for module, dy in upstream]
    for pair in zip(*sums, strict=True):
        check_near(*pair, 10 * ROUNDING[wide])
    given = x, affine, line, mask, settings
    gradients = calls.input_gradient(dy, *given), plain.input_gradient(received, *given)
    check_near(*gradients, ROUNDING[dtype])
    if mask is not None:
        x = tf.where(mask, x, tf.zeros_like(x))
    check_near(*(module.normalize(x, affine, settings) for module in both), ROUNDING[dtype])


def test_mean_and_remainder_are_the_float64_mean(rng):
    x = (rng.normal(size=(500, 4)) + 1e6).astype("f4")
    batch, centre = calls.moments(tf.constant(x), None, Settings(axis=1))
    mean, variance, count = reference.moments(x)
    assert {value.dtype for value in batch} == {tf.float32}
    np.testing.assert_array_equal(batch.mean, mean.astype("f4"))
    np.testing.assert_array_equal(centre, batch.mean)
    exact = np.float64(batch.mean) + np.float64(batch.mean_remainder)
    np.testing.assert_allclose(exact, mean, rtol=0, atol=1e-8)
    np.testing.assert_allclose(batch.variance, variance, rtol=1e-6)
    np.testing.assert_array_equal(batch.count, count)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_the_gradient_of_a_relu_is_told_by_its_output(dtype):
    y = tf.constant([0.0, 1e-3, 2.0, 0.0], dtype)
    dy = tf.constant([4.0, -1.0, 3.0, -5.0], dtype)
    dx = calls.relu_gradient(dy, y)
    assert dx.dtype == dtype
    np.testing.assert_array_equal(tf.cast(dx, "float32"), [0, -1, 3, 0])
