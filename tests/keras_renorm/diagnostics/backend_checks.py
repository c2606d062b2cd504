"""Checks that run under any backend of Keras; see backends_test.py."""

import os

import keras
import numpy as np
import pytest

from keras_renorm import diagnostics
from keras_renorm.callbacks import LogDiagnostics
from keras_renorm.diagnostics.forward_pass import forward
from keras_renorm.layers import BatchRenormalization, SkipInit

L = keras.layers


def model():
    inputs = keras.Input((8,))
    branch = BatchRenormalization(momentum=0.5, r_max=3.0, d_max=5.0, name="norm")(inputs)
    branch = SkipInit(0.5)(L.Dense(8)(branch))
    outputs = L.Activation("sigmoid", name="sigmoid")(L.Add(name="add")([inputs, branch]))
    model = keras.Model(inputs, L.Dense(1)(L.Dropout(0.5)(outputs)))
    model.compile("sgd", "mse")
    return model


def gauges(x):
    return [
        lambda model: diagnostics.renorm_report(model, x),
        lambda model: diagnostics.train_inference_gap(model, x),
        lambda model: diagnostics.residual_variance(model, x),
        lambda model: diagnostics.lint(model, 16),
    ]


def test_all_gauges_in_fit(rng, tmp_path):
    if "KERAS_BACKEND" in os.environ:
        assert keras.backend.backend() == os.environ["KERAS_BACKEND"]
    x = rng.normal(2.0, 3.0, size=(64, 8)).astype("float32")
    net = model()
    log = LogDiagnostics(gauges(x), tmp_path, every_n_steps=4)
    percentiles = diagnostics.ActivationPercentiles("sigmoid", 0, x, every_n_steps=4)
    net.fit(x, x[:, :1], batch_size=16, epochs=2, verbose=0, callbacks=[log, percentiles])
    corrections, gap, residual, lint = log.reports

    (row,) = corrections.layers
    norm = net.get_layer("norm")
    mean, variance = (
        keras.ops.convert_to_numpy(v) for v in (norm.moving_mean, norm.moving_variance)
    )
    drift = (x.astype("float64").mean(0) - mean) / np.sqrt(variance + 1e-3)
    np.testing.assert_allclose(row.typical_drift, np.median(np.abs(drift)), rtol=1e-3)
    assert gap.output < 1e-5
    np.testing.assert_allclose(residual.blocks[0].skip, np.var(x.astype("float64")), rtol=1e-5)
    assert [report.findings for report in log.reports] == [()] * 4
    assert [norm.values for norm in lint.norms] == [16]
    assert [record.step for record in percentiles.data] == [0, 4, 8]
    first, last = percentiles.data[0].percentiles, percentiles.data[-1].percentiles
    assert first != last  # The weights are the present ones, also where `fit` keeps its own state.


def test_layers_in_a_compiled_loop_matter_only_where_they_are_watched(rng):
    x = rng.normal(2.0, 3.0, size=(16, 5, 8)).astype("float32")
    norm = BatchRenormalization(r_max=3.0, d_max=5.0)
    layers = [L.LSTM(8, dropout=0.5, name="lstm"), norm, L.Activation("tanh", name="tanh")]
    net = keras.Sequential([keras.Input((5, 8)), *layers])
    assert diagnostics.train_inference_gap(net, x).notes[0].startswith("Left out, because they")
    assert diagnostics.residual_variance(net, x).blocks == ()
    percentiles = diagnostics.ActivationPercentiles("tanh", 0, x)
    percentiles.set_model(net)
    percentiles.record(0)
    assert len(percentiles.data) == 1
    if keras.backend.backend() == "jax":
        import jax

        watched = diagnostics.ActivationPercentiles("lstm/lstm_cell", 0, x)
        watched.set_model(net)
        with pytest.raises(ValueError, match=r"run the gauge in `with jax.disable_jit\(\):`"):
            watched.record(0)
        with jax.disable_jit():
            watched.record(0)
        assert len(watched.data) == 1


def test_a_pass_changes_nothing(rng):
    x = rng.normal(2.0, 3.0, size=(64, 8)).astype("float32")
    net = model()
    net.fit(x, x[:, :1], batch_size=16, verbose=0)
    before = [np.copy(keras.ops.convert_to_numpy(v)) for v in net.variables]
    for gauge in gauges(x):
        gauge(net)
    for old, variable in zip(before, net.variables, strict=True):
        np.testing.assert_array_equal(old, keras.ops.convert_to_numpy(variable))


def test_a_pass_keeps_nothing_for_gradients(rng):
    """PyTorch would hold all activations until the gauge is done."""
    x = keras.ops.convert_to_tensor(rng.normal(2.0, 3.0, size=(64, 8)), "float32")
    seen = []

    def around(call):
        seen.append(call.run())
        return seen[-1]

    net = model()
    output = forward(net, x, {net.get_layer("norm"): around}, training=True)
    assert not any(getattr(tensor, "requires_grad", False) for tensor in (output, *seen))


def test_training_draws_the_same_numbers_with_gauges_as_without(rng):
    x = rng.normal(2.0, 3.0, size=(64, 8)).astype("float32")
    weights = []
    for callbacks in ([], [LogDiagnostics(gauges(x), every_n_steps=1)]):
        keras.utils.set_random_seed(1)
        net = model()
        net.fit(x, x[:, :1], batch_size=16, verbose=0, callbacks=callbacks)
        weights.append(net.get_weights())
    for without, with_gauges in zip(*weights, strict=True):
        np.testing.assert_array_equal(with_gauges, without)
