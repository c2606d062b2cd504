"""Each rule at its limit and just beyond it, on rows written by hand."""

import math

import keras
import numpy as np
import pytest

from keras_renorm.diagnostics import renorm_rules
from keras_renorm.diagnostics.corrections import LayerCorrections, Spread
from keras_renorm.layers import (
    BatchNormalization,
    BatchRenormalization,
    DomainBatchRenormalization,
)
from keras_renorm.schedules import (
    PAPER_D_MAX,
    PAPER_R_MAX,
    ExponentialApproach,
    LinearRamp,
    Schedule,
)

L = keras.layers


def flat(value):
    return Spread(value, value, value, value, value)


def row(**values):
    """A healthy row, but for `values`."""
    healthy = {"layer": "norm", "kind": "BRN", "values": 64, "updates": None}
    healthy |= {"r_max": 3.0, "d_max": 5.0, "r": flat(1.0), "d": flat(0.0)}
    healthy |= {"r_clipped": 0.0, "d_clipped": 0.0}
    healthy |= {"mean_drift": flat(0.0), "scale_drift": flat(1.0), "typical_drift": 0.0}
    return LayerCorrections(**(healthy | values))


def touched(layer):
    layer.build((None, 4))
    layer.moving_mean.assign(np.full(layer.moving_mean.shape, 0.5))
    return layer


def renorm(**options):
    return touched(BatchRenormalization(**({"r_max": 3.0, "d_max": 5.0} | options)))


def kinds(findings):
    return [finding.kind for finding in findings]


def found(layer=None, steps=None, **values):
    return kinds(renorm_rules.corrections(layer or renorm(), row(**values), steps))


def test_a_healthy_row():
    assert found() == []
    assert found(touched(L.BatchNormalization()), r=None, d=None, r_max=None, d_max=None) == []


@pytest.mark.parametrize("letter", ["r", "d"])
@pytest.mark.parametrize(("share", "named"), [(0.25, False), (0.26, True), (1.0, True)])
def test_a_quarter_of_the_channels_may_be_clipped(letter, share, named):
    expected = [f"overshooting {letter}"] if named else []
    assert found(**{f"{letter}_clipped": share}) == expected
    for layer in (touched(BatchNormalization()), renorm(trainable=False)):
        assert found(layer, **{f"{letter}_clipped": share}) == []


@pytest.mark.parametrize(
    ("letter", "limit", "schedule", "named"),
    [
        ("r", 2.81, LinearRamp(1, 3, 0, 10), True),  # nine tenths of the way from 1 are 2.8
        ("r", 2.79, LinearRamp(1, 3, 0, 10), False),
        ("d", 4.5, LinearRamp(0, 5, 0, 10), True),
        ("d", 4.49, LinearRamp(0, 5, 0, 10), False),
        ("d", 4.5, ExponentialApproach(0, 5, 0, 10), True),
        ("r", 1.0, 1.0, False),  # batch norm, by intention
        ("d", 0.0, 0.0, False),
        ("r", 1.01, 1.01, True),
        ("d", 1.0, LinearRamp(5, 1, 0, 10), True),
        ("d", 3.0, LinearRamp(5, 1, 0, 10), True),
    ],
)
def test_limits_that_still_rise_may_clip(letter, limit, schedule, named):
    layer = renorm(**{f"{letter}_max": schedule})
    values = {f"{letter}_max": limit, f"{letter}_clipped": 0.9}
    assert found(layer, **values) == ([f"overshooting {letter}"] if named else [])


def test_the_message_about_clipping():
    (finding,) = renorm_rules.corrections(renorm(), row(r_clipped=0.5), None)
    assert "r of norm is at its limit r_max=3 in 50% of the channels (in the paper in few)" in str(
        finding
    )
    (finding,) = renorm_rules.corrections(renorm(), row(d_clipped=0.5), None)
    assert "d of norm is at its limit d_max=5 in 50% of the channels (in the paper in none)" in str(
        finding
    )


@pytest.mark.parametrize("values", [1, 4, 16, 10_000])
def test_a_mean_may_be_off_by_one_deviation_and_its_noise(values):
    allowed = 1 + 2 / math.sqrt(values)
    assert found(values=values, typical_drift=allowed) == []
    assert found(values=values, typical_drift=allowed * 1.001) == ["wrong domain"]


@pytest.mark.parametrize("values", [7, 8])
@pytest.mark.parametrize(("scale", "named"), [(0.5, 0), (2.0, 0), (0.499, 1), (2.001, 1)])
def test_a_scale_may_be_off_by_two_and_by_more_with_few_values(values, scale, named):
    expected = ["wrong domain"] * (named and values >= 8)
    assert found(values=values, scale_drift=flat(scale)) == expected


def test_a_minibatch_of_nothing_shows_nothing():
    """All of it masked: mean and variance are 0 then, and so far from the moving ones."""
    nothing = {"values": 0, "typical_drift": 9.0, "scale_drift": flat(0.01)}
    assert found(**nothing, r_clipped=1.0, d_clipped=1.0) == []


@pytest.mark.parametrize("norm", [BatchNormalization, BatchRenormalization, L.BatchNormalization])
@pytest.mark.parametrize(
    ("name", "value"),
    [("typical_drift", math.nan), ("typical_drift", math.inf), ("scale_drift", flat(math.nan))],
)
def test_what_is_not_finite_is_named_alone(norm, name, value):
    layer = touched(norm())
    assert found(layer, r_clipped=1.0, d_clipped=1.0, **{name: value}) == ["not finite"]
    assert found(norm(), steps=0, **{name: value}) == ["not finite"]  # before the first step


@pytest.mark.parametrize("steps", [None, 0, 1, 1000])
def test_statistics_that_no_step_has_updated_are_no_news_before_the_first(steps):
    layer = BatchNormalization()
    layer.build((None, 4))
    expected = [] if steps == 0 else ["never updated"]
    assert found(layer, steps, typical_drift=9.0, r_clipped=1.0) == expected


@pytest.mark.parametrize(
    ("updates", "named"), [(None, True), (0, True), (1, False), (28, False), (29, True)]
)
def test_young_statistics_are_those_of_the_initial_values(updates, named):
    """0.9^28 = 0.052, 0.9^29 = 0.047. A layer without a counter, and one at 0, is not young."""
    layer = renorm(momentum=0.9)
    expected = ["wrong domain"] if named else []
    assert found(layer, updates=updates, typical_drift=9.0) == expected


class Constant(Schedule):
    def __init__(self, value):
        self.value = value

    def __call__(self, step):
        return keras.ops.convert_to_tensor(self.value, "float32")

    def get_config(self):
        return {"value": self.value}


def scheduled(updates, steps=None, num_steps=None, **options):
    layer = touched(BatchRenormalization(**options))
    if updates is not None:
        layer.update_count.assign(updates)
    return list(renorm_rules.schedule("norm", layer, steps, num_steps))


@pytest.mark.parametrize(
    ("r_max", "d_max", "named"), [(1.0, 0.0, True), (1.0, 0.1, False), (1.1, 0.0, False)]
)
def test_fixed_limits_of_batch_norm(r_max, d_max, named):
    expected = ["frozen schedule"] if named else []
    assert kinds(scheduled(None, steps=10**6, r_max=r_max, d_max=d_max)) == expected


@pytest.mark.parametrize(("updates", "named"), [(0, False), (298, False), (299, True)])
def test_limits_that_are_still_those_of_batch_norm(updates, named):
    """From three time constants of the statistics on: 0.99^299 is less than a twentieth."""
    expected = ["frozen schedule"] if named else []
    stays = {"r_max": Constant(1.0), "d_max": Constant(0.0)}
    paper = {"r_max": PAPER_R_MAX, "d_max": PAPER_D_MAX}
    for limits in (stays, paper):
        assert kinds(scheduled(updates, **limits)) == expected
        assert kinds(scheduled(updates, num_steps=5_000, **limits))[: len(expected)] == expected
    assert kinds(scheduled(updates, num_steps=40_000, **stays)) == expected
    assert scheduled(updates, num_steps=40_000, **paper) == []
    assert scheduled(updates, r_max=Constant(1.0), d_max=Constant(0.1)) == []
    assert scheduled(6_000, **paper) == []


def test_a_whole_training_that_is_over_has_no_unfinished_schedule():
    paper = {"r_max": PAPER_R_MAX, "d_max": PAPER_D_MAX}
    assert scheduled(50_000, num_steps=20_000, **paper) == []


@pytest.mark.parametrize(("steps", "named"), [(None, False), (0, False), (20, False), (21, True)])
def test_a_counter_may_be_behind_by_half(steps, named):
    expected = ["frozen schedule"] if named else []
    assert kinds(scheduled(10, steps, r_max=PAPER_R_MAX)) == expected


def test_domains_that_come_in_turn_count_in_turn(rng):
    """Each of 8 counts an eighth of the steps, and all of them together every step."""
    layer = DomainBatchRenormalization(8, name="norm", r_max=PAPER_R_MAX)
    for step in range(24):
        x = rng.normal(size=(6, 4)).astype("float32")
        layer(x, training=True, domain=step % 8)
    assert list(renorm_rules.schedule("norm", layer, 24, None)) == []
    assert list(renorm_rules.schedule("norm", layer, 48, None)) == []
    (finding,) = renorm_rules.schedule("norm", layer, 49, None)
    assert "The schedule of norm stands at 24 updates after 49 training steps" in finding.message


@pytest.mark.parametrize(("d_max", "named"), [(5.0, False), (5.000001, False), (5.0001, True)])
def test_a_limit_beyond_its_schedules_bounds_but_for_rounding(d_max, named):
    class Bounded(Constant):
        def bounds(self):
            return 0.0, 5.0

    found = scheduled(7, d_max=Bounded(d_max))
    assert kinds(found) == (["overshooting d"] if named else [])
    assert scheduled(7, d_max=Constant(d_max)) == []  # nothing is beyond no bounds
    if named:
        assert "d_max of norm is 5 after 7 updates, beyond the 5 at which" in found[0].message
        assert found[0].message.endswith("Clip it in Bounded.__call__.")


def test_schedules_of_other_layers_and_of_frozen_ones_are_not_looked_at():
    for layer in (BatchNormalization(), L.BatchNormalization(renorm=True)):
        assert list(renorm_rules.schedule("norm", touched(layer), 100, 10)) == []
    frozen = touched(BatchRenormalization(trainable=False))
    assert list(renorm_rules.schedule("norm", frozen, 100, 10)) == []
