"""The table of what has no golden numbers: what must hold exactly for each public name.

Each case is a function of a folder for files, and runs on every backend.
"""

import json

import keras
import numpy as np

import keras_renorm
from goldens.running import assert_close
from keras_renorm import (
    callbacks,
    convert,
    diagnostics,
    layers,
    ops,
    schedules,
    statistics,
)
from keras_renorm.ops import reference

CASES = {}
X = (np.random.default_rng(3).integers(-16, 17, (12, 3)) / 8).astype("float32")
EPSILON, MOMENTUM = 1e-3, 0.75


def covers(*names):
    """Enters a function as the case of public names."""

    def enter(function):
        CASES.update(dict.fromkeys(names, function))
        return function

    return enter


def arrays(model):
    return [np.array(keras.ops.convert_to_numpy(weight)) for weight in model.weights]


def output(model, x=X, **options):
    return np.array(keras.ops.convert_to_numpy(model(x, **options)))


def one_norm(norm=None):
    """A model that is one normalisation."""
    norm = norm or layers.BatchNormalization(epsilon=EPSILON, momentum=MOMENTUM, name="norm")
    return keras.Sequential([keras.Input((3,)), norm], name="one")


def network(norm=layers.BatchNormalization, **options):
    """A dense layer, a normalisation and a classifier, whose weights are not those of the start."""
    x = keras.Input((3,))
    y = keras.layers.Dense(4, use_bias=False, name="first")(x)
    y = norm(name="norm", **options)(y)
    model = keras.Model(x, keras.layers.Dense(2, name="last")(y), name="net")
    rng = np.random.default_rng(4)
    for weight in model.weights:
        if weight.dtype == "float32":
            weight.assign(rng.integers(4, 13, weight.shape) / 8)
    return model


def assert_unchanged(model, before):
    for new, old in zip(arrays(model), before, strict=True):
        np.testing.assert_array_equal(new, old)


# Schedules.


@covers("schedules.Schedule")
def schedule(tmp_path):
    @keras.saving.register_keras_serializable("goldens")
    class Step(schedules.Schedule):
        def __call__(self, step):
            return keras.ops.where(step < 3, 1.0, 2.0)

        def get_config(self):
            return {}

    layer = layers.BatchRenormalization(r_max=Step(), d_max=0.0)
    again = layers.BatchRenormalization.from_config(layer.get_config())
    assert again.r_max == Step() != schedules.PAPER_R_MAX
    assert repr(again.r_max) == "Step()"
    assert again.r_max.bounds() is None


def _values(ramp, steps):
    return [float(keras.ops.convert_to_numpy(ramp(np.int32(step)))) for step in steps]


@covers("schedules.LinearRamp")
def linear_ramp(tmp_path):
    ramp = schedules.LinearRamp(1.0, 3.0, 4, 12)
    assert _values(ramp, (0, 4, 6, 8, 12, 99)) == [1.0, 1.0, 1.5, 2.0, 3.0, 3.0]
    assert ramp.bounds() == (1.0, 3.0)
    assert ramp.get_config() == {
        "start_value": 1.0,
        "end_value": 3.0,
        "start_step": 4.0,
        "end_step": 12.0,
    }


@covers("schedules.ExponentialApproach")
def exponential_approach(tmp_path):
    ramp = schedules.ExponentialApproach(0.0, 5.0, 4, 8)
    expected = [5 * (1 - np.exp(-max(step - 4, 0) / 8)) for step in (0, 4, 6, 12, 99)]
    assert_close(np.array(_values(ramp, (0, 4, 6, 12, 99))), np.array(expected), 1e-6)
    assert ramp.bounds() == (0.0, 5.0)


@covers("schedules.Adaptive", "schedules.Limit")
def adaptive_limit(tmp_path):
    limit = schedules.Adaptive(3.0)
    assert isinstance(limit, schedules.Limit)
    assert _values(lambda seen: limit(keras.ops.cast(seen, "float32")), (1, 3, 4)) == [1, 3, 3]
    assert limit.get_config() == {"greatest": 3.0}


@covers("schedules.PAPER_R_MAX", "schedules.PAPER_D_MAX")
def papers_schedules(tmp_path):
    assert schedules.LinearRamp(1.0, 3.0, 5_000, 40_000) == schedules.PAPER_R_MAX
    assert schedules.LinearRamp(0.0, 5.0, 5_000, 25_000) == schedules.PAPER_D_MAX


@covers("schedules.paper")
def papers_shape(tmp_path):
    r_max, d_max = schedules.paper(2_600, momentum=0.9)
    assert (r_max, d_max) == (
        schedules.LinearRamp(1.0, 3.0, 100, 800),
        schedules.LinearRamp(0.0, 5.0, 100, 500),
    )


@covers("schedules.get", "schedules.serialize")
def schedule_forms(tmp_path):
    ramp = schedules.LinearRamp(1.0, 3.0, 4, 12)
    stored = json.loads(json.dumps(schedules.serialize(ramp)))
    assert schedules.get("r_max", stored, low=1) == ramp
    assert schedules.get("r_max", 2, low=1) == 2.0 == schedules.serialize(2.0)


# Layers and functions of replicas, on a single one: `replica_checks.py` has them on two.


@covers("layers.RenormLimits")
def limits(tmp_path):
    ramp = schedules.LinearRamp(1.0, 3.0, 0, 2)
    layer = layers.BatchRenormalization(r_max=ramp, d_max=0.5)
    layer(X, training=True)
    assert layer.current_limits() == layers.RenormLimits(r_max=2.0, d_max=0.5)


@covers("layers.CrossReplicaShuffle", "layers.CrossReplicaUnshuffle")
def shuffling(tmp_path):
    rows, order = layers.CrossReplicaShuffle(seed=1)(X, training=True)
    assert tuple(order.shape) == (0, 2)
    back = layers.CrossReplicaUnshuffle()(rows, order)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(back), X)


@covers("ops.Replicas", "ops.shuffle_order", "ops.shuffle", "ops.unshuffle")
def no_replicas(tmp_path):
    assert ops.Replicas.running() is None


@covers("ops.lowering", "ops.Lowering")
def lowering(tmp_path):
    found = ops.lowering()
    assert found == ops.Lowering(found.name, found.reason)
    assert found.name in ("native", "fused", "composite")


# Statistics.


@covers("statistics.precise", "statistics.PreciseReport")
def precise(tmp_path):
    model = one_norm()
    report = statistics.precise(model, X, batch_size=5, verbose=0)
    mean, variance, _ = reference.moments(X)
    assert_close(arrays(model)[2], mean, 1e-6)
    assert_close(arrays(model)[3], variance, 1e-6)
    assert report == statistics.PreciseReport(12, 1, 0.0, ("one/norm",), ())


@covers("statistics.batch_statistics")
def batch_statistics(tmp_path):
    model = network()
    before, plain = arrays(model), output(model)
    with statistics.batch_statistics(model):
        inside = output(model)
    assert_unchanged(model, before)
    np.testing.assert_array_equal(output(model), plain)
    first, gamma, beta, _, _, kernel, bias = (weight.astype("f8") for weight in before)
    x = X @ first
    mean, variance, _ = reference.moments(x)
    y = reference.inference(x, gamma, beta, mean, np.sqrt(variance + EPSILON))
    assert_close(inside, y @ kernel + bias, 1e-5)


@covers("statistics.freeze", "statistics.unfreeze", "statistics.is_frozen")
def freezing(tmp_path):
    for norm in (layers.BatchNormalization, keras.layers.BatchNormalization):
        model = network(norm)
        before = arrays(model)
        statistics.freeze(model)
        assert statistics.is_frozen(model.get_layer("norm"))
        assert_close(output(model, training=True), output(model), 1e-6)
        assert_unchanged(model, before)
        statistics.unfreeze(model)
        assert not statistics.is_frozen(model.get_layer("norm"))
        output(model, training=True)
        assert np.any(arrays(model)[3] != before[3])


@covers(
    *("statistics.save_set", "statistics.use_set", "statistics.sets"),
    *("statistics.write_sets", "statistics.read_sets"),
)
def sets(tmp_path):
    model = one_norm()
    day = statistics.save_set(model, "day")
    assert {key.rpartition("/")[2] for key in day} == {"moving_mean", "moving_variance"}
    before = arrays(model)
    output(model, training=True)
    statistics.use_set(model, "day")
    assert_unchanged(model, before)
    assert list(statistics.sets(model)) == ["day"]
    statistics.write_sets(model, tmp_path / "sets.npz")
    other = one_norm()
    output(other, training=True)
    assert statistics.read_sets(other, tmp_path / "sets.npz") == ["day"]
    statistics.use_set(other, "day")
    assert_unchanged(other, before)


# Callbacks.


def fitted(model, *chosen, steps=2):
    model.compile("sgd", "mse")
    x = np.concatenate([X] * steps)
    model.fit(x, 0 * x, batch_size=12, shuffle=False, verbose=0, callbacks=list(chosen))
    return model


@covers("callbacks.CountSteps")
def count_steps(tmp_path):
    ramp = schedules.LinearRamp(1.0, 3.0, 0, 4)
    model = fitted(one_norm(layers.BatchRenormalization(r_max=ramp)), steps=1)
    counter = callbacks.CountSteps(model)
    for _ in range(2):
        model(X, training=True)
    counter.advance()
    assert model.layers[0].current_limits().r_max == 2.0  # after 2 updates


@covers("callbacks.FreezeStatistics")
def freeze_statistics(tmp_path):
    model = fitted(one_norm(), callbacks.FreezeStatistics(at_step=1), steps=3)
    mean, variance, _ = reference.moments(X)
    assert_close(arrays(model)[2], (1 - MOMENTUM) * mean, 1e-6)
    assert_close(arrays(model)[3], reference.moving_variance(1.0, variance, MOMENTUM), 1e-6)
    assert statistics.is_frozen(model.layers[0])


@covers("callbacks.RenormHistory")
def renorm_history(tmp_path):
    ramp = schedules.LinearRamp(1.0, 3.0, 0, 4)
    model = one_norm(layers.BatchRenormalization(r_max=ramp, d_max=0.0))
    fitted(model, callbacks.RenormHistory(X))
    history = model.history.history
    assert history["renorm_r_max"] == [2.0]
    assert history["renorm_d_clipped"] == [1.0]


@covers("callbacks.PreciseStatistics")
def precise_statistics(tmp_path):
    callback = callbacks.PreciseStatistics(X)
    model = fitted(one_norm(), callback)
    mean, variance, _ = reference.moments(X)
    assert_close(arrays(model)[2], mean, 1e-6)
    assert_close(arrays(model)[3], variance, 1e-6)
    assert callback.report.examples == 12


@covers("callbacks.LogDiagnostics")
def log_diagnostics(tmp_path):
    callback = callbacks.LogDiagnostics([diagnostics.lint], every_n_steps=1, verbose=False)
    fitted(one_norm(), callback)
    assert [type(report) for report in callback.reports] == [diagnostics.LintReport]


# Converters.


def assert_converted(function, norm, kind, **options):
    """The same outputs and weights, with a norm of another class; the old model as it was."""
    model, reports = network(norm), []
    before, y = arrays(model), output(model)
    new = function(model, report=reports.append, **options)
    assert type(new.get_layer("norm")) is kind
    assert type(model.get_layer("norm")) is norm
    assert_unchanged(model, before)
    assert_unchanged(new, before)
    assert_close(output(new), y, 1e-6)
    change = convert.Change("norm", norm.__name__, kind.__name__)
    (report,) = reports
    assert [one[:3] for one in report.replaced] == [change[:3]]
    assert report.kept == ()
    return new


@covers("convert.to_batch_renormalization", "convert.Change", "convert.Report")
def to_batch_renormalization(tmp_path):
    new = assert_converted(
        convert.to_batch_renormalization,
        layers.BatchNormalization,
        layers.BatchRenormalization,
        r_max=2.0,
        d_max=1.0,
    )
    assert new.get_layer("norm").current_limits() == (2.0, 1.0)


@covers("convert.to_batch_normalization")
def to_batch_normalization(tmp_path):
    def without_schedules(**options):
        return layers.BatchRenormalization(r_max=2.0, d_max=1.0, **options)

    model = network(without_schedules)
    new = convert.to_batch_normalization(model)
    assert type(new.get_layer("norm")) is layers.BatchNormalization
    assert_unchanged(new, arrays(model))
    np.testing.assert_array_equal(output(new), output(model))


@covers("convert.from_keras")
def from_keras(tmp_path):
    kinds = keras.layers.BatchNormalization, layers.BatchNormalization
    assert_converted(convert.from_keras, *kinds)


@covers("convert.to_keras")
def to_keras(tmp_path):
    kinds = layers.BatchNormalization, keras.layers.BatchNormalization
    assert_converted(convert.to_keras, *kinds)


@covers("convert.to_synchronized", "convert.to_unsynchronized")
def synchronization(tmp_path):
    model = network()
    new = convert.to_synchronized(model)
    assert [m.get_layer("norm").synchronized for m in (model, new)] == [False, True]
    back = convert.to_unsynchronized(new)
    assert not back.get_layer("norm").synchronized
    assert_unchanged(back, arrays(model))


@covers("convert.fold")
def fold(tmp_path):
    model, reports = network(), []
    folded = convert.fold(model, report=reports.append)
    kinds = [type(layer) for layer in folded.layers]
    assert kinds == [keras.layers.InputLayer, keras.layers.Dense, keras.layers.Dense]
    assert_close(output(folded), output(model), 1e-5)
    assert len(reports[0].replaced) == 1


# Diagnostics.


def assert_report(report, kind, prefix):
    """Plain data that prints, is logged and is drawn."""
    assert type(report) is kind
    assert issubclass(kind, diagnostics.Report)
    assert all(isinstance(finding, diagnostics.Finding) for finding in report.findings)
    assert json.loads(json.dumps(report.to_dict())).keys() == report.to_dict().keys()
    assert all(key.startswith(prefix) for key in report.scalars())
    assert all(isinstance(value, float) for value in report.scalars().values())
    assert str(report)
    assert report.plot().axes


@covers("diagnostics.lint", "diagnostics.LintReport", "diagnostics.Finding", "diagnostics.Report")
def lint(tmp_path):
    model = network()
    assert diagnostics.lint(model).findings == ()
    report = diagnostics.lint(model, batch_size=2)
    assert_report(report, diagnostics.LintReport, "lint/")
    (finding,) = report.findings
    assert finding == diagnostics.Finding("norm", finding.kind, finding.message)
    assert str(finding) == finding.message
    assert report.norms[0].values == 2


@covers("diagnostics.renorm_report", "diagnostics.RenormReport")
def renorm_report(tmp_path):
    model = network(layers.BatchRenormalization, r_max=1.5, d_max=0.25)
    before = arrays(model)
    report = diagnostics.renorm_report(model, X)
    assert_report(report, diagnostics.RenormReport, "renorm/")
    assert_unchanged(model, before)
    _, _, _, mu, variance, *_ = (weight.astype("f8") for weight in before)
    mean, batch_variance, _ = reference.moments(X @ before[0].astype("f8"))
    sigma = np.sqrt(variance + EPSILON)
    r = np.clip(np.sqrt(batch_variance + EPSILON) / sigma, 1 / 1.5, 1.5)
    d = np.clip((mean - mu) / sigma, -0.25, 0.25)
    (row,) = report.layers
    assert_close(np.array([row.r.minimum, row.r.maximum]), np.array([r.min(), r.max()]), 1e-5)
    assert_close(np.array([row.d.minimum, row.d.maximum]), np.array([d.min(), d.max()]), 1e-5)
    assert (row.r_max, row.d_max) == (1.5, 0.25)


@covers("diagnostics.train_inference_gap", "diagnostics.TrainInferenceGapReport")
def train_inference_gap(tmp_path):
    model = network(layers.BatchRenormalization, r_max=float("inf"), d_max=float("inf"))
    report = diagnostics.train_inference_gap(model, X)
    assert_report(report, diagnostics.TrainInferenceGapReport, "gap/")
    assert report.output < 1e-5
    model = network()
    inference = output(model)
    before = arrays(model)
    report = diagnostics.train_inference_gap(model, X)
    assert_unchanged(model, before)
    training = output(model, training=True)
    expected = np.sqrt(np.mean((training - inference) ** 2) / np.mean(inference**2))
    assert_close(np.array(report.output), expected, 1e-5)


@covers("diagnostics.residual_variance", "diagnostics.ResidualVarianceReport")
def residual_variance(tmp_path):
    x = keras.Input((3,))
    branch = keras.layers.Dense(3, kernel_initializer=keras.initializers.Identity(2.0))(x)
    model = keras.Model(x, keras.layers.Add(name="block")([x, branch]))
    report = diagnostics.residual_variance(model, X)
    assert_report(report, diagnostics.ResidualVarianceReport, "residual_variance/")
    (block,) = report.blocks
    found = np.array([block.skip, block.branch, block.ratio])
    assert_close(found, np.array([X.var(), 4 * X.var(), 4.0]), 1e-5)
    assert (block.block, block.index, report.exponent) == ("block", 1, None)


@covers("diagnostics.ActivationPercentiles", "diagnostics.ActivationPercentilesReport")
def activation_percentiles(tmp_path):
    model = one_norm()
    recorder = diagnostics.ActivationPercentiles("norm", 1, X, every_n_steps=1)
    fitted(model, recorder)
    report = recorder.report()
    assert_report(report, diagnostics.ActivationPercentilesReport, "")
    assert [record.step for record in report.records] == [0, 1, 2]
    expected = np.percentile(X[:, 1].astype("f8"), (15, 50, 85))
    assert_close(np.array(report.records[0].percentiles), expected, 1e-6)


@covers("__version__")
def version(tmp_path):
    assert keras_renorm.__version__.count(".") == 2
