import json

import pytest

import keras_renorm
from zoo.evidence import results
from zoo.evidence.claims import Claim, Term
from zoo.evidence.experiment import Arm, Experiment, Scale
from zoo.evidence.runs import Measured

EXPERIMENT = Experiment(
    title="Two arms",
    source="",
    about="",
    recipe="few_labels",
    keys={"num_steps": 30},
    arms=(Arm("A", {}, ("gap",)), Arm("B", {}, ("gap",), follows="hidden")),
    claims=(Claim("A leads.", "", Term("A"), Term("B", "gap")),),
    scales={"default": Scale({}, 2, "seconds")},
    target=0.7,
)


def document(count=2):
    runs = [
        Measured(arm, seed, {"accuracy": accuracy + seed / 10, "gap": 0.2}, [(10, accuracy)], 2.0)
        for seed in range(count)
        for arm, accuracy in (("A", 0.8), ("B", 0.6))
    ]
    return results.document("two_arms", EXPERIMENT, "default", runs)


def test_numbers_stand_by_arm_metric_and_seed():
    found = document()
    assert found["arms"]["A"]["accuracy"] == pytest.approx([0.8, 0.9])
    assert found["arms"]["B"] == {
        "accuracy": pytest.approx([0.6, 0.7]),
        "gap": [0.2, 0.2],
        "steps_to_target": [30.0, 30.0],
        "drift": [None, None],
        "widening": [None, None],
    }
    assert found["runs"] == 4
    assert found["seeds"] == 2
    assert found["training_seconds"] == 8
    assert found["versions"]["keras_renorm"] == keras_renorm.__version__


def test_claims_are_judged():
    (claim,) = document()["claims"]
    assert claim["difference"] == pytest.approx(0.65)
    assert claim["verdict"] == "held"


@pytest.mark.parametrize("count", [1, 2])
def test_it_is_json(count):
    found = document(count)
    assert json.loads(json.dumps(found, allow_nan=False)) is not None


@pytest.mark.parametrize(
    ("curve", "step"),
    [
        ([(10, 0.5), (20, 0.7), (30, 0.6)], 20),
        ([(10, 0.5), (20, 0.6), (30, 0.6)], 30),
        # Runs that diverged.
        ([(10, 0.5)], 30),
        ([], 30),
    ],
)
def test_steps_to_an_accuracy(curve, step):
    assert results.steps_to(curve, 0.7, num_steps=30) == step


def with_one_diverged():
    guess = {"accuracy": 0.1, "diverged": 1.0}
    percentiles = [[(10, -1.0, 0.0, 1.0), (20, -1.0, 1.0, 1.0)]]
    runs = [
        Measured("A", 0, {"accuracy": 0.8, "gap": 0.2}, [(10, 0.5), (20, 0.8)], 2.0),
        Measured("A", 1, {"accuracy": 0.8, "gap": 0.2}, [(10, 0.8), (20, 0.8)], 2.0),
        Measured("B", 0, {"accuracy": 0.6, "gap": 0.2}, [(10, 0.6)], 2.0, percentiles),
        Measured("B", 1, guess, [(10, 0.1)], 1.0),
    ]
    return results.document("two_arms", EXPERIMENT, "default", runs)


def test_a_run_that_diverged_is_counted_and_lacks_what_it_has_not():
    found = with_one_diverged()
    assert found["arms"]["B"] == {
        "accuracy": [0.6, 0.1],
        "gap": [0.2, None],
        "diverged": [0.0, 1.0],
        "steps_to_target": [30.0, 30.0],
        "drift": [0.5, None],
        "widening": [1.0, None],
    }
    assert "diverged" not in found["arms"]["A"]


def test_a_claim_about_what_a_diverged_run_lacks_is_not_decided():
    found = with_one_diverged()
    (claim,) = found["claims"]
    assert (claim["difference"], claim["error"]) == (None, None)
    assert claim["verdict"] == "not decided"
    assert json.dumps(found, allow_nan=False)
