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
    keys={},
    arms=(Arm("A", {}), Arm("B", {})),
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
        "steps_to_target": [10.0, 10.0],
    }
    assert found["runs"] == 4
    assert found["seeds"] == 2
    assert found["training_seconds"] == 8
    assert found["versions"]["keras_renorm"] == keras_renorm.__version__


def test_claims_are_judged():
    (claim,) = document()["claims"]
    assert claim["difference"] == pytest.approx(0.65)
    assert claim["verdict"] in ("held", "not decided")


@pytest.mark.parametrize("count", [1, 2])
def test_it_is_json(count):
    found = document(count)
    assert json.loads(json.dumps(found, allow_nan=False)) is not None


@pytest.mark.parametrize(
    ("curve", "step"),
    [
        ([(10, 0.5), (20, 0.7), (30, 0.6)], 20),
        ([(10, 0.5), (20, 0.6)], 20),
        ([], 0),
    ],
)
def test_steps_to_an_accuracy(curve, step):
    assert results.steps_to(curve, 0.7) == step
