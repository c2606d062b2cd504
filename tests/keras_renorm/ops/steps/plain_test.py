import dataclasses

import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("gradients by tapes", allow_module_level=True)

import tensorflow as tf

from keras_renorm.ops.backends.kernels import Differentiable
from keras_renorm.ops.backends.tensorflow import derivatives
from keras_renorm.ops.maths.operands import Arguments, Constants, Settings
from keras_renorm.ops.steps import plain
from keras_renorm.ops.steps.step import Step

EPSILON = 1e-3
# Half a unit in the last place of the output and of the gradient; for wide types, of the sums.
ROUNDING = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2e-6, "float64": 1e-13}


class Case:
    def __init__(self, rng, shape=(6, 5, 3), dtype="float32", axis=None, limits=(1.5, 0.5)):
        wide = "float64" if dtype == "float64" else "float32"
        axis = len(shape) - 1 if axis is None else axis
        x, self.dy = (tf.cast(a, dtype) for a in rng.normal(1.0, 2.0, (2, *shape)))
        vectors = rng.uniform(0.5, 2.0, (4, shape[axis])).astype(wide)
        gamma, beta, *moving = map(tf.constant, vectors)
        limits = [tf.constant(value, wide) for value in limits]
        self.step = Step(
            Arguments(x, gamma, beta), Constants(*moving, *limits), Settings(axis, EPSILON)
        )

    def poisoned(self, mask):
        x, self.dy = (tf.where(mask, a, np.nan) for a in (self.step.arguments.x, self.dy))
        self.step = dataclasses.replace(
            self.step,
            arguments=self.step.arguments._replace(x=x),
            constants=self.step.constants._replace(mask=tf.constant(mask)),
        )

    def run(self):
        with tf.GradientTape() as tape:
            tape.watch(self.step.arguments)
            trained = plain.Plain().train(self.step)
        gradients = tape.gradient(trained.y, self.step.arguments, self.dy)
        return trained.y, trained.moments(), gradients

    def expected(self, float64, dy=None):
        step, dy = self.step, self.dy if dy is None else dy
        arguments, constants, settings = step.arguments, step.constants, step.settings
        x, dy = (tf.cast(a, "float64").numpy() for a in (arguments.x, dy))
        mask = constants.mask
        return float64(
            *(x, dy, (*arguments[1:], *constants[:2])),
            (constants.r_max.numpy(), constants.d_max.numpy()),
            axis=settings.axis,
            epsilon=settings.epsilon,
            relu=settings.relu,
            weights=None if mask is None else np.broadcast_to(mask, x.shape),
            ghost_size=settings.ghost_size,
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
    case.step = case.step.with_settings(relu=relu)
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
    case.step = case.step.with_settings(ghost_size=size, relu=True)
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
        tape.watch(case.step.arguments.x)
        batch = plain.Plain().train(case.step).moments()
    assert [tape.gradient(value, case.step.arguments.x) for value in batch] == [None] * 4


@pytest.mark.parametrize("masked", [False, True])
def test_the_output_is_one_function_for_like_steps(rng, masked):
    """Whose traces are found again by it."""
    case, other = Case(rng), Case(rng)
    if masked:
        case.poisoned(rng.random((6, 5, 1)) > 0.4)
        other.poisoned(rng.random((6, 5, 1)) > 0.4)
    function, same = (plain.output(one.step.settings) for one in (case, other))
    assert {function: "found"}[same] == "found"
    assert plain.output(case.step.settings._replace(relu=True)) != function
    for step in (case.step, other.step):
        y = plain.Plain().train(step).y
        np.testing.assert_array_equal(function(step.arguments, step.constants), y)


@pytest.mark.parametrize(
    "change",
    [{"axis": 1}, {"epsilon": 0.1}, {"relu": True}, {"ghost_size": 4}, {"ghosts": True}],
    ids=lambda change: next(iter(change)),
)
def test_each_setting_is_in_the_output(rng, change):
    case = Case(rng, (6, 3, 3))
    step = case.step.with_settings(**change)
    y = plain.output(step.settings)(step.arguments, step.constants)
    np.testing.assert_array_equal(y, plain.Plain().train(step).y)
    assert not np.array_equal(y, plain.Plain().train(case.step).y)


def by_hand(case, gradients, refusal=None):
    """The gradients of a step whose gradient is said to be these."""
    output = plain.output(case.step.settings)

    def forward(arguments, constants):
        return (output(arguments, constants),), None

    function = Differentiable(forward, lambda *_: Arguments(*gradients), output, refusal)
    arguments = case.step.arguments
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        (y,) = derivatives.apply(function, arguments, case.step.constants)
    return tape.gradient(y, arguments, case.dy)


def test_a_gradient_by_hand_has_the_derivative_of_the_true_one(rng, float64):
    """In dy: with r and d held the gradient is linear in it, by a symmetric matrix."""
    case = Case(rng, dtype="float64")
    direction = tf.constant(rng.normal(size=(6, 5, 3)))
    made_up = (tf.ones_like(case.dy), *map(tf.zeros_like, case.step.arguments[1:]))
    with tf.GradientTape() as tape:
        tape.watch(case.dy)
        found = by_hand(case, made_up)
    for actual, value in zip(found, made_up, strict=True):
        np.testing.assert_array_equal(actual, value)
    actual = tape.gradient(found[0], case.dy, direction)
    desired = case.expected(float64, direction)["dx"]
    np.testing.assert_allclose(actual, desired, rtol=1e-9, atol=1e-12)


def test_a_gradient_can_be_refused_a_derivative(rng):
    case = Case(rng)
    zeros = tuple(map(tf.zeros_like, case.step.arguments))
    with tf.GradientTape() as tape:
        tape.watch(case.dy)
        dx, *_ = by_hand(case, zeros, refusal="Not here.")
    with pytest.raises(ValueError, match=r"^Not here\.$"):
        tape.gradient(dx, case.dy)
