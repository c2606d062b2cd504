import dataclasses

import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("gradients by tapes", allow_module_level=True)

import tensorflow as tf

from keras_renorm.ops.steps import plain
from keras_renorm.ops.steps.step import Step

EPSILON = 1e-3
# Half a unit in the last place of the output and of the gradient; of wide types that of the sums.
ROUNDING = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2e-6, "float64": 1e-13}


class Case:
    def __init__(self, rng, shape=(6, 5, 3), dtype="float32", axis=None, limits=(1.5, 0.5)):
        wide = "float64" if dtype == "float64" else "float32"
        axis = len(shape) - 1 if axis is None else axis
        self.x, self.dy = (tf.cast(a, dtype) for a in rng.normal(1.0, 2.0, (2, *shape)))
        vectors = rng.uniform(0.5, 2.0, (4, shape[axis])).astype(wide)
        self.gamma, self.beta, *moving = map(tf.constant, vectors)
        limits = [tf.constant(value, wide) for value in limits]
        self.step = Step(*moving, *limits, mask=None, axis=axis, epsilon=EPSILON, relu=False)

    def poisoned(self, mask):
        self.step = dataclasses.replace(self.step, mask=tf.constant(mask))
        self.x, self.dy = (tf.where(mask, a, np.nan) for a in (self.x, self.dy))

    def run(self):
        arguments = self.x, self.gamma, self.beta
        with tf.GradientTape() as tape:
            tape.watch(arguments)
            y, batch = plain.take(*arguments, self.step)
        return y, batch, tape.gradient(y, arguments, self.dy)

    def expected(self, float64, dy=None):
        step = self.step
        x, dy = (tf.cast(a, "float64").numpy() for a in (self.x, self.dy if dy is None else dy))
        vectors = self.gamma, self.beta, step.moving_mean, step.moving_variance
        return float64(
            *(x, dy, vectors, (step.r_max.numpy(), step.d_max.numpy())),
            axis=step.axis,
            epsilon=step.epsilon,
            relu=step.relu,
            weights=None if step.mask is None else np.broadcast_to(step.mask, x.shape),
            ghost_size=step.ghost_size,
        )


def check(actual, expected, rounding, magnitude=1.0):
    actual = tf.cast(actual, "float64").numpy()
    allowed = rounding * np.abs(expected) + 3e-6 * magnitude * min(1.0, rounding * 1e6)
    np.testing.assert_array_less(np.abs(actual - expected), allowed + 1e-300)


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_output_and_gradients_are_rounded_once(rng, float64, dtype, relu, axis):
    case = Case(rng, dtype=dtype, axis=axis)
    case.step = dataclasses.replace(case.step, relu=relu)
    y, batch, (dx, dgamma, dbeta) = case.run()
    desired = case.expected(float64)
    assert y.dtype == dx.dtype == dtype
    check(y, desired["y"], ROUNDING[dtype], 4)
    check(dx, desired["dx"], ROUNDING[dtype], 4)
    wide = ROUNDING["float64" if dtype == "float64" else "float32"]
    for actual, name in ((dgamma, "dgamma"), (dbeta, "dbeta")):
        check(actual, desired[name], wide, desired["magnitude"].max())
    for name in ("mean", "variance", "count"):
        check(getattr(batch, name), desired[name][0], wide, 4)


@pytest.mark.parametrize("size", [None, 1, 4, 6])
@pytest.mark.parametrize("shape", [(6, 5, 3), (6, 5, 1), (1, 5, 3), (6, 1, 1)])
def test_nothing_of_masked_positions_with_and_without_ghosts(rng, float64, size, shape):
    case = Case(rng, (6, 5, 3))
    case.step = dataclasses.replace(case.step, ghost_size=size, relu=True)
    case.poisoned(mask := rng.random(shape) > 0.4)
    y, batch, gradients = case.run()
    desired = case.expected(float64)
    valid = np.broadcast_to(mask, (6, 5, 3))
    np.testing.assert_allclose(y.numpy()[valid], desired["y"][valid], rtol=0, atol=2e-5)
    for actual, name in zip(gradients, ("dx", "dgamma", "dbeta"), strict=True):
        np.testing.assert_allclose(actual, desired[name], rtol=0, atol=5e-5)
    rows = desired["count"] if size else desired["count"][0]
    np.testing.assert_array_equal(batch.count, rows)


def test_the_moments_have_no_gradient(rng):
    case = Case(rng)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(case.x)
        _, batch = plain.take(case.x, case.gamma, case.beta, case.step)
    assert [tape.gradient(value, case.x) for value in batch] == [None] * 4


@pytest.mark.parametrize("masked", [False, True])
def test_the_output_is_one_function_for_like_steps(rng, masked):
    """Whose traces are found again by it."""
    case, other = Case(rng), Case(rng)
    if masked:
        case.poisoned(rng.random((6, 5, 1)) > 0.4)
        other.poisoned(rng.random((6, 5, 1)) > 0.4)
    function = plain.output(case.step)
    assert plain.output(other.step) is function
    for one in (case, other):
        arguments = one.x, one.gamma, one.beta
        y, _ = plain.take(*arguments, one.step)
        np.testing.assert_array_equal(function(*arguments, *one.step.constants), y)


@pytest.mark.parametrize(
    "change",
    [{"axis": 1}, {"epsilon": 0.1}, {"relu": True}, {"ghost_size": 4}, {"ghosts": True}],
    ids=lambda change: next(iter(change)),
)
def test_each_setting_is_in_the_output(rng, change):
    case = Case(rng, (6, 3, 3))
    step = dataclasses.replace(case.step, **change)
    arguments = case.x, case.gamma, case.beta
    y = plain.output(step)(*arguments, *step.constants)
    np.testing.assert_array_equal(y, plain.take(*arguments, step)[0])
    assert not np.array_equal(y, plain.take(*arguments, case.step)[0])


def test_a_gradient_by_hand_has_the_derivative_of_the_true_one(rng, float64):
    """In dy: with r and d held the gradient is linear in it, by a symmetric matrix."""
    case = Case(rng, dtype="float64")
    direction = tf.constant(rng.normal(size=(6, 5, 3)))
    made_up = tf.ones_like(case.x), tf.zeros_like(case.gamma), tf.zeros_like(case.beta)
    gradient = plain.gradient(lambda dy, x, gamma, beta: made_up, case.step)
    with tf.GradientTape() as tape:
        tape.watch(case.dy)
        found = gradient(case.dy, case.x, case.gamma, case.beta)
    for actual, value in zip(found, made_up, strict=True):
        np.testing.assert_array_equal(actual, value)
    actual = tape.gradient(found[0], case.dy, direction)
    desired = case.expected(float64, direction)["dx"]
    np.testing.assert_allclose(actual, desired, rtol=1e-9, atol=1e-12)


def test_a_gradient_can_be_refused_a_derivative(rng):
    case = Case(rng)
    zeros = tf.zeros_like(case.x), tf.zeros_like(case.gamma), tf.zeros_like(case.beta)
    gradient = plain.gradient(lambda *_: zeros, case.step, refusal="Not here.")
    with tf.GradientTape() as tape:
        tape.watch(case.dy)
        dx, *_ = gradient(case.dy, case.x, case.gamma, case.beta)
    with pytest.raises(ValueError, match=r"^Not here\.$"):
        tape.gradient(dx, case.dy)
