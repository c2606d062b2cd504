"""Shares of the way against the schedules' formulas, and what counts as its end."""

import math

import keras
import pytest

from keras_renorm.diagnostics import progress
from keras_renorm.layers import BatchRenormalization
from keras_renorm.schedules import (
    PAPER_D_MAX,
    PAPER_R_MAX,
    Adaptive,
    ExponentialApproach,
    LinearRamp,
    Schedule,
)

RAMP = LinearRamp(1, 3, 1000, 5000)
FALLING = LinearRamp(5, 1, 0, 1000)
APPROACH = ExponentialApproach(0, 5, 100, 1000)


class Wave(Schedule):
    """2 at the second of every three steps; so it ends at 2, where it does not begin."""

    def __call__(self, step):
        return 1.0 + keras.ops.cast(step % 3 == 1, "float32")

    def get_config(self):
        return {}


@pytest.mark.parametrize(
    ("limit", "step", "value", "share"),
    [
        (3.0, 0, 3.0, 1.0),
        (math.inf, 7, math.inf, 1.0),
        (LinearRamp(2, 2, 0, 10), 0, 2.0, 1.0),
        (RAMP, 0, 1.0, 0.0),
        (RAMP, 1000, 1.0, 0.0),
        (RAMP, 4000, 2.5, 0.75),
        (RAMP, 5000, 3.0, 1.0),
        (RAMP, 10**9, 3.0, 1.0),
        (FALLING, 250, 4.0, 0.25),
        (APPROACH, 100, 0.0, 0.0),
        (APPROACH, 1100, 5 - 5 / math.e, 1 - 1 / math.e),
        (Wave(), 4, 2.0, 1.0),
        (Wave(), 3, 1.0, 0.0),
    ],
)
def test_values_and_shares_of_the_way(limit, step, value, share):
    assert progress.value(limit, step) == pytest.approx(value, rel=1e-6)
    assert progress.progress(limit, step) == pytest.approx(share, abs=1e-6)


@pytest.mark.parametrize(
    ("limit", "end"), [(3, 3.0), (RAMP, 3.0), (FALLING, 1.0), (APPROACH, 5.0), (Wave(), 2.0)]
)
def test_the_value_at_the_end(limit, end):
    assert isinstance(progress.end_value(limit), float)
    assert progress.end_value(limit) == end


@pytest.mark.parametrize("step", [2**24, 2**31, 2**32, 10**12])
def test_steps_beyond_the_counters_largest_are_the_end(step):
    assert progress.value(RAMP, step) == 3.0
    assert progress.progress(RAMP, step) == 1.0


def messages(layer, num_steps):
    return [str(finding) for finding in progress.unfinished("norm", layer, num_steps)]


@pytest.mark.parametrize(
    ("limit", "last"),
    [
        (LinearRamp(0, 10, 0, 1000), 899),
        (LinearRamp(10, 0, 0, 1000), 899),
        # 1 - exp(-t / 1000) is 0.9 at t = 1000 ln 10 = 2302.6.
        (ExponentialApproach(0, 10, 0, 1000), 2302),
    ],
    ids=["linear", "falling", "exponential"],
)
def test_nine_tenths_of_the_way_are_the_end(limit, last):
    layer = BatchRenormalization(r_max=3.0, d_max=limit)
    number = progress.value(limit, last)
    assert messages(layer, last) == [
        f"The schedule of norm does not end: d_max is {number:.3g} after {last} steps, and would "
        f"become {progress.end_value(limit):g}. Shorten it, or train longer."
    ]
    assert messages(layer, last + 1) == []


def test_each_limit_has_a_finding_of_its_own():
    paper = {"r_max": PAPER_R_MAX, "d_max": PAPER_D_MAX}  # to 40,000 and to 25,000
    layer = BatchRenormalization(**paper)
    r_max, d_max = messages(layer, 20_000)
    assert "r_max is 1.86 after 20000 steps, and would become 3." in r_max
    assert "d_max is 3.75 after 20000 steps, and would become 5." in d_max
    (r_max,) = messages(layer, 25_000)
    assert "r_max is 2.14 after 25000 steps, and would become 3." in r_max
    assert messages(layer, 40_000) == []
    assert messages(BatchRenormalization(r_max=3.0, d_max=5.0), 1) == []


def test_an_adaptive_limit_is_never_unfinished():
    layer = BatchRenormalization(r_max=Adaptive(3.0), d_max=Adaptive(5.0))
    assert progress.end_value(layer.r_max) == 3.0
    assert messages(layer, 100) == []
