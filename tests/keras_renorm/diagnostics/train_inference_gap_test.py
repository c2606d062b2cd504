"""The gap against NumPy; none where r and d do not clip; wrong statistics are named."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_renorm import statistics
from keras_renorm.diagnostics import train_inference_gap
from keras_renorm.diagnostics.train_inference_gap import LayerGap, TrainInferenceGapReport, gap
from keras_renorm.layers import BatchNormalization, BatchRenormalization

L = keras.layers


def data(rng, rows=64, shift=2.0):
    return rng.normal(shift, 3.0, size=(rows, 8)).astype("float32")


def network(*norms):
    layers = [layer for norm in norms for layer in (L.Dense(16, use_bias=False), norm, L.ReLU())]
    return keras.Sequential([keras.Input((8,)), *layers, L.Dense(3, name="last")])


def settle(model, x):
    """Gives every normalization the statistics of the data."""
    statistics.precise(model, x, verbose=0)
    return model


def rms_ratio(y, reference):
    return np.sqrt(np.mean((y - reference) ** 2) / np.mean(reference**2))


def test_the_gap_is_numpys(rng):
    norm = BatchNormalization(name="norm", epsilon=1e-6)
    model = keras.Sequential([keras.Input((8,)), norm])
    mean, variance = rng.normal(size=8), rng.uniform(5, 15, size=8)
    norm.moving_mean.assign(mean)
    norm.moving_variance.assign(variance)
    x = data(rng)
    report = train_inference_gap(model, x)
    x = x.astype("float64")
    expected = rms_ratio((x - x.mean(0)) / x.std(0), (x - mean) / np.sqrt(variance))
    (row,) = report.layers
    assert row.own == pytest.approx(expected, rel=1e-4)
    assert row.total == report.output == pytest.approx(expected, rel=1e-4)


def test_the_own_gap_leaves_out_those_before(rng):
    first, second = BatchNormalization(name="first"), BatchNormalization(name="second")
    model = settle(network(first, second), data(rng, 512))
    x = data(rng, 512)
    healthy = train_inference_gap(model, x)
    first.moving_mean.assign(first.moving_mean + 10 * np.sqrt(first.moving_variance))
    report = train_inference_gap(model, x)
    assert [layer.layer for layer in report.layers] == ["first", "second"]
    one, two = report.layers
    assert one.own > 0.9
    assert two.total > 0.2
    # The second layer has the inputs of inference, which are now wrong: it is measured by itself.
    assert healthy.layers[1].own < 0.1
    assert report.findings[0].layer == "first"


def test_renormalization_that_does_not_clip_has_no_gap(rng):
    norms = [BatchRenormalization(r_max=3.0, d_max=5.0, name=f"norm{i}") for i in range(3)]
    model = settle(network(*norms), data(rng, 512))
    report = train_inference_gap(model, data(rng, 16))
    assert report.output < 1e-5
    assert max(layer.total for layer in report.layers) < 1e-5
    assert report.findings == ()
    bn = settle(network(*(BatchNormalization() for _ in range(3))), data(rng, 512))
    assert train_inference_gap(bn, data(rng, 16)).output > 0.1


@pytest.mark.parametrize(
    "norm", [BatchNormalization, BatchRenormalization, L.BatchNormalization], ids=str
)
def test_statistics_of_another_domain_are_named_and_precise_ones_repair_it(norm, rng):
    model = settle(network(norm(name="norm")), data(rng, 512))
    here, elsewhere = data(rng, 256), data(rng, 256, shift=30.0)
    assert train_inference_gap(model, here).findings == ()
    (finding,) = train_inference_gap(model, elsewhere).findings
    assert (finding.layer, finding.kind) == ("norm", "large gap")
    assert "The output of norm in training differs from inference by " in finding.message
    assert train_inference_gap(settle(model, elsewhere), elsewhere).findings == ()


def test_an_output_is_named_where_no_layer_is(rng):
    """An offset hides the gap in the layer, and is taken away behind it."""
    norm = BatchNormalization(name="norm")
    model = keras.Sequential([keras.Input((8,)), norm, L.Rescaling(1.0, offset=-9.0)], name="net")
    settle(model, data(rng, 512))
    norm.beta.assign(np.full(8, 9.0))
    report = train_inference_gap(model, data(rng, 2))
    assert report.layers[0].own < 0.5 < report.output
    (finding,) = report.findings
    assert (finding.layer, finding.kind) == ("net", "large output gap")
    assert (
        f"The output of net in training differs from that in inference by {report.output:.0%}"
        in (finding.message)
    )
    assert "use keras_renorm.layers.BatchRenormalization." in finding.message
    assert train_inference_gap(model, data(rng, 256)).findings == ()
    model.compile("sgd", "mse")
    norm.moving_mean.assign(np.zeros(8))
    norm.moving_variance.assign(np.ones(8))
    assert train_inference_gap(model, data(rng, 2)).findings == ()


def test_limits_that_begin_again_are_noted(rng):
    norm = BatchRenormalization(name="norm")
    model = network(norm)
    model(data(rng), training=True)
    assert train_inference_gap(model, data(rng)).notes == ()
    norm.trust_statistics()
    (note,) = train_inference_gap(model, data(rng)).notes
    assert note.startswith("With limits that begin again after new statistics")


def test_before_the_first_step_a_gap_is_no_fault(rng):
    model = network(BatchNormalization(name="norm"))
    assert len(train_inference_gap(model, data(rng)).findings) == 1
    model.compile("sgd", "mse")
    report = train_inference_gap(model, data(rng))
    assert report.findings == ()
    assert report.notes == ("With moving statistics that no step has updated yet: norm.",)


def test_nothing_in_the_model_changes(rng):
    model = keras.Sequential(
        [network(BatchRenormalization()), L.Dropout(0.5), BatchNormalization()]
    )
    model(data(rng), training=True)
    before = [np.copy(keras.ops.convert_to_numpy(v)) for v in model.variables]
    train_inference_gap(model, data(rng))
    for old, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, keras.ops.convert_to_numpy(variable))
    assert not any("call" in vars(layer) for layer in model._flatten_layers())


def test_after_an_error_the_model_is_as_it_was(rng):
    model = network(BatchNormalization())
    with pytest.raises(Exception, match="shape"):
        train_inference_gap(model, np.ones((4, 5), "float32"))
    assert not any("call" in vars(layer) for layer in model._flatten_layers())


def test_dropout_and_noise_make_no_gap_and_are_named(rng):
    inner = keras.Sequential([L.Dropout(0.5, name="drop"), L.GaussianNoise(1.0, name="noise")])
    inner.name = "inner"
    norm = BatchRenormalization(r_max=3.0, d_max=5.0)
    model = settle(keras.Sequential([keras.Input((8,)), inner, norm]), data(rng, 512))
    report = train_inference_gap(model, data(rng))
    assert report.output < 1e-5
    assert report.notes == (
        "Left out, because they are random in training: inner/drop, inner/noise.",
    )


def test_dropout_before_a_norm_is_named_as_the_cause(rng):
    """Dropout doubles E[x^2] in training, and so the moving variance, but not in inference."""
    norm = BatchNormalization(momentum=0.0, name="norm")
    model = keras.Sequential([keras.Input((8,)), L.Dropout(0.5, name="drop"), norm])
    x = data(rng, 2048, shift=20.0)
    model(x, training=True)
    (finding,) = train_inference_gap(model, x).findings
    assert (
        "The moving statistics may come from activations with drop, whose randomness adds variance"
        in str(finding)
    )
    assert "Move drop behind the last normalization" in str(finding)


class Compiled(L.Layer):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def build(self, input_shape):
        self.layer.build(input_shape)

    @tf.function(autograph=False)
    def call(self, inputs, training=None):
        return self.layer(inputs, training=training)


def test_a_norm_in_a_part_that_is_compiled_by_itself_is_refused(rng):
    model = keras.Sequential([keras.Input((8,)), Compiled(BatchNormalization(name="norm"))])
    message = "The layer 'norm' is called in a function or a loop.*run_functions_eagerly"
    with pytest.raises(ValueError, match=message):
        train_inference_gap(model, data(rng))


def test_dropout_in_a_part_that_is_compiled_by_itself_is_off(rng):
    dropout = Compiled(L.Dropout(0.5, name="drop"))
    norm = BatchRenormalization(r_max=3.0, d_max=5.0)
    model = settle(keras.Sequential([keras.Input((8,)), dropout, norm]), data(rng, 512))
    report = train_inference_gap(model, data(rng))
    assert report.output < 1e-5
    assert report.notes == (f"Left out, because they are random in training: {dropout.name}/drop.",)


@pytest.mark.parametrize("kind", ["dataset", "iterator", "generator", "py_dataset"])
def test_what_is_not_one_batch_is_refused(rng, kind):
    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 1

        def __getitem__(self, index):
            return data(rng)

    dataset = tf.data.Dataset.from_tensor_slices(data(rng)).batch(8)
    x = {
        "dataset": dataset,
        "iterator": iter(dataset),
        "generator": (batch for batch in [data(rng)]),
        "py_dataset": Batches(),
    }[kind]
    message = r"`x` must be one batch of the model's inputs, received a .*next\(iter\(dataset\)\)"
    with pytest.raises(TypeError, match=message):
        train_inference_gap(network(BatchNormalization()), x)


def test_frozen_layers_have_no_gap_and_are_noted(rng):
    model = settle(network(BatchNormalization(name="norm")), data(rng, 512))
    statistics.freeze(model)
    report = train_inference_gap(model, data(rng, shift=30.0))
    assert report.output == 0
    assert report.notes == ("Frozen, so without a gap of their own: norm.",)


def test_a_shared_layers_calls_see_the_same_statistics(rng):
    norm = BatchNormalization(momentum=0.0, name="norm")
    a, b = keras.Input((8,)), keras.Input((8,))
    model = keras.Model([a, b], [norm(a), norm(b)])
    x = data(rng)
    model([x, x], training=True)
    report = train_inference_gap(model, [x, x])
    assert [layer.layer for layer in report.layers] == ["norm (call 1)", "norm (call 2)"]
    assert max(layer.own for layer in report.layers) < 1e-5


def test_a_subclassed_model(rng):
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.norm = BatchNormalization(momentum=0.0, name="norm")

        def build(self, input_shape):
            self.norm.build(input_shape)

        def call(self, inputs, training=None):
            return {"y": self.norm(inputs, training=training)}

    model, x = Own(), data(rng)
    model(x, training=True)
    report = train_inference_gap(model, x)
    assert [layer.layer for layer in report.layers] == ["norm"]
    assert report.output < 1e-5


def test_gap_of_zeros():
    zeros, ones = np.zeros(3), np.ones(3)
    assert gap(zeros, zeros) == 0
    assert gap(ones, zeros) == np.inf
    assert gap(zeros, ones) == 1


def test_table_scalars_json_and_plot(rng, tmp_path):
    model = settle(network(BatchNormalization(name="norm")), data(rng, 512))
    report = train_inference_gap(model, data(rng))
    lines = str(report).splitlines()
    assert lines[0].split() == ["layer", "kind", "own", "gap", "total", "gap"]
    assert lines[2].split() == ["(output)", "-", f"{report.output:.3g}"]
    assert report.scalars() == {
        "gap/output": report.output,
        "gap/own/norm": report.layers[0].own,
        "gap/total/norm": report.layers[0].total,
    }
    assert json.loads(json.dumps(report.to_dict()))["output"] == report.output
    figure = report.plot(tmp_path / "gap.png")
    assert figure.axes[0].lines[0].get_ydata()[0] == report.layers[0].own
    assert (tmp_path / "gap.png").stat().st_size > 1000


def test_what_is_not_finite_is_named(rng):
    x = data(rng, 512)
    model = settle(network(BatchNormalization(name="norm")), x)
    x[0, 0] = np.nan
    (finding,) = train_inference_gap(model, x).findings
    assert (finding.layer, finding.kind) == ("norm", "not finite")
    assert "norm computes NaN or infinity on these inputs" in str(finding)


def test_an_output_that_is_not_finite_is_named_at_any_place(rng):
    x = data(rng, 512)
    inputs = keras.Input(x.shape[1:])
    y = BatchNormalization(momentum=0.5)(inputs)
    last = keras.layers.Rescaling(float("nan"))(y)
    for outputs in ([y, last], [last, y]):
        model = settle(keras.Model(inputs, outputs), x)
        report = train_inference_gap(model, x)
        assert np.isnan(report.output)
        (finding,) = report.findings
        assert (finding.layer, finding.kind) == (model.name, "not finite")
        assert "holds NaN or infinity" in str(finding)


def test_layers_of_one_name_are_told_apart(rng):
    class Same(keras.Model):
        def __init__(self):
            super().__init__()
            self.norms = [BatchNormalization(name="norm") for _ in range(3)]

        def build(self, shape):
            for norm in self.norms:
                norm.build(shape)

        def call(self, x, training=None):
            for norm in self.norms:
                x = norm(x, training=training)
            return x

    x = data(rng)
    model = Same()
    model(x)
    report = train_inference_gap(model, x)
    assert [row.layer for row in report.layers] == ["norm", "norm#2", "norm#3"]
    assert len(report.scalars()) == 7


@pytest.mark.parametrize("largest", [1.5, 1e3, 1e11, float("inf")])
def test_small_gaps_can_be_read_beside_large_ones(largest):
    """On a linear axis up to 1e11 all others were one line at 0."""
    gaps = [0.0, 0.1, 0.5, 1.0, largest]
    rows = tuple(LayerGap(f"norm{i}", "BN", own, own) for i, own in enumerate(gaps))
    figure = TrainInferenceGapReport((), (), rows, 0.5).plot()
    figure.canvas.draw()
    (axes,) = figure.axes
    heights = [
        axes.transAxes.inverted().transform(axes.transData.transform((0, gap)))[1]
        for gap in gaps[:4]
    ]
    assert heights[0] == pytest.approx(0)
    assert np.diff(heights).min() > 0.005
    assert max(heights) <= 1


@pytest.mark.parametrize("mask", [False, True])
def test_statistics_that_lag_where_nothing_clips_are_noted(rng, mask):
    """The layer has no gap of its own: it corrects all of the lag."""
    norm = BatchRenormalization(r_max=3.0, d_max=5.0, name="norm")
    model = keras.Sequential([keras.Input((4, 8)), *[L.Masking()] * mask, norm])
    model.layers[-1].moving_mean.assign(np.full(8, 1.0))
    x = rng.normal(0.0, 1.0, (64, 4, 8)).astype("float32")
    x[::2, 2:] = 0.0 if mask else x[::2, 2:]
    report = train_inference_gap(model, x)
    assert report.findings == ()
    assert report.layers[0].own < 1e-3
    (note,) = report.notes
    assert "inference is 0.00 deviations from training now, and would be 1.0" in note.replace(
        "0.99", "1.0"
    )
    assert "keras_renorm.statistics.precise is likely to harm" in note
    settle_and_forget = keras.models.clone_model(model)
    settle_and_forget.set_weights(model.get_weights())
    with pytest.warns(UserWarning, match="the new statistics are likely to cost accuracy"):
        settle(settle_and_forget, x)
    assert train_inference_gap(settle_and_forget, x).notes == ()


@pytest.mark.parametrize("more", ["training", "inference"])
def test_calls_of_one_mode_only_are_left_out_and_noted(rng, more):
    class Twice(keras.Model):
        def __init__(self):
            super().__init__()
            self.norm = BatchNormalization(name="norm")

        def call(self, x, training=None):
            y = self.norm(x, training=training)
            return self.norm(2 * y, training=training) if training == (more == "training") else y

    model, x = Twice(), rng.normal(size=(8, 3)).astype("f4")
    model(x)
    report = train_inference_gap(model, x)
    assert len(report.layers) == 1
    assert (
        "Not called as often in training as in inference, so only the calls of both are compared: "
        "norm."
    ) in report.notes
