"""The step of one replica and, with threads for replicas, of two.

Real ones are in tests/keras_renorm/layers/replica_checks.py.
"""

import concurrent.futures
import threading

import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("steps by passes are TensorFlow's", allow_module_level=True)

import tensorflow as tf

from keras_renorm.ops import Moments
from keras_renorm.ops.maths.operands import Arguments, Constants, Settings
from keras_renorm.ops.native import loader
from keras_renorm.ops.steps.pass_by_pass import NativePasses, PlainPasses
from keras_renorm.ops.steps.plain import Plain
from keras_renorm.ops.steps.step import Step

EPSILON = 1e-3
LIMITS = 1.5, 0.5
MODES = {"eager": lambda f: f, "graph": tf.function, "jit": tf.function(jit_compile=True)}
PASSES = {"composite": PlainPasses()}
if loader.library_path().is_file():
    PASSES["native"] = NativePasses()
every_pass = pytest.mark.parametrize("passes", PASSES.values(), ids=PASSES)


class Meeting:
    """Where threads that play replicas wait for each other."""

    def __init__(self, parties):
        self._barrier = threading.Barrier(parties, timeout=60)
        self._values = [None] * parties

    def exchange(self, index, value):
        self._values[index] = value
        self._barrier.wait()
        values = list(self._values)
        self._barrier.wait()
        return values


class Played:
    """One of the replicas, as `ops.Replicas`; what it joins is joined in float64 NumPy."""

    def __init__(self, meeting, index):
        self._meeting, self._index = meeting, index

    def _stacked(self, vectors):
        return np.stack(self._meeting.exchange(self._index, np.float64(vectors)))

    def merge(self, local):
        mean, variance, count, rest = self._stacked(local).swapaxes(0, 1)
        mean, shares = mean + rest, count / np.maximum(count.sum(0), 1)
        exact = (shares * mean).sum(0)
        rounded = exact.astype("f4")
        whole = (shares * (variance + (mean - exact) ** 2)).sum(0)
        moments = rounded, whole, count.sum(0), exact - rounded
        return Moments(*(tf.constant(value, "float32") for value in moments))

    def add(self, *vectors):
        return [tf.constant(value, "float32") for value in self._stacked(vectors).sum(0)]


class Case:
    def __init__(
        self, rng, rows, *, offset=0.0, masked=False, dtype="f4", limits=LIMITS, **settings
    ):
        shape = (rows, 5, 3)
        self.x = (rng.normal(size=shape) + offset).astype(dtype)
        self.dy = rng.normal(size=shape).astype(dtype)
        self.vectors = [rng.uniform(0.5, 2.0, 3).astype(dtype) for _ in range(4)]
        self.vectors[2] += offset
        self.mask = rng.random((rows, 5, 1)) > 0.3 if masked else None
        self.limits = limits
        self.settings = {"axis": 2, "epsilon": EPSILON, "relu": False, **settings}

    def step(self, x, replicas=None, rows=slice(None)):
        gamma, beta, *moving = map(tf.constant, self.vectors)
        mask = None if self.mask is None else tf.constant(self.mask[rows])
        limits = (tf.constant(limit, gamma.dtype) for limit in self.limits)
        constants = Constants(*moving, *limits, mask)
        return Step(Arguments(x, gamma, beta), constants, Settings(**self.settings), replicas)

    def run(self, passes, replicas=None, rows=slice(None)):
        x, dy = tf.constant(self.x[rows]), tf.constant(self.dy[rows])
        step = self.step(x, replicas, rows)
        with tf.GradientTape() as tape:
            tape.watch(step.arguments)
            trained = passes.train(step)
        return trained.y, trained.moments(), tape.gradient(trained.y, step.arguments, dy)

    def expected(self, float64, counted=slice(None)):
        """With the gradients of the outputs that are counted."""
        dy = np.zeros_like(self.dy)
        dy[counted] = self.dy[counted]
        weights = None if self.mask is None else np.broadcast_to(self.mask, self.x.shape)
        return float64(self.x, dy, self.vectors, self.limits, weights=weights, **self.settings)


def close(actual, desired, atol=2e-5):
    np.testing.assert_allclose(actual, desired, rtol=2e-5, atol=atol)


@every_pass
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("rows", [0, 1, 7])
def test_one_replica(rng, float64, passes, rows, masked, relu):
    case = Case(rng, rows, masked=masked, relu=relu)
    y, batch, gradients = case.run(passes)
    desired = case.expected(float64)
    close(y, desired["y"])
    for name in ("mean", "variance", "count"):
        close(getattr(batch, name), desired[name][0])
    for actual, name in zip(gradients, ("dx", "dgamma", "dbeta"), strict=True):
        close(actual, desired[name])


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("size", [1, 3, 7, 9])
def test_ghosts(rng, float64, size, masked):
    case = Case(rng, 7, masked=masked, relu=True, ghost_size=size)
    y, batch, gradients = case.run(PASSES["composite"])
    desired = case.expected(float64)
    close(y, desired["y"])
    for name in ("mean", "variance", "count"):
        close(getattr(batch, name), desired[name])
    for actual, name in zip(gradients, ("dx", "dgamma", "dbeta"), strict=True):
        close(actual, desired[name])


@every_pass
@pytest.mark.parametrize("offset", [0.0, 1e6])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("cut", [3, 7])
def test_two_replicas_are_one_minibatch(rng, float64, passes, cut, masked, offset):
    """Each with the gradients of gamma and beta of its own outputs, to be added up later."""
    case, meeting = Case(rng, 7, offset=offset, masked=masked, relu=True), Meeting(2)
    parts = slice(cut), slice(cut, None)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        running = [
            pool.submit(case.run, passes, Played(meeting, k), rows) for k, rows in enumerate(parts)
        ]
    whole = case.expected(float64)
    for rows, future in zip(parts, running, strict=True):
        y, batch, (dx, dgamma, dbeta) = future.result()
        close(y, whole["y"][rows])
        close(batch.mean, whole["mean"][0])
        close(batch.variance, whole["variance"][0])
        np.testing.assert_array_equal(batch.count, whole["count"][0])
        close(dx, whole["dx"][rows])
        own = case.expected(float64, rows)
        close(dgamma, own["dgamma"])
        close(dbeta, own["dbeta"])


@every_pass
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_a_replica_where_all_is_masked(rng, float64, passes, offset):
    """It normalises, too, and at a large mean loses no digit of what it cannot see."""
    case, meeting = Case(rng, 7, offset=offset, masked=True, relu=True), Meeting(2)
    case.mask[3:] = False
    parts = slice(3), slice(3, None)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        running = [
            pool.submit(case.run, passes, Played(meeting, k), rows) for k, rows in enumerate(parts)
        ]
    whole = case.expected(float64)
    for rows, future in zip(parts, running, strict=True):
        y, _, (dx, *parameters) = future.result()
        close(y, whole["y"][rows])
        close(dx, whole["dx"][rows])
    for gradient in parameters:
        np.testing.assert_array_equal(gradient, np.zeros(3))


def test_a_replica_where_all_is_masked_and_the_backend_differentiates(rng, float64):
    case, meeting = Case(rng, 7, offset=1e6, masked=True), Meeting(2)
    case.mask[3:] = False

    def output(index, rows):
        step = case.step(tf.constant(case.x[rows]), Played(meeting, index), rows)
        return Plain().train(step).y

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        running = [pool.submit(output, 0, slice(3)), pool.submit(output, 1, slice(3, None))]
    close(np.concatenate([future.result() for future in running]), case.expected(float64)["y"])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("masked", [False, True])
def test_second_derivatives_behind_a_relu_equal_central_differences(rng, float64, masked, mode):
    """Of a gradient penalty, with limits that hold r and d."""
    held = {"dtype": "f8", "limits": (1.0, 0.0), "relu": True}
    case = Case(rng, 4, masked=masked, **held)

    def penalty_gradient(x):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                y = PASSES["composite"].train(case.step(x)).y
            total = tf.reduce_sum(inner.gradient(y, x, case.dy) ** 2)
        return outer.gradient(total, x)

    found, numeric = MODES[mode](penalty_gradient)(tf.constant(case.x)), np.zeros_like(case.x)
    for index in np.ndindex(*case.x.shape):
        for sign in (1, -1):
            case.x[index] += sign * 1e-5
            numeric[index] += sign * (case.expected(float64)["dx"] ** 2).sum() / 2e-5
            case.x[index] -= sign * 1e-5
    close(found, numeric, atol=1e-6 * np.abs(numeric).max())


@every_pass
def test_the_moments_have_no_gradient(rng, passes):
    case = Case(rng, 4)
    x = tf.constant(case.x)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        batch = passes.train(case.step(x)).moments()
    assert [tape.gradient(value, x) for value in batch] == [None] * 4


@every_pass
def test_over_replicas_there_is_no_second_derivative(rng, passes):
    case = Case(rng, 4)
    with tf.GradientTape() as tape:
        case.dy = tf.Variable(case.dy)
        _, _, (dx, _, _) = case.run(passes, Played(Meeting(1), 0))
    message = (
        r"synchronized over several replicas cannot be differentiated again\. "
        "Write synchronized=False where second derivatives are needed"
    )
    with pytest.raises(ValueError, match=message):
        tape.gradient(dx, case.dy)
