import numpy as np
import pytest

import zoo
from zoo.data import datasets
from zoo.evidence import measures
from zoo.evidence.page import NUMBERS
from zoo.training.config import default_config
from zoo.training.records.metrics import Record
from zoo.training.storage.workdir import Workdir


def record(step, split, accuracy):
    return Record(step, split, 1.0, accuracy, 0.1, None, None, 1.0, 1.0)


@pytest.fixture
def config():
    values = default_config()
    values.model, values.norm, values.batch_size = "mlp", "batch_norm", 40
    values.minibatches, values.dataset = "few_labels", "fashion_mnist_subset"
    return values.to_dict()


@pytest.fixture
def workdir(tmp_path):
    """A net of fresh weights, whose moving statistics have seen nothing."""
    found = Workdir(tmp_path)
    zoo.create_model("mlp", num_classes=10, input_shape=(28, 28, 1), norm="batch_norm").save(
        found.model
    )
    return found


def test_records_tell_the_last_and_the_best():
    records = [
        record(10, "train", 0.5),
        record(10, "test", 0.7),
        record(20, "train", 0.8),
        record(20, "test", 0.6),
    ]
    assert measures.of_records(records) == {
        "accuracy": 0.6,
        "best_accuracy": 0.7,
        "training_accuracy": 0.8,
    }


def test_each_measure_is_a_number_of_the_model(workdir, config):
    found = measures.of_model(workdir, config, list(measures.MEASURES))
    assert set(found) == set(measures.MEASURES)
    # A net that knows nothing, and ten classes of equal size.
    shares = {name: value for name, value in found.items() if name not in NUMBERS}
    assert all(0.01 < value < 0.4 for value in shares.values())
    assert found["gap"] > 0.1


def test_minibatch_statistics_are_of_minibatches_as_in_training(workdir, config):
    """Against the same minibatches, drawn by hand, through the same net in training mode."""
    from zoo.data.samplers import FewLabelsSampler
    from zoo.trained.opening import load_model

    test = datasets.load("fashion_mnist_subset", "test", None)
    sampler = FewLabelsSampler(test.labels, 2, 40, config["seed"])
    model, right = load_model(workdir), []
    for step in range(len(test) // 40):
        chosen = sampler(step).numpy()
        found = np.asarray(model(test.images[chosen].astype("float32") / 255, training=True))
        right += list(found.argmax(-1) == test.labels[chosen])
    found = measures.of_model(workdir, config, ["minibatch"])["minibatch"]
    assert found == pytest.approx(np.mean(right), abs=2 / len(right))


def test_a_run_that_diverged_guesses_and_has_no_other_number(config):
    found = measures.of_diverged(config, ["precise", "kernel_norm", "gap"])
    assert found == {
        "accuracy": 0.1,
        "best_accuracy": 0.1,
        "training_accuracy": 0.1,
        "precise": 0.1,
        "diverged": 1.0,
    }
