import io

import numpy as np
import pytest
from rich.console import Console

from zoo.data import datasets
from zoo.evidence import percentiles
from zoo.trained.opening import load_model
from zoo.training.config import default_config
from zoo.training.run import train
from zoo.training.storage.workdir import Workdir

ROWS = [(250, -1.0, 0.0, 1.0), (500, -1.0, 1.0, 3.0), (750, -4.0, 0.5, 2.0)]


def test_drift_is_the_way_of_the_median_in_widths():
    assert percentiles.drift([ROWS]) == pytest.approx((1.0 - 0.0) / np.mean([2, 4, 6]))
    still = [(step, -1.0, 0.5, 1.0) for step, *_ in ROWS]
    assert percentiles.drift([ROWS, still]) == pytest.approx(percentiles.drift([ROWS]) / 2)


def test_widening_is_the_widest_over_the_narrowest():
    assert percentiles.widening([ROWS, ROWS]) == pytest.approx(6 / 2)


@pytest.mark.parametrize(("norm", "layer"), [("batch_norm", "norm"), ("none", "activation")])
def test_rows_are_of_the_checkpoints_in_their_order(tmp_path, norm, layer):
    """The last checkpoint is the saved model, whose sigmoids get what their layer computes."""
    config = default_config()
    config.model, config.norm, config.batch_size = "mlp_sigmoid", norm, 20
    config.num_steps, config.checkpoint_every_steps, config.keep_every_steps = 6, 2, 2
    config.eval_every_steps, config.norm_momentum = 6, 0.5
    train(config.to_dict(), str(tmp_path / "run"), Console(file=io.StringIO()))
    workdir = Workdir(tmp_path / "run")
    units = percentiles.follow(workdir, config.to_dict(), f"hidden3_{layer}")
    assert [[row[0] for row in rows] for rows in units] == [[2, 4, 6]] * percentiles.UNITS
    assert units[0][0][1:] != units[0][2][1:]
    model = load_model(workdir)
    images = datasets.load(config.dataset, "test", None).images[: percentiles.IMAGES] / 255
    for found in model.layers[1:]:
        if found.name == f"hidden3_{layer}":
            break
        images = found(images, **({"training": True} if "norm" in found.name else {}))
    values = np.asarray(images)
    if norm == "batch_norm":
        values = (values - values.mean(0)) / np.sqrt(values.var(0) + found.epsilon)
        values = values * found.gamma + found.beta
    desired = np.percentile(values[:, : percentiles.UNITS], (15, 50, 85), axis=0).T
    np.testing.assert_allclose([rows[-1][1:] for rows in units], desired, rtol=1e-4, atol=1e-5)
