import re

import pytest
from absl import flags

from zoo.errors import UserError
from zoo.training.cli import arguments
from zoo.training.cli.recipes import load_recipe


@pytest.fixture
def flag_values():
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "A folder.", values)
    return values


# Those of resnet20 for 450 of its 8,000 steps.
TIMES_OF_450 = {
    "r_max_start_step": 22,
    "r_max_end_step": 158,
    "d_max_start_step": 22,
    "d_max_end_step": 113,
    "warmup_steps": 22,
    "eval_every_steps": 29,
}


def parse(flag_values, *argv):
    return arguments.parse_arguments(["program", *argv], flag_values)


def test_the_quickstart_is_the_default(flag_values):
    config, rest = parse(flag_values, "--workdir=here")
    assert config.to_dict() == load_recipe("few_labels").to_dict()
    assert config.is_locked
    assert rest == ["program"]
    assert flag_values.workdir == "here"


@pytest.mark.parametrize(
    "argv",
    [
        ["--config=resnet20", "--config.norm=none", "--config.num_steps=450", "--noconfig.augment"],
        ["--config.norm", "none", "--config.num_steps=450", "--config.augment=false",
         "--config", "resnet20"],
        ["-config=resnet20", "-config.norm=none", "-config.num_steps=450", "-noconfig.augment"],
        ["-config", "resnet20", "-config.norm", "none", "-config.num_steps", "450",
         "-config.augment=false"],
    ],
)  # fmt: skip
def test_keys_are_overridden_wherever_they_stand(flag_values, argv):
    config, _ = parse(flag_values, *argv)
    expected = load_recipe("resnet20").to_dict()
    assert config.to_dict() == expected | TIMES_OF_450 | {
        "norm": "none",
        "num_steps": 450,
        "augment": False,
    }


def test_times_that_are_given_do_not_scale_with_the_steps(flag_values):
    config, _ = parse(flag_values, "--config=resnet20", "--config.num_steps=300")
    assert (config.warmup_steps, config.r_max_start_step, config.r_max_end_step) == (15, 15, 105)
    config, _ = parse(
        flags.FlagValues(), "--config=resnet20", "--config.num_steps=300", "--config.warmup_steps=9"
    )
    assert (config.warmup_steps, config.checkpoint_every_steps) == (9, 500)


@pytest.mark.parametrize("num_steps", [1, 2, 7, 16_000])
@pytest.mark.parametrize("recipe", ["few_labels", "norm_batch", "resnet20"])
def test_every_recipe_can_be_as_short_and_as_long_as_asked_for(recipe, num_steps):
    config, _ = parse(flags.FlagValues(), f"--config={recipe}", f"--config.num_steps={num_steps}")
    assert 0 <= config.r_max_start_step < config.r_max_end_step
    assert 0 <= config.d_max_start_step < config.d_max_end_step <= max(1, num_steps)


def test_a_whole_number_serves_as_a_number_and_data_dir_can_be_set(flag_values):
    config, _ = parse(flag_values, "--config.learning_rate=1", "--config.data_dir=/data")
    assert (config.learning_rate, config.data_dir) == (1.0, "/data")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        (
            "--config.nrom=none",
            "--config.nrom=none: there is no config key 'nrom'. Did you mean 'norm'?",
        ),
        ("--config.norm_momentum=2", "--config.norm_momentum must be from 0 to 1, received 2.0."),
        ("--config.learning_rate=1e300", "--config.learning_rate must be finite and at most "),
        ("--config.num_steps=99999999999999999999999", "--config.num_steps must be at most 21474"),
        ("-config", "--config needs a value: few_labels, "),
        ("--config.norm.x=1", "--config.norm.x=1: there is no config key 'norm.x'."),
        ("--config.num_steps=1e3", "--config.num_steps must be a whole number, received '1e3'."),
        ("--config.num_steps=a: b", "--config.num_steps must be a whole number, received 'a"),
        (
            "--config.learning_rate=fast",
            "--config.learning_rate must be a number, received 'fast'.",
        ),
        ("--config.augment=perhaps", "--config.augment must be true or false, received 'perhaps'."),
        (
            "--config.norm=instance",
            "--config.norm must be one of batch_renorm, batch_norm, skip_init, none",
        ),
        ("--config", "--config needs a value: few_labels, "),
        ("--config.seed", "Missing value for flag --config.seed."),
        (
            "--wrkdir=x",
            "There is no flag --wrkdir. Did you mean 'workdir'? --help lists the flags.",
        ),
    ],
)
def test_a_mistake_is_answered_with_what_is_allowed(flag_values, argument, message):
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        parse(flag_values, argument)


def test_flags_may_come_from_a_file(flag_values, tmp_path):
    (tmp_path / "flags").write_text("--config=resnet20\n# a remark\n--config.num_steps=450\n")
    config, _ = parse(flag_values, f"--flagfile={tmp_path / 'flags'}", "--config.seed=1")
    assert config.to_dict() == load_recipe("resnet20").to_dict() | TIMES_OF_450 | {
        "num_steps": 450,
        "seed": 1,
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "Unable to open flagfile"), ("--config.nmu=2", "--config.nmu=2: there is no")],
)
def test_a_bad_file_of_flags_is_a_users_mistake(flag_values, tmp_path, text, message):
    if text:
        (tmp_path / "flags").write_text(text)
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        parse(flag_values, f"--flagfile={tmp_path / 'flags'}")


def test_what_is_not_a_flag_is_refused(flag_values):
    _, rest = parse(flag_values, "runs/a")
    with pytest.raises(
        UserError, match=r"^'runs/a' is not a flag: flags look like --name=value\.$"
    ):
        arguments.no_arguments(rest)
    arguments.no_arguments(["program"])


def test_a_required_flag_is_asked_for():
    with pytest.raises(
        UserError, match=r"^--workdir is missing: add it, as in --workdir=runs/a\.$"
    ):
        arguments.required("workdir", None, "runs/a")
    assert arguments.required("workdir", "here", "runs/a") == "here"


def test_the_next_flag_is_no_value():
    message = (
        "--workdir=--config.seed=1 looks like a flag: write --workdir=runs/a, or "
        "--workdir=./--config.seed=1 for a folder of that name."
    )
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        arguments.required("workdir", "--config.seed=1", "runs/a")
    assert arguments.required("workdir", "./--a", "runs/a") == "./--a"
