"""The checkpoints that come with the package, each as a user opens it."""

import io

import pytest
from rich.console import Console

from zoo.data.dataset import DatasetError
from zoo.trained.evaluating import evaluate
from zoo.weights.packaged import PACKAGED


def _marks(record):
    """A perceptron is evaluated in a second, a ResNet in ten."""
    return () if record.architecture == "mlp_sigmoid" else pytest.mark.slow


@pytest.mark.parametrize(
    "record", [pytest.param(each, id=each.name, marks=_marks(each)) for each in PACKAGED]
)
def test_its_accuracy_is_the_measured_one(record):
    try:
        report = evaluate(Console(file=io.StringIO()), model=[record.name])
    except DatasetError as error:
        if "is not prepared in" not in str(error):
            raise
        pytest.skip(str(error))
    assert 100 * report["accuracy"] == pytest.approx(record.top1, abs=0.1)
    assert report["dataset"] == record.dataset


@pytest.mark.slow
def test_all_open_where_there_is_no_network(run_checks):
    run_checks("packaged_checks.py")
