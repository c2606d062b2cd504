import numpy as np
import pytest

from zoo.trained.scores import Scores


@pytest.fixture
def examples(rng):
    probabilities = rng.dirichlet(np.ones(8), 50).astype(np.float32)
    return probabilities, rng.integers(0, 7, 50)  # The last class has none.


def test_scores_against_loops(examples):
    probabilities, labels = examples
    scores = Scores(8)
    for part in (slice(0, 7), slice(7, 50)):
        scores.add(probabilities[part], labels[part])
    orders = [np.argsort(-row) for row in probabilities]
    right = [order[0] == label for order, label in zip(orders, labels, strict=True)]
    first_five = [label in order[:5] for order, label in zip(orders, labels, strict=True)]
    losses = [-np.log(float(row[y])) for row, y in zip(probabilities, labels, strict=True)]
    assert scores.num_examples == 50
    assert scores.accuracy == np.mean(right)
    assert scores.top5_accuracy == np.mean(first_five)
    assert scores.loss == pytest.approx(np.mean(losses), rel=1e-5)
    confusion = np.zeros((8, 8), int)
    for order, label in zip(orders, labels, strict=True):
        confusion[label, order[0]] += 1
    np.testing.assert_array_equal(scores.confusion, confusion)
    told = scores.per_class()
    for k in range(8):
        taken = confusion[:, k].sum()
        assert told[k]["examples"] == np.sum(labels == k)
        assert told[k]["precision"] == (confusion[k, k] / taken if taken else None)
    assert told[7]["recall"] is None


def test_mistakes_are_told_by_their_number():
    scores = Scores(3)
    scores.add(np.eye(3)[[1, 1, 2, 0, 1, 2]], np.array([0, 0, 0, 2, 1, 2]))
    assert scores.most_confused() == [(0, 1, 2), (0, 2, 1), (2, 0, 1)]


def test_a_probability_of_zero_has_a_finite_loss():
    scores = Scores(2)
    scores.add(np.array([[0.0, 1.0]], np.float32), np.array([0]))
    assert scores.loss == pytest.approx(87.3, abs=0.1)
