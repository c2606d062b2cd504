import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("calls from TensorFlow", allow_module_level=True)

import tensorflow as tf

from keras_renorm.ops.maths.operands import Arguments, Constants, Settings
from keras_renorm.ops.native import loader
from keras_renorm.ops.steps.one_call import OneCall
from keras_renorm.ops.steps.step import Step

if not loader.library_path().is_file():
    pytest.skip("the native library is not built", allow_module_level=True)

EPSILON = 1e-3
LIMITS = 1.5, 0.5


class Case:
    def __init__(self, rng, shape=(7, 5, 3), dtype="float32", mask=None, **settings):
        self.wide = "float64" if dtype == "float64" else "float32"
        self.x, self.dy = (tf.cast(a, dtype) for a in rng.normal(1.0, 2.0, (2, *shape)))
        self.vectors = [tf.constant(v, self.wide) for v in rng.uniform(0.5, 2.0, (4, shape[-1]))]
        self.mask = mask
        if mask is not None:
            self.x, self.dy = (tf.where(mask, a, np.nan) for a in (self.x, self.dy))
        self.settings = {"axis": 2, "epsilon": EPSILON, "relu": False, **settings}

    def step(self, x=None, **average):
        arguments = Arguments(self.x if x is None else x, *self.vectors[:2])
        limits = [tf.constant(value, self.wide) for value in LIMITS]
        mask = None if self.mask is None else tf.constant(self.mask)
        constants = Constants(*self.vectors[2:], *limits, mask)
        return Step(arguments, constants, Settings(**self.settings, **average))

    def run(self, x=None, dy=None, **average):
        step, dy = self.step(x, **average), self.dy if dy is None else dy
        with tf.GradientTape(persistent=True) as tape:
            tape.watch((*step.arguments, *step.constants[:4]))
            trained = OneCall().train(step)
        constants = tape.gradient(trained.y, step.constants[:4], dy)
        assert constants == (None,) * 4
        gradients = tape.gradient(trained.y, step.arguments, dy)
        return trained.y, trained.moments(), trained.moving(), gradients

    def expected(self, float64):
        x, dy = (tf.cast(a, "float64").numpy() for a in (self.x, self.dy))
        weights = None if self.mask is None else np.broadcast_to(self.mask, x.shape)
        return float64(x, dy, self.vectors, LIMITS, weights=weights, **self.settings)

    def check(self, found, desired, rtol=2e-5):
        y, moments, _, gradients = found
        valid = True if self.mask is None else np.broadcast_to(self.mask, self.x.shape)
        pairs = [(np.where(valid, y, 0), np.where(valid, desired["y"], 0))]
        for name in ("mean", "variance", "count"):
            rows = desired[name] if self.settings.get("ghost_size") else desired[name][0]
            actual = getattr(moments, name)
            assert (actual.shape, actual.dtype) == (rows.shape, self.wide)
            pairs.append((actual, rows))
        pairs += [
            (g, desired[k]) for g, k in zip(gradients, ("dx", "dgamma", "dbeta"), strict=True)
        ]
        for actual, value in pairs:
            allowed = rtol * max(1.0, np.abs(value).max(initial=0))
            np.testing.assert_allclose(tf.cast(actual, "float64"), value, rtol=0, atol=allowed)


@pytest.mark.parametrize("size", [None, 1, 3, 7, 9])
@pytest.mark.parametrize("shape", [None, (7, 5, 3), (7, 1, 1), (1, 5, 1)])
@pytest.mark.parametrize("relu", [False, True])
def test_one_call_each_way(rng, float64, size, shape, relu):
    mask = None if shape is None else rng.random(shape) > 0.4
    case = Case(rng, mask=mask, relu=relu, ghost_size=size)
    case.check(case.run(), case.expected(float64))


@pytest.mark.parametrize(
    ("dtype", "rtol"), [("float16", 1e-3), ("bfloat16", 8e-3), ("float64", 1e-12)]
)
def test_types(rng, float64, dtype, rtol):
    case = Case(rng, dtype=dtype)
    y, moments, moving, gradients = found = case.run(momentum=0.9)
    case.check(found, case.expected(float64), rtol)
    assert y.dtype == gradients[0].dtype == dtype
    assert {value.dtype.name for value in (*moments, *moving, *gradients[1:])} == {case.wide}


@pytest.mark.parametrize("shape", [(0, 5, 3), (1, 1, 3), (7, 5, 1)])
@pytest.mark.parametrize("size", [None, 2])
@pytest.mark.parametrize("jit", [False, True])
def test_small_batches_of_unknown_size(rng, float64, shape, size, jit):
    case = Case(rng, shape, ghost_size=size)
    spec = tf.TensorSpec([None, *shape[1:]])
    run = tf.function(case.run, input_signature=[spec] * 2, jit_compile=jit, autograph=False)
    desired = (
        case.expected(float64)
        if shape[0]
        else dict.fromkeys(("mean", "variance", "count"), np.zeros((0 if size else 1, 3)))
        | {"y": np.zeros(shape), "dx": np.zeros(shape)}
        | dict.fromkeys(("dgamma", "dbeta"), np.zeros(3))
    )
    case.check(run(case.x, case.dy), desired)


def test_mean_and_remainder_are_the_mean_in_twice_the_precision(rng):
    case = Case(rng)
    case.x = tf.constant((rng.normal(size=(7, 5, 3)) + 1e6).astype("f4"))
    _, moments, _, _ = case.run()
    exact = np.float64(case.x).mean((0, 1))
    found = np.float64(moments.mean) + np.float64(moments.mean_remainder)
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-8)


def test_by_default_no_moving_statistic_changes(rng):
    case = Case(rng)
    _, _, (mean, variance, _), _ = case.run()
    np.testing.assert_array_equal(mean, case.vectors[2])
    np.testing.assert_array_equal(variance, case.vectors[3])


@pytest.mark.parametrize("by_stddev", [False, True])
def test_moving_statistics_move_towards_the_minibatch(rng, float64, by_stddev):
    case = Case(rng, dtype="float64")
    _, _, (mean, variance, updated), _ = case.run(momentum=0.9, by_stddev=by_stddev)
    desired, (mu, old) = case.expected(float64), map(np.asarray, case.vectors[2:])
    np.testing.assert_allclose(mean, 0.9 * mu + 0.1 * desired["mean"][0], rtol=1e-12)
    if by_stddev:
        sigma, sigma_b = np.sqrt(old + EPSILON), np.sqrt(desired["variance"][0] + EPSILON)
        expected = (0.9 * sigma + 0.1 * sigma_b) ** 2 - EPSILON
    else:
        expected = 0.9 * old + 0.1 * desired["variance"][0]
    np.testing.assert_allclose(variance, expected, rtol=1e-12)
    assert updated == 1


def test_the_moments_have_no_gradient(rng):
    case = Case(rng)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(case.x)
        moments = OneCall().train(case.step()).moments()
    assert [tape.gradient(value, case.x) for value in moments] == [None] * 4


def test_the_moving_statistics_have_no_gradient(rng):
    case = Case(rng)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(case.x)
        moving = OneCall().train(case.step(momentum=0.9)).moving()
    assert [tape.gradient(value, case.x) for value in moving] == [None] * 3
