import csv

import keras
import numpy as np
import pytest

from keras_renorm import layers, schedules, statistics
from keras_renorm.callbacks import RenormHistory
from keras_renorm.diagnostics import renorm_report

L = keras.layers
RAMP = {
    "r_max": schedules.LinearRamp(1.0, 3.0, start_step=4, end_step=12),
    "d_max": schedules.LinearRamp(0.0, 5.0, start_step=0, end_step=20),
}


def net(*norms):
    model = keras.Sequential([keras.Input((6,)), *norms, L.Dense(1)], name="net")
    model.compile("sgd", "mse")
    return model


def fit(model, rng, *callbacks, epochs=2):
    x = rng.normal(2.0, 3.0, (16, 6)).astype("f4")
    return model.fit(
        x, x[:, :1], batch_size=4, epochs=epochs, verbose=0, callbacks=list(callbacks)
    ).history


def test_limits_are_in_the_history_and_in_what_is_written_after(rng, tmp_path):
    model = net(
        layers.BatchRenormalization(**RAMP), layers.BatchRenormalization(r_max=2.0, d_max=1)
    )
    log = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    history = fit(model, rng, RenormHistory(), log)
    # After 4 and after 8 updates.
    assert history["renorm_r_max"] == pytest.approx([(1 + 2) / 2, (2 + 2) / 2])
    assert history["renorm_d_max"] == pytest.approx([(1 + 1) / 2, (2 + 1) / 2])
    assert "renorm_r_clipped" not in history
    with open(tmp_path / "log.csv") as file:
        written = [float(row["renorm_d_max"]) for row in csv.DictReader(file)]
    assert written == pytest.approx(history["renorm_d_max"])


def test_clipped_shares_are_those_of_the_report(rng):
    wide, narrow = layers.BatchRenormalization(r_max=1.2, d_max=0.3), L.Dense(2, use_bias=False)
    last = layers.BatchRenormalization(r_max=1.1, d_max=0.1)
    model = net(wide, narrow, last)
    x = rng.normal(4.0, 3.0, (8, 6)).astype("f4")
    history = fit(model, rng, RenormHistory(x))
    first, second = renorm_report(model, x).layers
    for name in ("r_clipped", "d_clipped"):
        expected = (6 * getattr(first, name) + 2 * getattr(second, name)) / 8
        assert history[f"renorm_{name}"][-1] == pytest.approx(expected)
        assert expected > 0


def test_inputs_for_which_no_layer_is_called_leave_the_shares_out(rng):
    class Narrow(keras.Model):
        def __init__(self):
            super().__init__(name="narrow")
            self.norm, self.dense = layers.BatchRenormalization(name="norm", **RAMP), L.Dense(1)

        def call(self, x, training=None):
            return self.dense(self.norm(x, training=training) if x.shape[0] != 3 else x)

    model = Narrow()
    model.compile("sgd", "mse", run_eagerly=True)
    with pytest.warns(UserWarning, match="no clipped shares: the model 'narrow' calls none of"):
        history = fit(model, rng, RenormHistory(rng.normal(size=(3, 6)).astype("f4")))
    assert "renorm_r_clipped" not in history
    assert history["renorm_r_max"] == pytest.approx([1.0, 2.0])


def test_limits_that_never_opened_are_named_once(rng):
    shut = layers.BatchRenormalization(r_max=schedules.PAPER_R_MAX, d_max=0.0, name="shut")
    model = net(shut, layers.BatchRenormalization(**RAMP, name="open"))
    with pytest.warns(
        UserWarning, match="The limits of shut never opened: they were r_max=1"
    ) as all_:
        fit(model, rng, RenormHistory())
    assert len(all_) == 1
    assert "write num_steps=..." in str(all_[0].message)
    model.get_layer("shut").trainable = False
    model.compile("sgd", "mse")
    fit(model, rng, RenormHistory())


def test_limits_that_open_and_shut_again_are_not_named(rng):
    falling = schedules.LinearRamp(3.0, 1.0, start_step=4, end_step=8)
    model = net(layers.BatchRenormalization(r_max=falling, d_max=0.0))
    assert fit(model, rng, RenormHistory())["renorm_r_max"] == [3.0, 1.0]


def test_domains_have_limits_each(rng):
    ids, x = keras.Input((), dtype="int32"), keras.Input((6,))
    norm = layers.DomainBatchRenormalization(2, **RAMP)
    model = keras.Model([x, ids], L.Dense(1)(norm(x, domain=ids)))
    model.compile("sgd", "mse")
    data = rng.normal(size=(16, 6)).astype("f4")
    domains = np.repeat([0, 0, 0, 1], 4).astype("int32")
    history = model.fit(
        [data, domains], data[:, :1], 4, verbose=0, shuffle=False, callbacks=[RenormHistory()]
    ).history
    assert history["renorm_d_max"] == pytest.approx([(3 + 1) / 4 / 2])


def test_a_model_without_layers_to_log_is_refused(rng):
    frozen = net(layers.BatchRenormalization())
    statistics.freeze(frozen)
    for model in (net(layers.BatchNormalization()), frozen):
        with pytest.raises(
            ValueError, match=r"no layer to log in the model 'net'.*Leave the callback"
        ):
            fit(model, rng, RenormHistory())
