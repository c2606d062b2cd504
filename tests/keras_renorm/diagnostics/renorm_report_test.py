"""R, d and drift against NumPy; every planted fault is named, a healthy model has none."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_renorm import convert, statistics
from keras_renorm.diagnostics import renorm_report, train_inference_gap
from keras_renorm.layers import (
    BatchNormalization,
    BatchRenormalization,
    DomainBatchNormalization,
    DomainBatchRenormalization,
)
from keras_renorm.schedules import PAPER_D_MAX, PAPER_R_MAX, LinearRamp, Schedule

L = keras.layers


def data(rng, rows=64, scale=3.0, shift=2.0):
    return rng.normal(shift, scale, size=(rows, 8)).astype("float32")


PAPER = {"r_max": PAPER_R_MAX, "d_max": PAPER_D_MAX}


def network(norm):
    return keras.Sequential(
        [
            keras.Input((8,)),
            L.Dense(16, use_bias=False, name="dense"),
            norm,
            L.ReLU(),
            L.Dense(3, name="last"),
        ]
    )


def trained(norm, rng, updates=100):
    """A network whose moving statistics are the data's, as after `updates` steps."""
    model = network(norm)
    norm.momentum, momentum = 0.0, norm.momentum
    model(data(rng, rows=4096), training=True)
    norm.momentum = momentum
    if getattr(norm, "update_count", None) is not None:
        norm.update_count.assign(updates)
    return model


def kinds(report):
    return [finding.kind for finding in report.findings]


def test_r_d_and_drift_are_those_of_the_paper(rng):
    layer = BatchRenormalization(r_max=1.5, d_max=0.2, name="norm")
    model = network(layer)
    mean, variance = rng.normal(size=16), rng.uniform(20, 90, size=16)
    layer.moving_mean.assign(mean)
    layer.moving_variance.assign(variance)
    x = data(rng)
    (row,) = renorm_report(model, x).layers
    z = x.astype("float64") @ model.get_layer("dense").kernel.numpy()
    sigma_b, sigma = np.sqrt(z.var(0) + 1e-3), np.sqrt(variance + 1e-3)
    scale, shift = sigma_b / sigma, (z.mean(0) - mean) / sigma
    r, d = np.clip(scale, 1 / 1.5, 1.5), np.clip(shift, -0.2, 0.2)

    def spread(one):
        return [one.minimum, one.p10, one.median, one.p90, one.maximum]

    for measured, expected in (
        (row.r, r),
        (row.d, d),
        (row.scale_drift, scale),
        (row.mean_drift, shift),
    ):
        np.testing.assert_allclose(
            spread(measured), np.percentile(expected, [0, 10, 50, 90, 100]), rtol=1e-4, atol=1e-6
        )
    assert row.r_clipped == np.mean(scale != r) > 0
    assert row.d_clipped == np.mean(shift != d) > 0
    assert row.typical_drift == pytest.approx(np.median(np.abs(shift)), rel=1e-4)
    assert (row.layer, row.kind, row.values, row.updates) == ("norm", "BRN", 64, None)
    assert (row.r_max, row.d_max) == (1.5, 0.2)


def test_nothing_in_the_model_changes(rng):
    model = keras.Sequential(
        [network(BatchRenormalization()), L.Dropout(0.5), BatchNormalization()]
    )
    model(data(rng), training=True)
    before = [np.copy(keras.ops.convert_to_numpy(v)) for v in model.variables]
    own = [set(vars(layer)) for layer in model._flatten_layers()]
    renorm_report(model, data(rng))
    for old, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, keras.ops.convert_to_numpy(variable))
    assert own == [set(vars(layer)) for layer in model._flatten_layers()]


@pytest.mark.parametrize(
    "norm",
    [
        BatchRenormalization(momentum=0.9, r_max=3.0, d_max=5.0),
        BatchRenormalization(
            momentum=0.9, r_max=LinearRamp(1, 3, 5, 50), d_max=LinearRamp(0, 5, 5, 50)
        ),
        BatchNormalization(momentum=0.9),
        L.BatchNormalization(momentum=0.9),
    ],
    ids=["fixed", "scheduled", "bn", "keras"],
)
def test_nothing_is_named_in_a_healthy_model(norm, rng):
    model = trained(type(norm).from_config(norm.get_config()), rng)
    report = renorm_report(model, data(rng), steps=100, num_steps=1000)
    assert report.findings == ()
    assert "Findings: none." in str(report)


def test_plain_batch_norm_has_what_renorm_would_have_and_kerass_only_drift(rng):
    ours, kerass = BatchNormalization(name="ours"), L.BatchNormalization(name="kerass")
    model = keras.Sequential([keras.Input((8,)), ours, kerass])
    x = data(rng)
    first, second = renorm_report(model, x).layers
    assert (first.kind, first.r_max, first.d_max) == ("BN", 3.0, 5.0)
    assert first.r.maximum == pytest.approx(3.0)  # sigma_B is about 3.0 or more in some channel
    assert (second.kind, second.r, second.d_max) == ("Keras BN", None, None)
    assert second.scale_drift.median == pytest.approx(1.0, abs=0.01)  # the first has normalised it


def test_a_schedule_that_never_left_batch_norm_is_named(rng):
    """The keras-contrib fault: a schedule that was computed once, when the graph was built."""

    class Once(Schedule):
        def __init__(self, value):
            self.value = value

        def __call__(self, step):
            return keras.ops.cast(self.value, "float32")

        def get_config(self):
            return {"value": self.value}

    layer = BatchRenormalization(momentum=0.9, r_max=Once(1.0), d_max=Once(0.0), name="norm")
    model = trained(layer, rng)
    layer.update_count.assign(20_000)
    report = renorm_report(model, data(rng))
    assert kinds(report) == ["frozen schedule"]
    assert "The limits of norm are still r_max=1 and d_max=0 after 20000 updates" in str(
        report.findings[0]
    )


def test_a_counter_that_does_not_advance_is_named(rng):
    layer = BatchRenormalization(momentum=0.9, name="norm", **PAPER)
    model = trained(layer, rng)
    assert kinds(renorm_report(model, data(rng), steps=100, num_steps=40_000)) == []
    layer.update_count.assign(0)
    report = renorm_report(model, data(rng), steps=100)
    assert kinds(report) == ["frozen schedule"]
    assert "The schedule of norm stands at 0 updates after 100 training steps" in str(
        report.findings[0]
    )


def test_a_layer_that_comes_later_counts_from_there(rng):
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(4)
            self.norm = keras.layers.BatchNormalization(momentum=0.5)

        def call(self, x, training=None):
            return self.norm(self.dense(x), training=training)

    model, x = Net(), rng.normal(size=(16, 8)).astype("f4")
    model.compile("sgd", "mse")
    model.fit(x, x[:, :4], batch_size=1, epochs=5, verbose=0)
    convert.to_batch_renormalization(model, in_place=True, num_steps=1000)
    assert "frozen schedule" not in kinds(renorm_report(model, x, num_steps=1000))
    model.fit(x, x[:, :4], batch_size=1, verbose=0)
    assert "frozen schedule" not in kinds(renorm_report(model, x, num_steps=1000))
    model.norm.update_count.assign(7.0)
    (finding,) = (
        f for f in renorm_report(model, x, num_steps=1000).findings if f.kind == "frozen schedule"
    )
    assert "stands at 7 updates after 16 training steps" in str(finding)


def test_the_optimizers_steps_are_the_default(rng):
    layer = BatchRenormalization(momentum=0.9, **PAPER)
    model = trained(layer, rng)
    layer.update_count.assign(0)
    model.compile("sgd", "mse")
    assert kinds(renorm_report(model, data(rng))) == []
    model.optimizer.iterations.assign(100)
    assert kinds(renorm_report(model, data(rng))) == ["frozen schedule"]


def test_a_frozen_layer_is_noted_and_its_counter_not_named(rng):
    layer = BatchRenormalization(momentum=0.9, name="norm")
    model = trained(layer, rng)
    statistics.freeze(model)
    report = renorm_report(model, data(rng), steps=10_000)
    assert kinds(report) == []
    assert report.notes == ("Frozen: they train with their moving statistics: norm.",)


def test_fixed_limits_of_batch_norm_are_named(rng):
    model = trained(BatchRenormalization(r_max=1.0, d_max=0.0, momentum=0.9, name="norm"), rng)
    report = renorm_report(model, data(rng))
    assert kinds(report) == ["frozen schedule"]
    assert "norm has the fixed limits r_max=1 and d_max=0" in str(report.findings[0])


def test_a_schedule_whose_end_is_not_reached_is_named(rng):
    model = trained(BatchRenormalization(momentum=0.9, name="norm", **PAPER), rng)
    report = renorm_report(model, data(rng), num_steps=10_000)
    assert kinds(report) == ["unfinished schedule"] * 2
    assert "d_max is 1.25 after 10000 steps, and would become 5" in str(report.findings[1])
    assert kinds(renorm_report(model, data(rng), num_steps=40_000)) == []


def test_a_limit_beyond_its_schedule_is_named(rng):
    """The torchrl fault: a clamp that is not in place lets the limit grow on after the warm-up."""

    class Unclipped(LinearRamp):
        def __call__(self, step):
            share = (keras.ops.cast(step, "float32") - self.start_step) / (
                self.end_step - self.start_step
            )
            return self.start_value + (self.end_value - self.start_value) * share

    layer = BatchRenormalization(momentum=0.9, r_max=3.0, d_max=Unclipped(0, 5, 0, 50), name="norm")
    model = trained(layer, rng, updates=50)
    assert kinds(renorm_report(model, data(rng))) == []
    layer.update_count.assign(100)
    report = renorm_report(model, data(rng))
    assert kinds(report) == ["overshooting d"]
    assert "d_max of norm is 10 after 100 updates, beyond the 5" in str(report.findings[0])


def test_d_at_its_limit_is_named(rng):
    layer = BatchRenormalization(r_max=3.0, d_max=0.01, momentum=0.9, name="norm")
    report = renorm_report(trained(layer, rng), data(rng))
    assert kinds(report) == ["overshooting d"]
    message = str(report.findings[0])
    assert "d of norm is at its limit d_max=0.01 in " in message
    assert report.layers[0].d_clipped > 0.5


def test_limits_that_are_still_rising_may_clip(rng):
    layer = BatchRenormalization(r_max=3.0, d_max=LinearRamp(0, 5, 0, 50_000), momentum=0.9)
    report = renorm_report(trained(layer, rng), data(rng))
    assert report.layers[0].d_clipped > 0.5
    assert kinds(report) == []


@pytest.mark.parametrize(
    "norm",
    [
        BatchRenormalization(momentum=0.9, r_max=3.0, d_max=5.0, name="norm"),
        BatchNormalization(momentum=0.9, name="norm"),
        L.BatchNormalization(momentum=0.9, name="norm"),
    ],
    ids=["brn", "bn", "keras"],
)
def test_statistics_of_another_domain_are_named_and_precise_ones_repair_it(norm, rng):
    model = trained(type(norm).from_config(norm.get_config()), rng)
    elsewhere = data(rng, rows=256, scale=15.0, shift=40.0)
    report = renorm_report(model, elsewhere)
    assert "wrong domain" in kinds(report)
    message = next(str(f) for f in report.findings if f.kind == "wrong domain")
    assert "The moving statistics of norm are not those of this data" in message
    assert "run keras_renorm.statistics.precise on it" in message
    statistics.precise(model, elsewhere, verbose=0)
    assert kinds(renorm_report(model, elsewhere)) == []


def test_small_minibatches_of_the_same_domain_are_not_named(rng):
    model = trained(BatchNormalization(momentum=0.9), rng)
    found = {kind for _ in range(20) for kind in kinds(renorm_report(model, data(rng, rows=2)))}
    assert found <= {"large output gap"}  # batch norm has it on two examples


def test_an_output_that_training_does_not_show_is_named(rng):
    """Every correction is clipped to nothing, and nobody was told the steps."""
    limits = {"r_max": 1.0, "d_max": LinearRamp(0.0, 5.0, 5_000, 25_000)}
    layer = BatchRenormalization(momentum=0.9, name="norm", **limits)
    model = trained(layer, rng)
    report = renorm_report(model, data(rng, rows=2))
    gap = train_inference_gap(model, data(rng, rows=2))
    assert kinds(report) == ["frozen schedule", "large output gap"]
    assert f"in inference by {report.output_gap:.0%} of its size" in str(report.findings[1])
    assert report.scalars()["renorm/output_gap"] == report.output_gap > 0.5
    layer.d_max, layer.r_max = 5.0, 3.0
    settled = renorm_report(model, data(rng, rows=64))
    assert kinds(settled) == []
    assert settled.output_gap < 0.5 < max(gap.output, report.output_gap)


def test_statistics_that_were_never_updated_are_named(rng):
    model = network(BatchNormalization(name="norm"))
    report = renorm_report(model, data(rng))
    assert kinds(report) == ["never updated"]
    assert "norm are still the initial 0 and 1" in str(report.findings[0])
    assert kinds(renorm_report(model, data(rng), steps=0)) == []


def test_nested_shared_and_masked_calls(rng):
    norm = BatchRenormalization(r_max=3.0, d_max=5.0, name="norm")
    x = keras.Input((None, 8))
    inner = keras.Model(x, norm(L.Masking(name="mask")(x)), name="inner")
    a, b = keras.Input((None, 8)), keras.Input((None, 8))
    model = keras.Model([a, b], [inner(a), inner(b)])
    first = rng.normal(size=(4, 3, 8)).astype("float32")
    first[:, 2] = 0
    report = renorm_report(model, [first, rng.normal(size=(5, 3, 8)).astype("float32")])
    assert [row.layer for row in report.layers] == ["inner/norm (call 1)", "inner/norm (call 2)"]
    # Keras makes the second call first.
    assert [row.values for row in report.layers] == [15, 8]
    expected = first[:, :2].astype("float64").mean((0, 1)) / np.sqrt(1.001)
    assert report.layers[1].mean_drift.maximum == pytest.approx(expected.max(), rel=1e-4)


@pytest.mark.parametrize("batch", ["domain", "shared"])
def test_domains_have_a_row_each(batch, rng):
    layer = DomainBatchRenormalization(
        2, batch_statistics=batch, population_statistics=batch, r_max=3.0, d_max=5.0, name="norm"
    )
    x, domain = keras.Input((8,)), keras.Input((), dtype="int32")
    model = keras.Model([x, domain], layer(x, domain=domain))
    values = np.concatenate([data(rng, 6, shift=0.0), data(rng, 10, shift=9.0)])
    report = renorm_report(model, [values, np.repeat([0, 1], [6, 10]).astype("int32")])
    assert [row.layer for row in report.layers] == ["norm (domain 0)", "norm (domain 1)"]
    parts = (values[:6], values[6:]) if batch == "domain" else (values, values)
    for row, part in zip(report.layers, parts, strict=True):
        assert row.values == len(part)
        drift = part.astype("float64").mean(0) / np.sqrt(1.001)
        assert row.mean_drift.median == pytest.approx(np.median(drift), rel=1e-4)


def test_one_wrong_domain_of_two_is_named(rng):
    layer = DomainBatchNormalization(2, momentum=0.0, name="norm")
    x, domain = keras.Input((8,)), keras.Input((), dtype="int32")
    model = keras.Model([x, domain], layer(x, domain=domain))
    values = np.concatenate([data(rng, 32, shift=0.0), data(rng, 32, shift=30.0)])
    ids = np.repeat([0, 1], 32).astype("int32")
    model([values, ids], training=True)
    assert kinds(renorm_report(model, [values, ids])) == []
    swapped = renorm_report(model, [values, 1 - ids])
    assert [f.layer for f in swapped.findings] == ["norm (domain 0)", "norm (domain 1)"]
    assert set(kinds(swapped)) == {"wrong domain"}


def test_dropout_is_on_as_in_training(rng):
    layer = BatchNormalization(momentum=0.0)
    model = keras.Sequential([keras.Input((8,)), L.Dropout(0.5), layer])
    x = np.ones((4096, 8), "float32")
    model(x, training=True)
    (row,) = renorm_report(model, x).layers
    assert row.scale_drift.median == pytest.approx(1.0, abs=0.05)  # 0 without dropout


def test_ghosts_are_measured_together_and_noted(rng):
    layer = BatchRenormalization(
        r_max=3.0, d_max=5.0, momentum=0.9, virtual_batch_size=16, name="norm"
    )
    model = trained(layer, rng)
    report = renorm_report(model, data(rng))
    assert report.layers[0].values == 64
    assert report.notes == (
        "Of the whole minibatch, where training takes each ghost by itself: norm.",
    )
    assert report.findings == ()


def test_limits_that_begin_again_are_noted(rng):
    layer = BatchRenormalization(name="norm")
    model = trained(layer, rng)
    layer.trust_statistics()
    (note,) = renorm_report(model, data(rng)).notes
    assert note.startswith("With limits that begin again after new statistics")
    assert note.endswith(": norm.")
    model(data(rng), training=True)
    assert renorm_report(model, data(rng)).notes == ()


@pytest.mark.parametrize("size", [0.003, 1.0, 1500.0])
@pytest.mark.parametrize("spread", [0.001, 0.3])
def test_the_axis_of_r_is_readable_in_a_small_range(rng, size, spread):
    figure = pytest.importorskip("matplotlib.figure").Figure()
    layer = L.BatchNormalization(epsilon=1e-12)
    model = keras.Sequential([keras.Input((3,)), layer])
    x = rng.normal(size=(4096, 3)).astype("float32")
    scales = np.array([1 - spread, 1, 1 + spread]) * size
    layer.moving_mean.assign(x.mean(0))
    layer.moving_variance.assign((x.std(0) / scales) ** 2)
    renorm_report(model, x)._draw(figure)
    low, high = figure.axes[1].get_ylim()
    assert 0 < low < (1 - spread / 2) * size
    assert (1 + spread / 2) * size < high < 4 * low
    inside = [tick for tick in figure.axes[1].get_yticks() if low < tick < high]
    assert len(set(inside)) >= 3
    assert len({f"{tick:g}" for tick in inside}) >= 3


def test_a_layer_that_is_not_called_is_noted(rng):
    class Two(keras.Model):
        def __init__(self):
            super().__init__()
            self.used, self.unused = BatchNormalization(name="used"), BatchNormalization(name="un")

        def build(self, input_shape):
            self.used.build(input_shape)
            self.unused.build(input_shape)

        def call(self, inputs, training=None):
            return self.used(inputs, training=training)

    model = Two()
    model(data(rng))
    report = renorm_report(model, data(rng))
    assert [row.layer for row in report.layers] == ["used"]
    assert "Not called on these inputs: un." in report.notes


def test_table_scalars_json_and_plot(rng, tmp_path):
    model = trained(BatchRenormalization(r_max=3.0, d_max=5.0, momentum=0.9, name="norm"), rng)
    report = renorm_report(model, data(rng))
    header, line = str(report).splitlines()[:2]
    assert header.split()[:5] == ["layer", "kind", "values", "updates", "r_max"]
    assert line.split()[:5] == ["norm", "BRN", "64", "-", "3"]
    row = report.layers[0]
    assert report.scalars()["renorm/d_clipped/norm"] == row.d_clipped
    assert report.scalars()["renorm/r_smallest/norm"] == row.r.minimum
    assert json.loads(json.dumps(report.to_dict()))["layers"][0]["r"]["median"] == row.r.median
    figure = report.plot(tmp_path / "renorm.png")
    assert figure.axes[0].lines[0].get_ydata()[0] == row.mean_drift.median
    assert (tmp_path / "renorm.png").stat().st_size > 1000


def test_what_is_not_finite_is_named(rng):
    model = trained(BatchRenormalization(name="norm"), rng)
    x = data(rng)
    x[0, 0] = np.nan
    (finding,) = renorm_report(model, x).findings
    assert (finding.layer, finding.kind) == ("norm", "not finite")
    assert "norm has a drift of nan and a scale drift of nan: its inputs or its" in str(finding)


def test_a_ragged_model_is_reported_as_one_of_its_values(rng):
    x = rng.normal(2.0, 3.0, size=(9, 4)).astype("float32")
    ragged = tf.RaggedTensor.from_row_lengths(x, [2, 0, 7])
    reports = []
    for shape, options, batch in (((None, 4), {"ragged": True}, ragged), ((4,), {}, x)):
        inputs = keras.Input(shape, **options)
        model = keras.Model(inputs, BatchRenormalization(r_max=2.0, d_max=1.0, name="bn")(inputs))
        model(batch, training=True)
        reports.append((renorm_report(model, batch), train_inference_gap(model, batch)))
    (of_ragged, ragged_gap), (of_values, gap) = reports
    assert of_ragged.layers == of_values.layers
    assert ragged_gap.layers == gap.layers
    assert ragged_gap.output == of_ragged.output_gap == gap.output > 0


def test_numbers_of_steps_are_checked(rng):
    model = trained(BatchRenormalization(name="norm"), rng)
    for wrong, message in (
        ({"steps": -1}, "`steps` must be at least 0, received steps=-1"),
        ({"num_steps": 0}, "`num_steps` must be at least 1, received num_steps=0"),
        ({"num_steps": "9"}, "`num_steps` must be an integer, received '9' of type str"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            renorm_report(model, data(rng), **wrong)
