import re

import pytest

from zoo.errors import UserError
from zoo.training import config as configs


def changed(**values):
    return configs.default_config().to_dict() | values


def test_the_defaults_pass_their_own_checks():
    configs.check_values(configs.default_config())


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("lerning_rate", r"Did you mean 'learning_rate'\?"),
        ("xyz", r"Keys are accumulate, .*, weights\."),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest_or_with_all(key, answer):
    with pytest.raises(UserError, match=rf"^x: there is no config key '{key}'\. {answer}$"):
        configs.check_key(key, "x: ")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "norm",
            "batchnorm",
            "--config.norm must be one of batch_renorm, batch_norm, skip_init, none, received "
            "'batchnorm'. Did you mean 'batch_norm'?",
        ),
        (
            "skip_init_value",
            "0.5",
            "--config.skip_init_value must be one of zero, inverse_sqrt_depth, one, received "
            "'0.5'.",
        ),
        (
            "minibatches",
            "random",
            "--config.minibatches must be one of iid, few_labels, received 'random'.",
        ),
        (
            "learning_rate_schedule",
            "cosin",
            "--config.learning_rate_schedule must be one of constant, cosine, exponential, "
            "piecewise, polynomial, received 'cosin'. "
            "Did you mean 'cosine'?",
        ),
        ("learning_rate", 0.0, "--config.learning_rate must be above 0, received 0.0."),
        ("d_max", float("nan"), "--config.d_max must be finite and at most 3.40282e+38, received "),
        ("r_max", float("inf"), "--config.r_max must be finite and at most 3.40282e+38, received "),
        (
            "learning_rate",
            1e300,
            "--config.learning_rate must be finite and at most 3.40282e+38, received 1e+300.",
        ),
        (
            "num_steps",
            2**31,
            "--config.num_steps must be at most 2147483647, received 2147483648.",
        ),
        (
            "eval_batch_size",
            10**30,
            "--config.eval_batch_size must be at most 2147483647, received 1000",
        ),
        ("warmup_steps", 10**30, "--config.warmup_steps must be at most 2147483647, received 1000"),
        (
            "warmup_steps",
            1.5,
            "--config.warmup_steps must be from 0 to 1 as a share, received",
        ),
        ("learning_rate", 1e-50, "--config.learning_rate must be 0 or at least 1.17549e-38, recei"),
        (
            "warmup_steps",
            "5",
            "--config.warmup_steps must be a number of steps, or a share of num_steps such as 0.05",
        ),
        ("accumulate", 3, "--config.accumulate must divide batch_size (128), received 3."),
        (
            "optimizer",
            "adamx",
            "--config.optimizer must be one of sgd, rmsprop, adam, adamw,",
        ),
        ("num_steps", None, "--config.num_steps must be a whole number, received None."),
        ("num_steps", True, "--config.num_steps must be a whole number, received True."),
        ("seed", 2**31, "--config.seed must be at most 2147483647, received 2147483648."),
        ("seed", -1, "--config.seed must be from 0 to 2147483647, received -1."),
        ("momentum", 1.0, "--config.momentum must be at least 0 and below 1, received 1.0"),
        ("norm_momentum", 2.0, "--config.norm_momentum must be from 0 to 1, received 2.0."),
        ("norm_epsilon", 0.0, "--config.norm_epsilon must be above 0, received 0.0."),
        ("r_max", 0.5, "--config.r_max must be at least 1, received 0.5."),
        ("d_max", -1.0, "--config.d_max must be at least 0, received -1.0."),
        ("weight_decay", -1e-4, "--config.weight_decay must be at least 0, received -0.0001."),
        ("num_steps", 0, "--config.num_steps must be at least 1, received 0."),
        ("batch_size", 0, "--config.batch_size must be at least 1, received 0."),
        ("eval_every_steps", 0, "--config.eval_every_steps must be above 0, received 0."),
        (
            "warmup_steps",
            1000,
            "--config.warmup_steps must be below num_steps (1000), received 1000.",
        ),
        (
            "freeze_statistics_at_step",
            1000,
            "--config.freeze_statistics_at_step must be below num_steps (1000), received 1000.",
        ),
        (
            "strategy",
            "miror",
            "--config.strategy must be one of none, mirrored, multi_worker, received 'miror'. "
            "Did you mean 'mirrored'?",
        ),
        ("num_replicas", 0, "--config.num_replicas must be at least 1, received 0."),
        ("warmup_steps", -1, "--config.warmup_steps must be at least 0, received -1."),
    ],
)
def test_a_bad_value_is_answered_with_what_is_allowed(key, value, message):
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        configs.check_values(changed(**{key: value}))


def test_a_replica_needs_an_example():
    values = changed(strategy="mirrored", num_replicas=9, batch_size=8)
    message = "--config.num_replicas must be at most batch_size (8), received 9."
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        configs.check_values(values)
    configs.check_values(values | {"num_replicas": 8})


@pytest.mark.parametrize("norm", ["none", "skip_init"])
def test_there_must_be_statistics_to_freeze(norm):
    message = (
        f"--config.freeze_statistics_at_step has no effect with norm={norm}: it is for "
        "norm=batch_renorm or batch_norm. Leave it out, or change norm."
    )
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        configs.check_values(changed(norm=norm, freeze_statistics_at_step=5))
    configs.check_values(changed(norm=norm))
    configs.check_values(changed(norm="batch_norm", freeze_statistics_at_step=5))


def test_differences_name_keys_and_both_values():
    assert configs.differences({"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 5, "d": 4}) == {
        "b": (2, 5),
        "c": (3, "not set"),
        "d": ("not set", 4),
    }
    assert configs.differences(changed(), changed()) == {}


def test_differences_in_words():
    different = configs.differences({"a": 1, "b": "x"}, {"a": 2, "b": "y"})
    assert configs.listed(different, "there", "here") == (
        "a (there 1, here 2), b (there 'x', here 'y')"
    )


def test_changes_are_sorted_by_what_they_mean():
    there = changed(num_steps=100)
    here = changed(num_steps=200, data_dir="/b", norm="none")
    found = configs.changes(there, here)
    assert found.refused == {"norm": ("batch_renorm", "none")}
    assert found.allowed == {"data_dir": (None, "/b")}
    assert found.longer == {"num_steps": (100, 200)}
    assert configs.changes(here, there).refused.keys() == {"norm", "num_steps"}
    assert configs.changes({}, changed()) == configs.Changes({}, {}, {})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"r_max_ramp": "0.35,0.05"},
            "--config.r_max_ramp must be two times, the later one second, such as 0.05,0.35 or "
            "150,1050, or paper, received '0.35,0.05': 350, 50 steps.",
        ),
        (
            {"d_max_ramp": "5"},
            "--config.d_max_ramp must be two times, the later one second, such as 0.05,0.35 or "
            "150,1050, or paper, received '5': 5 steps.",
        ),
        (
            {"r_max_ramp": "0.1;0.2"},
            "--config.r_max_ramp must be times with commas between, each a number of steps or a "
            "share of num_steps, such as 0.05,0.35, received '0.1;0.2'.",
        ),
        (
            {"learning_rate_schedule": "piecewise", "decay_at_steps": "0.5,0.5"},
            "--config.decay_at_steps must grow and be after the warm-up of 0 steps, such as "
            "0.5,0.75, received '0.5,0.5': 500, 500 steps.",
        ),
        (
            {"data_dir": "photos"},
            "--config.data_dir has no effect with dataset=fashion_mnist_subset, which comes with "
            "the package, received 'photos'. Leave it out, or give --config.dataset.",
        ),
        (
            {"held_out": 0.3},
            "--config.held_out has no effect with dataset=fashion_mnist_subset, which comes with "
            "the package, received 0.3. Leave it out, or give --config.dataset.",
        ),
        (
            {"skip_bad_files": True},
            "--config.skip_bad_files has no effect with dataset=fashion_mnist_subset, which comes "
            "with the package, received True. Leave it out, or give --config.dataset.",
        ),
        (
            {"initial_statistics": "frozen"},
            "--config.initial_statistics=frozen has no effect without weights. Leave it out, or "
            "give --config.weights.",
        ),
        (
            {
                "weights": "model.keras",
                "initial_statistics": "frozen",
                "freeze_statistics_at_step": 5,
            },
            "--config.freeze_statistics_at_step has no effect with initial_statistics=frozen, "
            "which freezes them from the first step: give one of the two, received 5.",
        ),
        (
            {
                "learning_rate_schedule": "piecewise",
                "decay_factor": 1e30,
                "decay_at_steps": "0.5,0.75",
            },
            "--config.decay_factor=1e+30 must leave a learning rate below 3e+38; it multiplies the "
            "peak of 0.1 2 times.",
        ),
        (
            {
                "learning_rate_schedule": "exponential",
                "decay_factor": 1000.0,
                "decay_every_steps": 0.02,
            },
            "--config.decay_factor=1000 must leave a learning rate below 3e+38; it multiplies the "
            "peak of 0.1 50 times.",
        ),
        (
            {"learning_rate": 9.0, "learning_rate_schedule": "cosine", "learning_rate_end": 2e38},
            "--config.learning_rate_end=2e+38 must leave a learning rate below 3e+38; it "
            "multiplies the peak of 9 1 times.",
        ),
        (
            {"initial_statistics": "precise", "strategy": "mirrored"},
            "--config.initial_statistics=precise is for strategy=none, received mirrored.",
        ),
        (
            {"virtual_batch_size": 4, "synchronized": True},
            "--config.virtual_batch_size splits a replica's minibatch, --config.synchronized joins "
            "those of all replicas: give one of the two, received 4 and True.",
        ),
        (
            {"optimizer": "mine:make", "head_rate_factor": 2.0},
            "--config.head_rate_factor must be 1 with an optimizer of your own, received 2.0.",
        ),
        (
            {"gauges_every_steps": 5, "norm": "none"},
            "--config.gauges_every_steps must be 0 unless strategy=none and the norm has "
            "statistics, received strategy=none and norm=none.",
        ),
        (
            {"strategy": "mirrored", "num_replicas": 2, "batch_size": 8, "accumulate": 8},
            "--config.accumulate x replicas must be at most batch_size (8), received 8 x 2.",
        ),
        (
            {"learning_rate": 1e37, "learning_rate_batch_size": 1, "batch_size": 60},
            "--config.learning_rate, with batch_size / learning_rate_batch_size, must be below "
            "3e+38, received 6e+38.",
        ),
        (
            {"virtual_batch_size": 4, "batch_size": 12, "accumulate": 4},
            "--config.virtual_batch_size must be at most the images that are normalized at once, "
            "3: batch_size (12) over accumulate (4) x replicas (1). Received 4. Write 0 to "
            "normalize all of them together.",
        ),
        (
            {"virtual_batch_size": 4, "strategy": "mirrored", "num_replicas": 3, "batch_size": 9},
            "--config.virtual_batch_size must be at most the images that are normalized at once, 3",
        ),
        (
            {"jit": True, "synchronized": True, "strategy": "mirrored"},
            "--config.jit compiles each replica's passes, and synchronized moments travel between "
            "the replicas within them: give one of the two, or strategy=none.",
        ),
    ],
)
def test_values_that_do_not_go_together_are_refused(values, message):
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        configs.check_values(changed(**values))


def test_a_part_of_each_replica_needs_a_row():
    values = changed(strategy="mirrored", num_replicas=3, batch_size=8, accumulate=2)
    configs.check_values(values)  # of 2, 3 and 3 rows
    configs.check_parts(values, replicas=4)
    message = r"--config\.accumulate x replicas must be at most batch_size \(8\), received 2 x 5\."
    with pytest.raises(UserError, match=f"^{message}$"):
        configs.check_parts(values, replicas=5)


@pytest.mark.parametrize(
    ("key", "value"), [("virtual_batch_size", 2), ("norm_momentum", 0.9), ("norm_epsilon", 0.1)]
)
def test_a_key_without_an_effect_is_refused(key, value):
    message = (
        f"--config.{key} has no effect with norm=none: it is for norm=batch_renorm or batch_norm. "
        "Leave it out, or change norm."
    )
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        configs.check_values(changed(norm="none", **{key: value}))
    configs.check_values(changed(norm="batch_norm", **{key: value}))
