"""Percentiles against NumPy; a drifting and a dead unit are named; a stable one is not."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_renorm.diagnostics import ActivationPercentiles
from keras_renorm.layers import BatchNormalization

L = keras.layers


@pytest.fixture
def x(rng):
    return rng.normal(size=(64, 8)).astype("float32")


def network(norm=False, **options):
    norms = [BatchNormalization(name="norm")] if norm else []
    return keras.Sequential(
        [
            keras.Input((8,)),
            L.Dense(6, name="dense", activation=None if norm else "sigmoid"),
            *norms,
            L.Activation("sigmoid", name="sigmoid"),
            L.Dense(1, name="last"),
        ],
        **options,
    )


def record(model, *arguments, **options):
    recorder = ActivationPercentiles(*arguments, **options)
    recorder.set_model(model)
    recorder.record(7)
    return recorder.data[0]


def pre_activation(model, x):
    dense = model.get_layer("dense")
    return x.astype("float64") @ dense.kernel.numpy() + dense.bias.numpy()


def test_the_input_of_a_layers_own_activation(x):
    model = network()
    result = record(model, "dense", 2, x, percentiles=(0, 25, 90))
    expected = np.percentile(pre_activation(model, x)[:, 2], (0, 25, 90))
    np.testing.assert_allclose(result.percentiles, expected, rtol=1e-5, atol=1e-6)
    assert result.step == 7
    assert model.get_layer("dense").activation is keras.activations.sigmoid


def test_the_input_of_an_activation_layer_and_of_one_without(x):
    model = network()
    after = 1 / (1 + np.exp(-pre_activation(model, x)))
    expected = np.percentile(after[:, -1], (15, 50, 85))
    for layer in ("sigmoid", model.get_layer("sigmoid"), "last"):
        values = after[:, -1] if layer != "last" else 1 / (1 + np.exp(-after[:, -1]))
        result = record(model, layer, -1, x)
        np.testing.assert_allclose(
            result.percentiles, np.percentile(values, (15, 50, 85)), rtol=1e-5
        )
    tensor = model.get_layer("dense").output
    np.testing.assert_allclose(record(model, tensor, -1, x).percentiles, expected, rtol=1e-5)


def test_norms_are_in_training_mode_and_nothing_changes(x):
    model = network(norm=True)
    before = [np.copy(v) for v in model.get_weights()]
    result = record(model, "sigmoid", 0, 5 * x + 3, percentiles=(50,))
    z = pre_activation(model, 5 * x + 3)
    expected = np.median(((z - z.mean(0)) / np.sqrt(z.var(0) + 1e-3))[:, 0])
    assert result.percentiles[0] == pytest.approx(expected, abs=1e-5)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_positions_count_like_examples(rng):
    images = rng.normal(size=(4, 5, 5, 3)).astype("float32")
    model = keras.Sequential([keras.Input((5, 5, 3)), L.ReLU(name="relu")])
    result = record(model, "relu", 1, images)
    np.testing.assert_allclose(
        result.percentiles, np.percentile(images[..., 1].astype("float64"), (15, 50, 85)), rtol=1e-6
    )


def fit(model, x, recorder, epochs=4, rate=0.1):
    model.compile(keras.optimizers.SGD(rate), "mse")
    y = np.full((len(x), 1), 30.0, "float32")
    model.fit(x, y, batch_size=16, epochs=epochs, callbacks=[recorder], verbose=0, shuffle=False)


def test_steps_in_fit(x):
    recorder = ActivationPercentiles("sigmoid", 0, x, every_n_steps=6)
    model = network(norm=True)
    fit(model, x, recorder)
    assert [record.step for record in recorder.data] == [0, 6, 12, 16]
    again = ActivationPercentiles("sigmoid", 0, x, every_n_steps=10)
    model.fit(x, x[:, :1], batch_size=16, callbacks=[again], verbose=0)
    assert [record.step for record in again.data] == [16, 20]


def test_steps_per_execution_jump_over_multiples(x):
    recorder = ActivationPercentiles("sigmoid", 0, x, every_n_steps=5)
    model = network(norm=True)
    model.compile("sgd", "mse", steps_per_execution=4)
    model.fit(x, x[:, :1], batch_size=4, callbacks=[recorder], verbose=0)
    assert [record.step for record in recorder.data] == [0, 8, 12, 16]


def test_a_unit_that_drifts_is_named_and_a_normalised_one_is_not(x):
    recorder = ActivationPercentiles("dense", 0, x, every_n_steps=8)
    model = network()
    model.compile("sgd", "mse")
    recorder.set_model(model)
    recorder.record(0)
    model.get_layer("dense").bias.assign(np.full(6, 9.0))  # what training may do to a bias
    recorder.record(8)
    (finding,) = recorder.report().findings
    assert (finding.layer, finding.kind) == ("dense[0]", "drift")
    assert "The input of dense[0] has drifted: its 50th percentile is" in finding.message

    normalised = ActivationPercentiles("sigmoid", 0, x, every_n_steps=8)
    model = network(norm=True)
    normalised.set_model(model)
    normalised.record(0)
    model.get_layer("dense").bias.assign(np.full(6, 9.0))
    normalised.record(8)
    assert normalised.report().findings == ()


def test_a_constant_unit_is_named(x):
    recorder = ActivationPercentiles("dense", 0, x)
    model = network()
    recorder.set_model(model)
    recorder.record(0)
    model.get_layer("dense").kernel.assign(np.zeros((8, 6)))
    recorder.record(100)
    (finding,) = recorder.report().findings
    assert finding.kind == "constant input"
    assert "The input of dense[0] is 0 for all examples at step 100" in finding.message


def test_training_batches_from_an_iterator_and_a_dataset(x):
    model = network()
    batches = [(x[i : i + 16], x[i : i + 16, :1]) for i in range(0, 64, 16)]
    expected = [np.median(pre_activation(model, batch)[:, 0]) for batch, _ in batches]
    recorder = ActivationPercentiles("dense", 0, iter(batches), percentiles=[50])
    recorder.set_model(model)
    for step in range(4):
        recorder.record(step)
    np.testing.assert_allclose([r.percentiles[0] for r in recorder.data], expected, rtol=1e-4)
    with pytest.raises(ValueError, match="The iterator `x` ended after 4 records"):
        recorder.record(4)
    dataset = tf.data.Dataset.from_tensor_slices((x, x[:, :1])).batch(16)
    recorder = ActivationPercentiles("dense", 0, dataset, percentiles=[50])
    recorder.set_model(model)
    for step in range(5):
        recorder.record(step)
    np.testing.assert_allclose(
        [r.percentiles[0] for r in recorder.data], [*expected, expected[0]], rtol=1e-4
    )


@pytest.mark.parametrize(
    "percentiles", [(), (50, 15), (-1, 50), (50, 101), (float("nan"), 50), (15, float("nan"))]
)
def test_percentiles_out_of_range(percentiles, x):
    with pytest.raises(ValueError, match="`percentiles` must be percentages in"):
        ActivationPercentiles("dense", 0, x, percentiles)


@pytest.mark.parametrize("percentiles", [50, "15", ["a"], None])
def test_percentiles_that_are_no_numbers(percentiles, x):
    with pytest.raises(TypeError, match="`percentiles` must be a sequence of numbers, such as"):
        ActivationPercentiles("dense", 0, x, percentiles)


@pytest.mark.parametrize("layer", [3, None, keras.layers.Dense])
def test_what_is_no_layer_is_refused(layer, x):
    with pytest.raises(TypeError, match="`layer` must be a layer, its name or a tensor of a func"):
        ActivationPercentiles(layer, 0, x)


@pytest.mark.parametrize("unit", [1.0, "0", True])
def test_what_is_no_unit_is_refused(unit, x):
    with pytest.raises(TypeError, match="`unit` must be an integer, received"):
        ActivationPercentiles("dense", unit, x)


def test_a_tensor_of_a_nested_model_is_refused(x):
    inner = network(name="inner")
    outer = keras.Sequential([keras.Input((8,)), inner], name="outer")
    tensor = inner.get_layer("dense").output
    message = "is no tensor of 'outer': .* Name its layer instead, e.g. \"encoder/dense\""
    with pytest.raises(ValueError, match=message):
        record(outer, tensor, 0, x)
    assert record(outer, outer.layers[0].output, 0, x).step == 7


@pytest.mark.parametrize("recurrent", [L.LSTM, L.GRU, L.SimpleRNN])
def test_an_activation_that_a_layer_hands_on_is_refused(rng, recurrent):
    model = keras.Sequential([keras.Input((5, 3)), recurrent(4, name="recurrent")])
    x = rng.normal(size=(8, 5, 3)).astype("float32")
    message = (
        "'recurrent' cannot be watched, because it belongs to a part of the layer, such as a cell"
    )
    with pytest.raises(ValueError, match=message):
        record(model, "recurrent", 0, x)
    model.get_layer("recurrent").cell.activation = keras.activations.linear
    expected = np.percentile(x[..., 1].astype("float64"), (15, 50, 85))
    np.testing.assert_allclose(record(model, "recurrent", 1, x).percentiles, expected, rtol=1e-6)


def test_a_plot_without_records(x):
    assert ActivationPercentiles("dense", 0, x).plot().axes[0].lines[:] == []


def test_mistakes(x):
    with pytest.raises(ValueError, match="`every_n_steps` must be at least 1, received"):
        ActivationPercentiles("dense", 0, x, every_n_steps=0)
    with pytest.raises(ValueError, match="The model 'net' has no layer 'dens'"):
        record(network(name="net"), "dens", 0, x)
    with pytest.raises(
        ValueError, match=r"`unit` must be in \[-6, 5\], because 'dense' has 6 units"
    ):
        record(network(), "dense", 6, x)


def test_table_scalars_and_plot(x, tmp_path):
    recorder = ActivationPercentiles("sigmoid", 0, x, every_n_steps=8)
    fit(network(norm=True), x, recorder)
    report = recorder.report()
    lines = str(report).splitlines()
    assert lines[0].split() == ["step", "15", "%", "50", "%", "85", "%"]
    assert [line.split()[0] for line in lines[1:4]] == ["0", "8", "16"]
    last = recorder.data[-1].percentiles
    assert report.scalars()["percentiles/sigmoid[0]/85"] == last[2]
    figure = recorder.plot(tmp_path / "figure1.png")
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_xdata(), [0, 8, 16])
    assert figure.axes[0].lines[0].get_ydata()[-1] == last[2]
    assert (tmp_path / "figure1.png").stat().st_size > 1000


def test_an_input_that_is_not_finite_is_named(x):
    model = keras.Sequential([keras.Input(x.shape[1:]), keras.layers.Dense(2, name="dense")])
    recorder = ActivationPercentiles("dense", 0, np.where(x == x[0, 0], np.nan, x))
    recorder.set_model(model)
    recorder.record(0)
    recorder.record(5)
    (finding,) = recorder.report().findings
    assert finding.kind == "not finite"
    assert "The input of dense[0] is not finite at step 0" in str(finding)
