"""TensorBoard's files hold every gauge's numbers, at the right steps."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from keras_renorm import diagnostics
from keras_renorm.callbacks import LogDiagnostics
from keras_renorm.layers import BatchRenormalization, SkipInit

L = keras.layers


@pytest.fixture
def x(rng):
    return rng.normal(2.0, 3.0, size=(64, 8)).astype("float32")


@pytest.fixture
def model():
    inputs = keras.Input((8,))
    branch = BatchRenormalization(r_max=3.0, d_max=5.0, momentum=0.5, name="norm")(inputs)
    branch = SkipInit(name="alpha")(L.Dense(8)(branch))
    model = keras.Model(inputs, L.Dense(1)(L.Add(name="add")([inputs, branch])))
    model.compile("sgd", "mse")
    return model


def gauges(x):
    return [
        lambda model: diagnostics.renorm_report(model, x),
        lambda model: diagnostics.train_inference_gap(model, x),
        lambda model: diagnostics.residual_variance(model, x),
        lambda model: diagnostics.lint(model, 16),
    ]


def read(folder):
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload()
    return {
        name: {
            event.step: tf.make_ndarray(event.tensor_proto).item() for event in events.Tensors(name)
        }
        for name in events.Tags()["tensors"]
    }


def fit(model, x, callback):
    model.fit(x, x[:, :1], batch_size=16, epochs=5, callbacks=[callback], verbose=0)


def test_all_gauges_are_logged(model, x, tmp_path):
    callback = LogDiagnostics(gauges(x), tmp_path, every_n_steps=8)
    fit(model, x, callback)
    logged = read(tmp_path)
    names = {name for report in callback.reports for name in report.scalars()}
    assert {"renorm/d_clipped/norm", "gap/output", "residual_variance/skip/add"} <= names
    assert "lint/findings" in names
    assert names <= set(logged)
    for report in callback.reports:
        for name, value in report.scalars().items():
            assert set(logged[name]) == {0, 8, 16, 20}
            assert logged[name][20] == pytest.approx(value, rel=1e-6)


def test_training_is_as_without_it(x):
    def weights(callbacks):
        keras.utils.set_random_seed(1)
        model = keras.Sequential(
            [keras.Input((8,)), L.Dropout(0.5), BatchRenormalization(), L.Dense(1)]
        )
        model.compile("sgd", "mse")
        model.fit(x, x[:, :1], batch_size=16, epochs=2, callbacks=callbacks, verbose=0)
        return model.get_weights()

    for one, other in zip(
        weights([]), weights([LogDiagnostics(gauges(x), every_n_steps=1)]), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_a_fault_is_printed_once_and_logged_as_text(model, x, tmp_path, capsys):
    elsewhere = 20 * x + 300
    gauge = [lambda model: diagnostics.renorm_report(model, elsewhere)]
    fit(model, x, LogDiagnostics(gauge, tmp_path, every_n_steps=4))
    printed = capsys.readouterr().out
    assert printed.count("The moving statistics of norm are not those of this data") == 1
    assert "Step 4: " in printed
    text = read(tmp_path)["findings/RenormReport"]
    assert b"The moving statistics of norm are not those" in text[20]
    fit(model, x, LogDiagnostics(gauge, verbose=False, every_n_steps=4))
    assert capsys.readouterr().out == ""


def test_a_healthy_model_prints_nothing(model, x, capsys):
    callback = LogDiagnostics(gauges(x)[:3], every_n_steps=5)
    fit(model, x, callback)
    assert capsys.readouterr().out == ""
    assert [report.findings for report in callback.reports] == [()] * 3


def test_percentiles_are_logged(model, x, tmp_path):
    recorder = diagnostics.ActivationPercentiles("norm", 3, x, every_n_steps=10, log_dir=tmp_path)
    fit(model, x, recorder)
    logged = read(tmp_path)["percentiles/norm[3]/50"]
    assert logged == pytest.approx({r.step: r.percentiles[1] for r in recorder.data}, rel=1e-6)
    assert set(logged) == {0, 10, 20}


def test_without_tensorboard_a_log_dir_is_refused(monkeypatch, tmp_path):
    class Bare:
        """TensorFlow's own part of `tf.summary`, which is all there is without TensorBoard."""

    monkeypatch.setattr(tf, "summary", Bare())
    with pytest.raises(ImportError, match="`log_dir` needs TensorBoard, which is not installed"):
        LogDiagnostics([], tmp_path)
    assert LogDiagnostics([]).reports == ()


def test_steps_out_of_range():
    with pytest.raises(ValueError, match="`every_n_steps` must be at least 1, received"):
        LogDiagnostics([], every_n_steps=0)


@pytest.mark.parametrize("wrong", [lambda model: None, [3], "lint"])
def test_gauges_are_a_list_of_functions(wrong):
    with pytest.raises(TypeError, match=r"`gauges` must be a list of functions .* received"):
        LogDiagnostics(wrong)


def test_a_gauge_returns_a_report(model):
    callback = LogDiagnostics([lambda model: None])
    callback.set_model(model)
    with pytest.raises(TypeError, match=r"A gauge must return a report .* received None from"):
        callback.record(0)
