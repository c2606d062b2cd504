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
from keras_renorm.ops.steps.step import Step

EPSILON = 1e-3
LIMITS = 1.5, 0.5
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
    def __init__(self, rng, rows, *, offset=0.0, masked=False, **settings):
        shape = (rows, 5, 3)
        self.x = (rng.normal(size=shape) + offset).astype("f4")
        self.dy = rng.normal(size=shape).astype("f4")
        self.vectors = [rng.uniform(0.5, 2.0, 3).astype("f4") for _ in range(4)]
        self.vectors[2] += np.float32(offset)
        self.mask = rng.random((rows, 5, 1)) > 0.3 if masked else None
        self.settings = {"axis": 2, "epsilon": EPSILON, "relu": False, **settings}

    def run(self, passes, replicas=None, rows=slice(None)):
        gamma, beta, *moving = map(tf.constant, self.vectors)
        x, dy = tf.constant(self.x[rows]), tf.constant(self.dy[rows])
        mask = None if self.mask is None else tf.constant(self.mask[rows])
        arguments = Arguments(x, gamma, beta)
        constants = Constants(*moving, *map(tf.constant, LIMITS), mask)
        with tf.GradientTape() as tape:
            tape.watch(arguments)
            trained = passes.train(Step(arguments, constants, Settings(**self.settings), replicas))
        return trained.y, trained.moments(), tape.gradient(trained.y, arguments, dy)

    def expected(self, float64, counted=slice(None)):
        """With the gradients of the outputs that are counted."""
        dy = np.zeros_like(self.dy)
        dy[counted] = self.dy[counted]
        weights = None if self.mask is None else np.broadcast_to(self.mask, self.x.shape)
        return float64(self.x, dy, self.vectors, LIMITS, weights=weights, **self.settings)


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
def test_the_moments_have_no_gradient(rng, passes):
    case = Case(rng, 4)
    gamma, beta, *moving = map(tf.constant, case.vectors)
    constants = Constants(*moving, *map(tf.constant, LIMITS))
    x = tf.constant(case.x)
    step = Step(Arguments(x, gamma, beta), constants, Settings(**case.settings))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        batch = passes.train(step).moments()
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
