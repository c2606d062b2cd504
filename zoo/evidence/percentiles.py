"""What comes into a layer's nonlinearity over training, from the checkpoints that a run kept."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from zoo.training.storage.workdir import Workdir

#: How many of the layer's units are followed, and with how many test images.
UNITS, IMAGES = 10, 500

#: For one unit: each checkpoint's step and the 15th, 50th and 85th percentiles.
Rows = Sequence[Sequence[float]]


def follow(workdir: Workdir, config: Mapping[str, Any], layer: str) -> list[Rows]:
    """Returns the rows of the first units of a layer.

    Args:
        workdir: The folder of a finished run with `keep_every_steps`.
        config: The run's.
        layer: Name of the layer that has the nonlinearity.
    """
    # Results are read without TensorFlow, for `--list`.
    import numpy as np
    import tensorflow as tf

    from keras_renorm.diagnostics import ActivationPercentiles
    from zoo.data import datasets
    from zoo.trained.opening import load_model
    from zoo.training.storage.checkpoints import CheckpointStore

    test = datasets.load(config["dataset"], "test", config["data_dir"])
    images = test.images[:IMAGES].astype(np.float32) / np.float32(255)
    model = load_model(workdir)
    recorders = [ActivationPercentiles(layer, unit, images) for unit in range(UNITS)]
    # A checkpoint begins with the model's variables.
    saved = tf.train.Checkpoint(variables=[variable.value for variable in model.variables])
    for folder in reversed(CheckpointStore(workdir.checkpoints, []).newest_first()):
        saved.read(str(folder / "variables")).expect_partial()
        for recorder in recorders:
            recorder.set_model(model)
            recorder.record(int(folder.name.partition("-")[2]))
    return [[(r.step, *r.percentiles) for r in recorder.data] for recorder in recorders]


def drift(units: Sequence[Rows]) -> float:
    """Returns how far medians move, in mean widths from the 15th to the 85th percentile."""
    moved = (max(row[2] for row in rows) - min(row[2] for row in rows) for rows in units)
    return fmean(m / fmean(_widths(rows)) for m, rows in zip(moved, units, strict=True))


def widening(units: Sequence[Rows]) -> float:
    """Returns how many times as wide as at its narrowest a distribution becomes."""
    return fmean(max(_widths(rows)) / min(_widths(rows)) for rows in units)


def _widths(rows: Rows) -> list[float]:
    return [high - low for _, low, _, high in rows]
