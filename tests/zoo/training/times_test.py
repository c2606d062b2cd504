import pytest

from zoo.errors import UserError
from zoo.training import times
from zoo.training.config import default_config


def config(**values):
    return default_config().to_dict() | {"num_steps": 3000} | values


def test_times_are_steps_or_shares_of_the_run():
    values = config(warmup_steps=0.05, eval_every_steps=1 / 30)
    steps = times.in_steps(values)
    assert (steps["warmup_steps"], steps["eval_every_steps"]) == (150, 100)
    assert times.in_steps(steps) == steps
    short = times.in_steps(values | {"num_steps": 3})
    assert (short["warmup_steps"], short["eval_every_steps"]) == (0, 1)
    tiny = times.in_steps(config(log_every_steps=1e-30))
    assert tiny["log_every_steps"] == 1


def test_no_share_above_0_turns_into_never():
    values = config(freeze_statistics_at_step=0.0001, warmup_steps=0.0001)
    assert times.in_steps(values)["freeze_statistics_at_step"] == 1
    assert times.in_steps(values)["warmup_steps"] == 0  # a warm-up of less than a step is none
    assert times.in_steps(config(freeze_statistics_at_step=0.0))["freeze_statistics_at_step"] == 0


def test_a_ramp_of_the_paper():
    both = {"r_max_ramp": "paper", "d_max_ramp": "paper"}
    whole = config(**both, num_steps=130_000, norm_momentum=0.99)
    assert times.ramp(whole, "r_max_ramp") == (5_000, 40_000)
    assert times.ramp(whole, "d_max_ramp") == (5_000, 25_000)
    short = config(**both, num_steps=300, norm_momentum=0.9)  # closed for three time constants
    assert times.ramp(short, "r_max_ramp") == (30, 111)
    assert times.ramp(short, "d_max_ramp") == (30, 77)


def test_a_ramp_begins_and_ends():
    assert times.ramp(config(r_max_ramp="0.05,1050"), "r_max_ramp") == (150, 1050)
    assert times.ramp(config(), "d_max_ramp") is None
    assert times.ramp(config(r_max_ramp="0.05,0.35", num_steps=1), "r_max_ramp") == (0, 1)
    with pytest.raises(UserError, match=r"received '0\.5,150': 1500, 150 steps\.$"):
        times.ramp(config(r_max_ramp="0.5,150"), "r_max_ramp")


def test_falls_follow_each_other_and_the_warm_up():
    assert times.decay_steps(config(decay_at_steps="0.5,2000")) == [1500, 2000]
    with pytest.raises(UserError, match=r"after the warm-up of 600 steps, .*: 300, 2000 steps\.$"):
        times.decay_steps(config(decay_at_steps="300,2000", warmup_steps=0.2))
