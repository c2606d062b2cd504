import functools
import io

import pytest
import tensorflow as tf
from rich.console import Console

from zoo.training import setup as setups
from zoo.training.cli import terminal
from zoo.training.config import default_config
from zoo.training.distribution.clusters import read_cluster
from zoo.training.distribution.workers import Workers


@pytest.fixture
def make_setup():
    def make(**values):
        config = default_config().to_dict() | {"model": "mlp", "batch_size": 4} | values
        workers = Workers(tf.distribute.get_strategy(), read_cluster("none"))
        return setups.Setup(config, Console(file=io.StringIO(), width=200), workers)

    return make


def test_averages_are_evaluated_and_saved_beside_the_model(make_setup):
    plain, averaged = make_setup(), make_setup(average_decay=0.9)
    assert list(plain.models) == list(plain.evaluators) == ["test"]
    assert list(averaged.models) == list(averaged.evaluators) == ["test", "test_averaged"]
    more = len(averaged.variables) - len(plain.variables)
    assert more == len(plain.model.variables)


def test_times_are_in_steps_and_the_rate_is_that_of_the_step_that_was_done(make_setup):
    setup = make_setup(num_steps=100, warmup_steps=0.1, learning_rate=0.5)
    assert setup.config["warmup_steps"] == 10
    assert setup.rate(1) == 0
    assert setup.rate(6) == pytest.approx(0.25)


def test_a_step_that_is_built_for_long_is_spoken_of(make_setup, monkeypatch):
    setup = make_setup()
    monkeypatch.setattr(terminal, "patience", functools.partial(terminal.patience, seconds=1e-3))
    batches = setup.batches(0)
    spoken = []
    for again in (False, False, True):
        if again:
            setup.trace_again()
        setup.step(*next(batches))
        spoken.append(
            "still building the first step, for 1 replica(s)" in setup.console.file.getvalue()
        )
        setup.console.file.truncate(0)
    assert spoken == [True, False, True]
