import keras
import numpy as np
import pytest

from keras_renorm import ops
from keras_renorm.ops.maths.operands import Arguments, Constants, Settings
from keras_renorm.ops.steps import step as steps
from keras_renorm.ops.steps.step import Step, trained


@pytest.fixture
def step(rng):
    x, one = rng.normal(size=(6, 3)).astype("float32"), np.ones(3, "float32")
    constants = Constants(0 * one, 2 * one, np.float32(1), np.float32(0))
    return Step(Arguments(x, one, 0 * one), constants, Settings(1, 0.1, momentum=0.9))


def test_other_settings_leave_the_step_and_its_operands(step):
    other = step.with_settings(relu=True, ghost_size=2)
    assert other.settings == step.settings._replace(relu=True, ghost_size=2)
    assert step.settings == Settings(1, 0.1, momentum=0.9)
    assert other.arguments is step.arguments
    assert other.constants is step.constants
    assert step.replicas is other.replicas is None


def test_a_setting_that_there_is_not_is_refused(step):
    with pytest.raises((TypeError, ValueError), match="momentums"):
        step.with_settings(momentums=0.5)


@pytest.mark.parametrize("by_stddev", [False, True])
def test_the_moving_update_is_that_of_ops(step, by_stddev):
    batch = ops.moments(step.arguments.x)
    step = step.with_settings(by_stddev=by_stddev)
    found = trained(step, step.arguments.x, batch)
    assert found.y is step.arguments.x
    np.testing.assert_array_equal(found.moments(), batch)
    options = {"momentum": 0.9, "epsilon": 0.1, "by_stddev": by_stddev}
    desired = ops.update_moving(*step.constants[:2], batch, **options)
    for actual, value in zip(found.moving(), desired, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(actual), value)


def test_statistics_that_nobody_asks_for_are_not_computed(step, monkeypatch):
    moved = []
    monkeypatch.setattr(steps, "update_moving", lambda *a, **o: moved.append(o))
    found = trained(step, step.arguments.x, ops.moments(step.arguments.x))
    assert not moved
    found.moving()
    assert len(moved) == 1
