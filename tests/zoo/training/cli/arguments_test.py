import re

import pytest
from absl import flags

from zoo.errors import UserError
from zoo.training.cli import arguments
from zoo.training.cli.recipes import load_recipe
from zoo.training.config import default_config
from zoo.training.times import in_steps


@pytest.fixture
def flag_values():
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "A folder.", values)
    return values


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
    expected = load_recipe("resnet20").to_dict() | {"norm": "none", "num_steps": 450}
    defaults = default_config().to_dict()
    limits = {key: defaults[key] for key in defaults if re.match("[rd]_max", key)}
    assert config.to_dict() == expected | limits | {"augment": False}


@pytest.mark.parametrize(("text", "value"), [("9", 9), ("0.5", 0.5), ("1e-2", 0.01), ("0", 0)])
def test_a_time_is_steps_or_with_a_point_a_share(flag_values, text, value):
    config, _ = parse(flag_values, f"--config.warmup_steps={text}")
    assert (type(config.warmup_steps), config.warmup_steps) == (type(value), value)


def test_numbers_that_may_be_left_out_can_be_given(flag_values):
    config, _ = parse(flag_values, "--config.r_max=2", "--config.r_max_ramp=0.1,2000")
    assert (config.r_max, config.r_max_ramp, config.d_max) == (2.0, "0.1,2000", None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--config.norm=none", "--config.virtual_batch_size=2"],
            "--config.virtual_batch_size ",
        ),
        (["--config.norm=none", "--config.synchronized"], "--config.synchronized has no effect wi"),
        (
            ["--config.norm=batch_norm", "--config.r_max=3"],
            "--config.r_max has no effect with norm",
        ),
        (["--config.num_replicas=2"], "--config.num_replicas has no effect with strategy=none: it"),
        (
            ["--config.nesterov", "--config.optimizer=adam"],
            "--config.nesterov has no effect ",
        ),
        (
            ["--config.beta_2=0.9"],
            "--config.beta_2 has no effect with optimizer=sgd: it is ",
        ),
    ],
)
def test_contradictions_are_refused(flag_values, arguments, message):
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        parse(flag_values, *arguments)


def test_a_recipes_own_ramps_do_not_stand_in_the_way_of_another_norm(flag_values):
    config, _ = parse(flag_values, "--config=resnet20", "--config.norm=batch_norm")
    assert load_recipe("resnet20").r_max == 3.0
    assert (config.norm, config.r_max) == ("batch_norm", None)


INCEPTION = "--config=inception_v3_imagenet"


@pytest.mark.parametrize(
    ("argument", "gauges"),
    [("strategy=multi_worker", 0), ("norm=none", 0), ("norm=batch_norm", 0.005), ("seed=1", 0.005)],
)
def test_a_recipes_own_gauges_give_way(flag_values, argument, gauges):
    config, _ = parse(flag_values, INCEPTION, f"--config.{argument}")
    assert config.gauges_every_steps == gauges


OWN_NORM = """
from zoo.training.config import default_config

def get_config():
    config = default_config()
    config.update(norm="batch_norm", num_steps=1000, freeze_statistics_at_step=500)
    config.update(weights="a.keras", initial_statistics="frozen", norm_momentum=0.9)
    config.update(augment=True, crop="inception", crop_area=0.5)
    return config
"""


def test_what_a_recipe_says_of_own_images_gives_way_to_those_of_the_package(flag_values, tmp_path):
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "from zoo.training.config import default_config\n"
        "def get_config():\n"
        "    config = default_config()\n"
        "    config.dataset, config.data_dir = 'folder', 'photos'\n"
        "    config.held_out, config.skip_bad_files = 0.4, True\n"
        "    return config\n"
    )
    own, _ = parse(flag_values, f"--config={recipe}")
    assert (own["held_out"], own["skip_bad_files"]) == (0.4, True)
    packaged = "--config.dataset=fashion_mnist_subset"
    config, _ = parse(flags.FlagValues(), f"--config={recipe}", packaged)
    defaults = default_config()
    for key in ("data_dir", "held_out", "skip_bad_files"):
        assert config[key] == defaults[key]


def test_what_a_recipe_sets_gives_way_to_what_leaves_it_without_an_effect(flag_values, tmp_path):
    recipe = tmp_path / "recipe.py"
    recipe.write_text(OWN_NORM)
    more = ["--config.norm=none", "--config.augment=false"]
    config, _ = parse(flag_values, f"--config={recipe}", *more)
    defaults = default_config()
    for key in ("freeze_statistics_at_step", "initial_statistics", "norm_momentum", "crop"):
        assert config[key] == defaults[key]
    assert config.crop_area == defaults.crop_area
    assert (config.num_steps, config.weights) == (1000, "a.keras")


@pytest.mark.parametrize("argument", ["norm_momentum=0.5", "norm_momentum=0.99"])
def test_what_the_command_line_sets_does_not_give_way(flag_values, tmp_path, argument):
    recipe = tmp_path / "recipe.py"
    recipe.write_text(OWN_NORM)
    with pytest.raises(UserError, match=r"^--config\.norm_momentum has no effect with norm=none"):
        parse(flag_values, f"--config={recipe}", "--config.norm=none", f"--config.{argument}")


def test_gauges_that_are_asked_for_do_not_give_way(flag_values):
    with pytest.raises(UserError, match=r"^--config\.gauges_every_steps must be 0 unless strate"):
        parse(flag_values, INCEPTION, "--config.strategy=mirrored", "--config.gauges_every_steps=1")


@pytest.mark.parametrize(
    "key", ["r_max", "r_max_ramp", "d_max", "d_max_ramp", "auxiliary_weight", "pixels"]
)
def test_none_takes_back_what_a_recipe_gives(flag_values, key):
    config, _ = parse(flag_values, INCEPTION, f"--config.{key}=None")
    before = load_recipe("inception_v3_imagenet").to_dict()
    assert before[key] is not None
    assert config.to_dict() == before | {key: None}


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("r_max=none", "r_max must be a number, received 'none'."),
        ("momentum=None", "momentum must be a number, received 'None'."),
        ("warmup_steps=None", "warmup_steps must be a number of steps, or a share of num_steps "),
    ],
)
def test_none_is_for_keys_that_may_be_left_out(flag_values, argument, message):
    with pytest.raises(UserError, match=f"^--config.{re.escape(message)}"):
        parse(flag_values, f"--config.{argument}")


@pytest.mark.parametrize("num_steps", [1, 2, 7, 16_000])
@pytest.mark.parametrize("recipe", ["few_labels", "norm_batch", "resnet20"])
def test_every_recipe_can_be_as_short_and_as_long_as_asked_for(recipe, num_steps):
    config, _ = parse(flags.FlagValues(), f"--config={recipe}", f"--config.num_steps={num_steps}")
    steps = in_steps(config)
    assert 0 <= steps["warmup_steps"] < num_steps
    assert 1 <= steps["eval_every_steps"] <= max(500, num_steps)


def test_a_whole_number_serves_as_a_number_and_data_dir_can_be_set(flag_values):
    config, _ = parse(
        flag_values,
        "--config.learning_rate=1",
        "--config.dataset=mnist",
        "--config.data_dir=/data",
    )
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
    assert config.to_dict() == load_recipe("resnet20").to_dict() | {
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


def test_steps_of_a_profile_are_two_numbers():
    assert arguments.two_steps("profile_steps", None, 9) is None
    assert arguments.two_steps("profile_steps", "3,5", 5) == (3, 5)
    for text in ("", "3", "5,3", "0,2", "a,b", "1,2,3", "1,-2"):
        message = (
            "--profile_steps must be the first and the last step, such as 100,110, received "
            f"{text!r}."
        )
        with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
            arguments.two_steps("profile_steps", text, 9)
    with pytest.raises(
        UserError, match=r"^--profile_steps must be at most num_steps \(4\), receive"
    ):
        arguments.two_steps("profile_steps", "3,5", 4)
