"""The training config: its keys, their defaults and what they may be.

A config is a flat, locked `ml_collections.ConfigDict`.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import config_dict

from zoo.errors import UserError, nearest


def default_config() -> config_dict.ConfigDict:
    """Returns the config that recipes start from, with every key there is.

    It takes every key and every value: `zoo.training.cli.recipes.load_recipe` looks at those that a
    recipe gives, and has clearer messages than a ConfigDict that is locked and knows its types.
    """
    config = config_dict.ConfigDict(type_safe=False)

    config.seed = 0  # Of the initial weights, the minibatches and their augmentation.

    config.model = "resnet20"  # One of zoo.list_models().
    config.norm = "batch_renorm"  # Or "batch_norm", "skip_init", or "none".
    config.norm_momentum = 0.99  # Of the moving statistics; the papers' alpha is 1 - momentum.
    config.norm_epsilon = 1e-3
    config.synchronized = False  # Whether a minibatch's moments are those of all replicas.
    config.virtual_batch_size = 0  # Images that are normalized together; 0 is the whole minibatch.
    config.freeze_statistics_at_step = 0  # From here on the moving ones, constant; 0 is never.
    # Batch Renorm's limits: r_max goes from 1, and d_max from 0, to the value given here in a
    # straight line between two steps. With 1 and 0 from the beginning it is Batch Norm.
    config.r_max = 3.0
    config.r_max_start_step = 0
    config.r_max_end_step = 1000
    config.d_max = 5.0
    config.d_max_start_step = 0
    config.d_max_end_step = 1000
    # The learnable scale of each residual branch at first, only for "skip_init": "zero", "one", or
    # "inverse_sqrt_depth", which is 1 / sqrt(number of residual blocks).
    config.skip_init_value = "zero"

    config.dataset = "fashion_mnist_subset"
    config.data_dir = config_dict.placeholder(str)  # Of TensorFlow Datasets; None is its own.
    config.minibatches = "iid"  # Or "few_labels": each holds only labels_per_batch labels.
    config.labels_per_batch = 2  # Only for "few_labels".
    config.batch_size = 128
    config.augment = False  # Random crops of the padded image, and flips.

    config.num_steps = 1000
    config.learning_rate = 0.1
    config.learning_rate_schedule = "cosine"  # To zero at num_steps; or "constant".
    config.warmup_steps = 0  # The rate rises from zero in a straight line over these.
    config.sgd_momentum = 0.9
    config.auxiliary_weight = 0.4  # Of the loss of Inceptions' second classifier; 0: without it.
    config.weight_decay = 0.0  # L2: half of it times the sum of the squared kernels is minimised.

    # Where to compute; batch_size is that of all replicas together. Or "mirrored": several devices
    # of this machine. Or "multi_worker": several processes, each with its TF_CONFIG and devices.
    config.strategy = "none"
    config.num_replicas = 2  # Only for "mirrored": GPUs, or logical CPU devices without a GPU.

    config.log_every_steps = 50
    config.eval_every_steps = 500
    config.eval_batch_size = 500
    config.checkpoint_every_steps = 500
    return config


_CHOICES = {
    "norm": ("batch_renorm", "batch_norm", "skip_init", "none"),
    "skip_init_value": ("zero", "inverse_sqrt_depth", "one"),
    "minibatches": ("iid", "few_labels"),
    "learning_rate_schedule": ("cosine", "constant"),
    "strategy": ("none", "mirrored", "multi_worker"),
}

# The layers check theirs, too, but do not know what the config calls them.
_RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "seed": (lambda value: 0 <= value < 2**31, "from 0 to 2147483647"),
    "norm_momentum": (lambda value: 0 <= value <= 1, "from 0 to 1"),
    "norm_epsilon": (lambda value: value > 0, "above 0"),
    "r_max": (lambda value: value >= 1, "at least 1"),
    "d_max": (lambda value: value >= 0, "at least 0"),
    "learning_rate": (lambda value: value > 0, "above 0"),
    "sgd_momentum": (lambda value: 0 <= value < 1, "at least 0 and below 1"),
    "weight_decay": (lambda value: value >= 0, "at least 0"),
    "auxiliary_weight": (lambda value: value >= 0, "at least 0"),
    "warmup_steps": (lambda value: value >= 0, "at least 0"),
    "virtual_batch_size": (lambda value: value >= 0, "at least 0"),
    "freeze_statistics_at_step": (lambda value: value >= 0, "at least 0"),
} | {
    key: (lambda value: value >= 1, "at least 1")
    for key in (
        "batch_size",
        "labels_per_batch",
        "num_replicas",
        "num_steps",
        "log_every_steps",
        "eval_every_steps",
        "eval_batch_size",
        "checkpoint_every_steps",
    )
}

# What a config can hold: TensorFlow counts in 32 bits here and there and computes in float32.
_LARGEST_INT = 2**31 - 1
_LARGEST_FLOAT = 3.4028235e38

TYPE_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}
_ALLOWED: dict[type, Any] = {int: int, float: int | float, bool: bool, str: str}


def key_help() -> str:
    """Returns the keys with their defaults and what is said of each, as `default_config` has it."""
    lines = inspect.getsource(default_config).splitlines()
    first = next(i for i, line in enumerate(lines) if "config.seed" in line)
    keys = [line.strip().removeprefix("config.") for line in lines[first:-1]]
    return "\n".join(keys).replace("config_dict.placeholder(str)", "None")


@functools.cache
def types() -> dict[str, type]:
    """Returns the type of every key's values; that of data_dir can be None, too."""
    config = default_config()
    return {key: config.get_type(key) for key in config}


def check_key(key: str, where: str = "") -> None:
    """Raises a `UserError` that suggests the nearest key when `key` is not one.

    Args:
        key: What was received.
        where: The beginning of the message.
    """
    keys = default_config().keys()
    if key not in keys:
        hint = nearest(key, keys) or f" Keys are {', '.join(sorted(keys))}."
        raise UserError(f"{where}there is no config key {key!r}.{hint}")


def check_value(key: str, value: Any, name: str) -> None:
    """Raises a `UserError` when a value has another type than its key's, or is too large.

    Args:
        key: One of the config's.
        value: What was received.
        name: What the message calls the key.
    """
    kind = types()[key]
    if value is None and key == "data_dir":
        return
    # To Python, True is a whole number.
    if not isinstance(value, _ALLOWED[kind]) or (isinstance(value, bool) and kind is not bool):
        raise UserError(f"{name} must be {TYPE_NAMES[kind]}, received {value!r}.")
    if kind is int and value > _LARGEST_INT:
        raise UserError(f"{name} must be at most {_LARGEST_INT}, received {value}.")
    if kind is float and not abs(value) <= _LARGEST_FLOAT:
        raise UserError(f"{name} must be finite and at most {_LARGEST_FLOAT:g}, received {value}.")


def check_values(config: Mapping[str, Any]) -> None:
    """Raises a `UserError` when a value is outside its range or not one of the choices."""
    for key, value in config.items():
        check_value(key, value, f"--config.{key}")
    for key, choices in _CHOICES.items():
        if config[key] not in choices:
            raise UserError(
                f"--config.{key} must be one of {', '.join(choices)}, received "
                f"{config[key]!r}.{nearest(config[key], choices)}"
            )
    for key, (allowed, words) in _RANGES.items():
        if not allowed(config[key]):
            raise UserError(f"--config.{key} must be {words}, received {config[key]}.")
    if config["warmup_steps"] >= config["num_steps"]:
        raise UserError(
            f"--config.warmup_steps must be below num_steps ({config['num_steps']}), received "
            f"{config['warmup_steps']}."
        )
    if config["freeze_statistics_at_step"] >= config["num_steps"]:
        raise UserError(
            f"--config.freeze_statistics_at_step must be below num_steps ({config['num_steps']}), "
            f"received {config['freeze_statistics_at_step']}."
        )
    if config["freeze_statistics_at_step"] and config["norm"] in ("none", "skip_init"):
        raise UserError(
            f"--config.freeze_statistics_at_step must be 0 with --config.norm={config['norm']}, "
            f"which has no statistics, received {config['freeze_statistics_at_step']}."
        )
    if config["strategy"] == "mirrored" and config["num_replicas"] > config["batch_size"]:
        raise UserError(
            f"--config.num_replicas must be at most batch_size ({config['batch_size']}), received "
            f"{config['num_replicas']}."
        )


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Returns {key: (value there, value here)} for the keys in which two configs differ.

    A key that a config does not have counts as "not set".
    """
    values = {
        key: (there.get(key, "not set"), here.get(key, "not set")) for key in {**there, **here}
    }
    return {key: pair for key, pair in sorted(values.items()) if pair[0] != pair[1]}


def listed(different: Mapping[str, tuple[Any, Any]], there: str, here: str) -> str:
    """Returns what `differences` found in words, such as `norm (there 'none', here 'batch_norm')`.

    Args:
        different: The values by key.
        there: What the first of the two configs is called.
        here: What the second is called.
    """
    return ", ".join(
        f"{key} ({there} {first!r}, {here} {second!r})"
        for key, (first, second) in different.items()
    )
