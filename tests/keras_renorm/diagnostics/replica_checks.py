"""Checks of the gauges on a model of two replicas; `replicas_test.py` runs this."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_renorm import diagnostics
from keras_renorm.callbacks import LogDiagnostics
from keras_renorm.layers import BatchNormalization, BatchRenormalization


@pytest.fixture(scope="module")
def strategy():
    """One for all checks: a second one would use the collectives' keys of the first again."""
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


@pytest.mark.parametrize("synchronized", [False, True])
def test_gauges_in_fit(rng, strategy, synchronized):
    x = rng.normal(2.0, 3.0, size=(64, 8)).astype("float32")
    with strategy.scope():
        norm = BatchNormalization(momentum=0.5, synchronized=synchronized, name="norm")
        renorm = BatchRenormalization(
            momentum=0.5, r_max=3.0, d_max=5.0, synchronized=synchronized, name="renorm"
        )
        model = keras.Sequential([keras.Input((8,)), norm, keras.layers.ReLU(), renorm])
        model.compile("sgd", "mse")
    log = LogDiagnostics(
        [
            lambda model: diagnostics.renorm_report(model, x),
            lambda model: diagnostics.train_inference_gap(model, x),
        ],
        every_n_steps=2,
    )
    model.fit(x, x, batch_size=16, epochs=2, verbose=0, callbacks=[log])
    report, gap = log.reports
    # The statistics that inference uses: the replicas' mean, for a layer that is not synchronized.
    mean, variance = np.array(norm.moving_mean), np.array(norm.moving_variance)
    drift = (x.astype("float64").mean(0) - mean) / np.sqrt(variance + 1e-3)
    assert report.layers[0].typical_drift == pytest.approx(np.median(np.abs(drift)), rel=1e-3)
    assert gap.layers[1].own < 1e-5
    assert 0.001 < gap.layers[0].own < 0.5
    before = [np.array(v) for v in model.variables]
    diagnostics.renorm_report(model, x)
    diagnostics.train_inference_gap(model, x)
    for old, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, np.array(variable))
