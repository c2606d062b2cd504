"""Rows of single calls: clipped shares and spreads in round numbers, names, and an odd layer."""

import keras
import numpy as np
import pytest

from keras_renorm.diagnostics.corrections import watch
from keras_renorm.layers import (
    BatchNormalization,
    BatchRenormalization,
    DomainBatchNormalization,
    DomainBatchRenormalization,
)
from keras_renorm.models import is_batch_norm
from keras_renorm.schedules import PAPER_D_MAX, PAPER_R_MAX, LinearRamp

L = keras.layers


def rows(model, x):
    norms = {layer: layer.name for layer in model._flatten_layers() if is_batch_norm(layer)}
    return [row for of_layer in watch(model, x, norms).values() for row in of_layer]


def spread(one):
    return [one.minimum, one.p10, one.median, one.p90, one.maximum]


def test_what_is_at_its_limit_is_not_clipped_and_what_is_beyond_is():
    """Of values 1 and -1 with epsilon 3 the deviation is 2 in each channel; all is exact."""
    layer = BatchRenormalization(r_max=2.0, d_max=1.0, epsilon=3.0, name="norm")
    model = keras.Sequential([keras.Input((5,)), layer])
    sigma = np.array([2.0, 4.0, 1.0, 8.0, 2.0])
    layer.moving_variance.assign(sigma**2 - 3)
    layer.moving_mean.assign([0.0, 4.0, -1.0, 16.0, -3.0])
    x = np.array([[1.0], [-1.0]] * 3, "float32").repeat(5, axis=1)
    (row,) = rows(model, x)
    scale, shift = [0.25, 0.5, 1.0, 1.0, 2.0], [-2.0, -1.0, 0.0, 1.0, 1.5]
    assert spread(row.scale_drift) == pytest.approx(np.percentile(scale, [0, 10, 50, 90, 100]))
    assert spread(row.mean_drift) == pytest.approx(np.percentile(shift, [0, 10, 50, 90, 100]))
    assert row.typical_drift == 1.0  # the median of 2, 1, 0, 1, 1.5
    assert row.r_clipped == 0.2  # 0.25 alone
    assert row.d_clipped == 0.4  # -2 and 1.5
    assert (row.r.minimum, row.r.maximum) == (0.5, 2.0)
    assert (row.d.minimum, row.d.maximum) == (-1.0, 1.0)
    assert (row.values, row.updates) == (6, None)


@pytest.mark.parametrize(("off", "share"), [(0.0, 0.0), (1e-7, 0.0), (1e-3, 1.0)])
def test_shut_limits_clip_no_rounding(rng, off, share):
    layer = BatchRenormalization(r_max=1.0, d_max=0.0)
    model = keras.Sequential([keras.Input((4,)), layer])
    x = rng.normal(size=(64, 4)).astype("float32")
    layer.moving_mean.assign(x.mean(0) + off)
    layer.moving_variance.assign(x.var(0) * (1 + off))
    (row,) = rows(model, x)
    assert (row.r_clipped, row.d_clipped) == (share, share)


def test_one_channel_is_its_own_spread(rng):
    model = keras.Sequential([keras.Input((1,)), BatchRenormalization(r_max=3.0, d_max=5.0)])
    x = rng.normal(2.0, 2.0, size=(9, 1)).astype("float32")
    (row,) = rows(model, x)
    drift = x.astype("float64").mean() / np.sqrt(1.001)
    assert spread(row.d) == pytest.approx([drift] * 5, rel=1e-5)
    assert spread(row.mean_drift) == pytest.approx([drift] * 5, rel=1e-5)


def test_one_example_has_deviation_0_and_the_least_r(rng):
    model = keras.Sequential([keras.Input((4,)), BatchRenormalization(r_max=3.0, d_max=5.0)])
    (row,) = rows(model, rng.normal(size=(1, 4)).astype("float32"))
    assert row.values == 1
    assert spread(row.r) == pytest.approx([1 / 3] * 5)
    assert row.r_clipped == 1.0
    assert row.scale_drift.median == pytest.approx(np.sqrt(0.001 / 1.001), rel=1e-5)


@pytest.mark.parametrize(
    ("layer", "r_max", "d_max", "updates"),
    [
        (BatchRenormalization(), 1.0, 0.0, None),
        (BatchRenormalization(r_max=PAPER_R_MAX, d_max=PAPER_D_MAX), 1.0, 0.0, 0),
        (BatchRenormalization(r_max=1.5, d_max=np.inf), 1.5, np.inf, None),
        (BatchRenormalization(r_max=LinearRamp(1, 2, 0, 8), d_max=3.0), 1.25, 3.0, 2),
        (DomainBatchNormalization(2), PAPER_R_MAX.end_value, PAPER_D_MAX.end_value, None),
        (BatchNormalization(), 3.0, 5.0, None),
        (L.BatchNormalization(), None, None, None),
    ],
    ids=["default", "paper", "unlimited", "rising", "domains", "bn", "keras"],
)
def test_limits_are_those_of_the_next_step(layer, r_max, d_max, updates, rng):
    layer = type(layer).from_config(layer.get_config())
    x = keras.Input((4,))
    options = {"domain": 1} if isinstance(layer, DomainBatchNormalization) else {}
    model = keras.Model(x, layer(x, **options))
    if updates:
        layer.update_count.assign(updates)
    (row,) = rows(model, rng.normal(size=(8, 4)).astype("float32"))
    assert (row.r_max, row.d_max, row.updates) == (r_max, d_max, updates)
    assert (row.r is None) == (row.d is None) == (r_max is None)
    assert (row.r_clipped is None) == (row.d_clipped is None) == (r_max is None)


def test_limits_and_updates_of_a_domain_are_its_own(rng):
    layer = DomainBatchRenormalization(3, r_max=LinearRamp(1, 3, 0, 4), d_max=1.0, name="norm")
    x, ids = keras.Input((4,)), keras.Input((), dtype="int32")
    model = keras.Model([x, ids], layer(x, domain=ids))
    layer.update_count.assign([0, 1, 9])
    batch = [rng.normal(size=(6, 4)).astype("float32"), np.array([2, 0, 1] * 2, "int32")]
    found = rows(model, batch)
    assert [(row.layer, row.r_max, row.updates) for row in found] == [
        ("norm (domain 0)", 1.0, 0),
        ("norm (domain 1)", 1.5, 1),
        ("norm (domain 2)", 3.0, 9),
    ]


def test_a_domain_out_of_range_has_the_message_of_the_layer(rng):
    x, ids = keras.Input((3,)), keras.Input((), dtype="int32")
    layer = DomainBatchRenormalization(2, name="norm")
    model = keras.Model([x, ids], layer(x, domain=ids))
    data = [rng.normal(size=(4, 3)).astype("f4"), np.array([0, 1, 7, 0])]
    with pytest.raises(ValueError, match=r"`domain` must hold ids in \[0, 1\].* received 7"):
        watch(model, data, {layer: "norm"})


def test_calls_and_domains_are_in_the_name_where_there_are_several(rng):
    layer = DomainBatchNormalization(2, name="norm")
    other = BatchNormalization(name="other")
    x, ids = keras.Input((4,)), keras.Input((), dtype="int32")
    model = keras.Model([x, ids], layer(other(layer(x, domain=ids)), domain=1))
    batch = [rng.normal(size=(4, 4)).astype("float32"), np.array([0, 1, 0, 1], "int32")]
    assert [row.layer for row in rows(model, batch)] == [
        *("norm (call 1, domain 0)", "norm (call 1, domain 1)", "norm (call 2, domain 1)"),
        "other",
    ]


def test_calls_of_one_layer_see_the_same_statistics(rng):
    layer = BatchNormalization(momentum=0.0, name="norm")
    x = keras.Input((4,))
    model = keras.Model(x, layer(x) + layer(x))
    batch = rng.normal(7.0, 3.0, size=(16, 4)).astype("float32")
    first, second = rows(model, batch)
    assert (first.layer, second.layer) == ("norm (call 1)", "norm (call 2)")
    assert first.mean_drift == second.mean_drift
    assert first.typical_drift > 5


def test_no_norms_no_rows(rng):
    model = keras.Sequential([keras.Input((4,)), L.LayerNormalization()])
    assert watch(model, rng.normal(size=(2, 4)), {}) == {}


def test_a_layer_that_gets_its_weights_in_this_pass(rng):
    """One of an auxiliary head, which the model has in training only, before the first step."""

    class WithHead(keras.Model):
        def __init__(self):
            super().__init__()
            self.norm = BatchNormalization(name="norm")
            self.head = BatchNormalization(name="head")

        def build(self, shape):
            self.norm.build(shape)

        def call(self, x, training=None):
            y = self.norm(x, training=training)
            return y + self.head(x, training=True) if training else y

    model = WithHead()
    x = rng.normal(2.0, 3.0, size=(16, 4)).astype("float32")
    model(x)
    assert not model.head.built
    norm, head = rows(model, x)
    assert (norm.layer, head.layer) == ("norm", "head")
    assert norm.mean_drift == head.mean_drift
    np.testing.assert_array_equal(model.head.moving_mean, np.zeros(4))
