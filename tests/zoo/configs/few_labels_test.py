"""The quickstart's claim, trained in full: four runs of 3,000 steps in one process."""

import json

import pytest

from zoo.configs import few_labels

RUNS = """
from rich.console import Console
from zoo.configs import few_labels
from zoo.training.run import train
for norm in ("batch_renorm", "batch_norm"):
    for minibatches in ("few_labels", "iid"):
        config = few_labels.get_config().to_dict()
        config |= {"norm": norm, "minibatches": minibatches, "eval_every_steps": 3000}
        train(config, f"FOLDER/{norm}-{minibatches}", Console(quiet=True))
"""


@pytest.fixture(scope="module")
def accuracies(run_python, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    done = run_python(RUNS.replace("FOLDER", str(folder)))
    assert done.returncode == 0, done.stderr
    return {
        path.name: json.loads((path / "metrics.jsonl").read_text().splitlines()[-1])["accuracy"]
        for path in folder.iterdir()
    }


@pytest.mark.slow
def test_batch_renorm_learns_from_minibatches_of_two_labels(accuracies):
    assert accuracies["batch_renorm-few_labels"] >= 0.80


@pytest.mark.slow
def test_batch_norm_does_not(accuracies):
    assert accuracies["batch_norm-few_labels"] <= 0.45


@pytest.mark.slow
def test_both_are_as_good_on_independent_minibatches(accuracies):
    assert accuracies["batch_renorm-iid"] == pytest.approx(accuracies["batch_norm-iid"], abs=0.015)


def test_the_recipe_is_the_issues():
    config = few_labels.get_config()
    assert (config.model, config.norm, config.dataset) == (
        "mlp",
        "batch_renorm",
        "fashion_mnist_subset",
    )
    assert (config.minibatches, config.labels_per_batch, config.batch_size) == ("few_labels", 2, 60)
    assert (config.num_steps, config.learning_rate, config.momentum) == (3000, 0.02, 0.9)
    assert (config.r_max, config.r_max_ramp, config.d_max, config.d_max_ramp) == (None,) * 4
