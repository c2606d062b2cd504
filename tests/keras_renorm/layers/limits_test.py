import keras
import numpy as np
import pytest

from keras_renorm import schedules
from keras_renorm.layers.limits import Limits, RenormLimits, of_clipping

RAMP = schedules.LinearRamp(1.0, 3.0, start_step=1, end_step=5)
INF = float("inf")
LAYER = keras.layers.Layer()


class Count:
    """What limits use of a variable."""

    dtype = "int32"

    def __init__(self, value):
        self.value = np.array(value, self.dtype)
        self.shape = self.value.shape

    def __array__(self, dtype=None, copy=None):
        return self.value

    def assign_add(self, value):
        self.value = np.array(self.value + value, self.dtype)


def test_the_default_is_batch_normalization():
    assert Limits().of_this_step("float32") == {"r_max": 1.0, "d_max": 0.0}
    assert not Limits().scheduled


def test_a_schedule_follows_the_count():
    limits = Limits(RAMP, 2.0)
    assert limits.scheduled
    assert limits.numbers() == RenormLimits(1.0, 2.0)  # nothing is counted yet
    limits.count = Count(3)
    assert limits.numbers() == RenormLimits(2.0, 2.0)
    limits.advance(1.0, LAYER)
    limits.advance(0.0, LAYER)
    assert limits.numbers() == RenormLimits(2.5, 2.0)
    assert float(limits.of_this_step("float32")["r_max"]) == 2.5


def test_only_calls_that_count_are_counted():
    limits = Limits(RAMP, 2.0)
    assert limits.counted(1.0) is limits.no_update() is None
    limits.count = Count([0, 3])
    assert limits.counted(np.ones(2, "f8")).dtype == limits.count.dtype
    np.testing.assert_array_equal(limits.no_update(), [0, 0])
    limits.counts_calls = False
    assert limits.counted(1.0) is limits.no_update() is None


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_counts_by_domain_give_limits_by_domain(dtype):
    limits = Limits(RAMP, INF)
    limits.count = Count([0, 3, 4])
    limits.advance(np.array([0.0, 0.0, 1.0]), LAYER)
    r_max, d_max = limits.of_this_step(dtype).values()
    np.testing.assert_array_equal(r_max, [1.0, 2.0, 3.0])
    assert r_max.dtype == dtype
    assert d_max == INF
    assert [limits.numbers(k) for k in range(3)] == [(1.0, INF), (2.0, INF), (3.0, INF)]


def test_limits_of_a_clipping():
    assert of_clipping({"rmax": 2.0}) == (2.0, INF)
    assert of_clipping({"rmax": 4.0, "rmin": 0.25, "dmax": 1}) == (4.0, 1.0)
    with pytest.raises(ValueError, match=r"`rmin` must be 1 / rmax = 0\.5"):
        of_clipping({"rmax": 2.0, "rmin": 0.1})
