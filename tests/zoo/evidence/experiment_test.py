import pytest

from zoo.errors import UserError
from zoo.evidence.claims import Claim, Term
from zoo.evidence.experiment import Arm, Experiment, Scale


def experiment(**changes):
    values = {
        "title": "",
        "source": "",
        "about": "",
        "recipe": "few_labels",
        "keys": {"num_steps": 100, "augment": True},
        "arms": (
            Arm("first", {"norm": "batch_norm"}),
            Arm("second", {"freeze_statistics_at_step": 0.8}),
        ),
        "claims": (Claim("", "", Term("first"), Term("second")),),
        "scales": {"smoke": Scale({"num_steps": 10}, 2, "seconds")},
    }
    return Experiment(**values | changes)


def test_a_run_for_each_arm_and_seed():
    runs = list(experiment().runs("smoke"))
    assert [(run.arm.name, run.seed) for run in runs] == [
        ("first", 0),
        ("second", 0),
        ("first", 1),
        ("second", 1),
    ]
    assert len({run.name for run in runs}) == len(runs)
    assert len(list(experiment().runs("smoke", seeds=3))) == 6


def test_arms_override_scales_and_scales_override_experiments():
    arms = (Arm("first", {"num_steps": 7}), Arm("second", {}))
    found = [run.keys["num_steps"] for run in experiment(arms=arms).runs("smoke", seeds=1)]
    assert found == [7, 10]


def test_flags_are_those_of_zoo_train():
    run = list(experiment().runs("smoke"))[1]
    assert run.flags == [
        "--config=few_labels",
        "--config.num_steps=10",
        "--config.augment=true",
        "--config.freeze_statistics_at_step=0.8",
        "--config.seed=0",
    ]


def test_a_scale_that_there_is_not_is_refused():
    with pytest.raises(UserError, match="--scale must be one of smoke, received 'huge'"):
        next(experiment().runs("huge"))


@pytest.mark.parametrize("claims", [(Claim("", "", Term("frist"), 0.5),)])
def test_claims_about_other_arms_are_refused(claims):
    with pytest.raises(ValueError, match="frist"):
        experiment(claims=claims)
