import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("gradients by tapes", allow_module_level=True)

import tensorflow as tf

from keras_renorm.ops import backends
from keras_renorm.ops.backends.tensorflow.collective import StrategyReplicas
from keras_renorm.ops.maths.operands import Arguments, Constants, Settings
from keras_renorm.ops.steps.fused import Fused
from keras_renorm.ops.steps.step import Step

LIMITS = 1.5, 0.5


@pytest.fixture
def make(rng):
    def make(replicas=None, mask=None, **settings):
        x = tf.constant(rng.normal(1.0, 2.0, (9, 5, 3)), tf.float32)
        vectors = [tf.constant(v, tf.float32) for v in rng.uniform(0.5, 2.0, (4, 3))]
        constants = Constants(*vectors[2:], *map(tf.constant, LIMITS), mask)
        settings = Settings(**{"axis": 2, "epsilon": 1e-3, **settings})
        return Step(Arguments(x, *vectors[:2]), constants, settings, replicas)

    return make


def test_it_takes_what_the_kernel_takes_on_one_replica(make):
    fits = Fused().fits
    assert fits(make())
    assert not fits(make(replicas=StrategyReplicas(None)))
    assert not fits(make(mask=tf.ones((9, 5, 1), tf.bool)))
    assert not fits(make(ghost_size=3))
    assert not fits(make(axis=1))


def test_a_backend_without_a_kernel_has_none_that_fits(make, monkeypatch):
    monkeypatch.setattr(backends, "current", lambda: backends.Backend("fourth"))
    assert not Fused().fits(make())


@pytest.mark.parametrize("relu", [False, True])
def test_output_gradients_and_moments_are_those_of_float64(rng, float64, make, relu):
    step, dy = make(relu=relu), tf.constant(rng.normal(size=(9, 5, 3)), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(step.arguments)
        trained = Fused().train(step)
    gradients = tape.gradient(trained.y, step.arguments, dy)
    vectors = (*step.arguments[1:], *step.constants[:2])
    desired = float64(step.arguments.x, dy, vectors, LIMITS, axis=2, relu=relu)
    near = {"rtol": 2e-5, "atol": 5e-5}
    np.testing.assert_allclose(trained.y, desired["y"], **near)
    for actual, name in zip(gradients, ("dx", "dgamma", "dbeta"), strict=True):
        np.testing.assert_allclose(actual, desired[name], **near)
    batch = trained.moments()
    for name in ("mean", "variance", "count"):
        np.testing.assert_allclose(getattr(batch, name), desired[name][0], **near)


def test_the_moments_have_no_gradient(make):
    step = make()
    x = step.arguments.x
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        batch = Fused().train(step).moments()
    assert [tape.gradient(value, x) for value in batch] == [None] * 4
