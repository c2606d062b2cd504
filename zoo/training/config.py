"""The training config: defaults, checks, and how two of them differ.

A config is a flat, locked `ml_collections.ConfigDict` with the keys of `zoo.training.keys`.
"""

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

from ml_collections import config_dict

from zoo.errors import UserError, nearest
from zoo.training import times
from zoo.training.imports import is_path
from zoo.training.keys import KEYS

#: Learning rates are below this: float32 ends there.
_LARGEST = 3e38

#: Keys without an effect on the images of the package.
_FOR_OWN_IMAGES = ("data_dir", "held_out", "skip_bad_files")


def default_config() -> config_dict.ConfigDict:
    """Returns the config that recipes start from, with every key there is.

    It takes every key and every value: `zoo.training.cli.recipes.load_recipe` checks those of a
    recipe, with clearer messages than a locked, typed ConfigDict has.
    """
    values = {
        name: config_dict.placeholder(key.kind) if key.default is None else key.default
        for name, key in KEYS.items()
    }
    return config_dict.ConfigDict(values, type_safe=False)


def check_key(key: str, where: str = "") -> None:
    """Raises a `UserError` that suggests the nearest key when `key` is not one.

    Args:
        key: What was received.
        where: The beginning of the message.
    """
    if key not in KEYS:
        hint = nearest(key, KEYS) or f" Keys are {', '.join(sorted(KEYS))}."
        raise UserError(f"{where}there is no config key {key!r}.{hint}")


def check_values(config: Mapping[str, Any], given: Collection[str] = ()) -> None:
    """Raises a `UserError` when a value is not allowed, or does not go with another one.

    Args:
        config: The config.
        given: Keys of the command line, which must have an effect even with their default values.
    """
    for name, key in KEYS.items():
        key.check(config[name])
    _check_times(config)
    _check_packaged(config, given)
    _check_effects(config, given)
    _check_statistics(config)
    _check_step(config)


def _check_packaged(config: Mapping[str, Any], given: Collection[str]) -> None:
    """Raises a `UserError` for a key that is for images of one's own, with those of the package."""
    packaged = KEYS["dataset"].default
    for name in _FOR_OWN_IMAGES:
        asked = name in given or config[name] != KEYS[name].default
        if asked and config["dataset"] == packaged:
            raise UserError(
                f"--config.{name} has no effect with dataset={packaged}, which comes with the "
                f"package, received {config[name]!r}. Leave it out, or give --config.dataset."
            )


def _check_times(config: Mapping[str, Any]) -> None:
    """Raises a `UserError` for times that do not follow each other."""
    for name in ("warmup_steps", "freeze_statistics_at_step"):
        if times.in_steps(config)[name] >= config["num_steps"]:
            raise UserError(
                f"--config.{name} must be below num_steps ({config['num_steps']}), received "
                f"{config[name]}."
            )
    for name in ("r_max_ramp", "d_max_ramp"):
        times.ramp(config, name)
    if config["learning_rate_schedule"] == "piecewise":
        times.decay_steps(config)


def has_gauges(config: Mapping[str, Any]) -> bool:
    """Whether gauges can be recorded: of a norm with statistics, on one device."""
    return config["strategy"] == "none" and not _without_statistics(config)


def peak_rate(config: Mapping[str, Any]) -> float:
    """Returns the highest learning rate: as given, or in proportion to the minibatch's size.

    Source: Goyal et al. 2017, section 2.1.
    """
    given_for = config["learning_rate_batch_size"]
    rate = float(config["learning_rate"])
    return rate * config["batch_size"] / given_for if given_for else rate


def _without_statistics(config: Mapping[str, Any]) -> bool:
    return config["norm"] in ("none", "skip_init")


def _check_statistics(config: Mapping[str, Any]) -> None:
    """Raises a `UserError` for keys about statistics that the norm or strategy does not allow."""
    if config["gauges_every_steps"] and not has_gauges(config):
        raise UserError(
            "--config.gauges_every_steps must be 0 unless strategy=none and the norm has "
            f"statistics, received strategy={config['strategy']} and norm={config['norm']}."
        )
    if config["virtual_batch_size"] and config["synchronized"]:
        raise UserError(
            "--config.virtual_batch_size splits a replica's minibatch, --config.synchronized joins "
            "those of all replicas: give one of the two, received "
            f"{config['virtual_batch_size']} and True."
        )
    if config["initial_statistics"] == "precise" and config["strategy"] != "none":
        raise UserError(
            "--config.initial_statistics=precise is for strategy=none, received "
            f"{config['strategy']}. Compute the statistics with zoo.recalibrate, and give the "
            "file that it writes as weights."
        )
    if config["initial_statistics"] == "frozen" and config["freeze_statistics_at_step"]:
        raise UserError(
            "--config.freeze_statistics_at_step has no effect with initial_statistics=frozen, "
            "which freezes them from the first step: give one of the two, received "
            f"{config['freeze_statistics_at_step']}."
        )
    if config["initial_statistics"] != "kept" and config["weights"] is None:
        raise UserError(
            f"--config.initial_statistics={config['initial_statistics']} has no effect without "
            "weights. Leave it out, or give --config.weights."
        )


def _check_step(config: Mapping[str, Any]) -> None:
    """Raises a `UserError` for a step that cannot be divided or done as asked."""
    if config["batch_size"] % config["accumulate"]:
        raise UserError(
            f"--config.accumulate must divide batch_size ({config['batch_size']}), received "
            f"{config['accumulate']}."
        )
    if config["strategy"] == "mirrored" and config["num_replicas"] > config["batch_size"]:
        raise UserError(
            f"--config.num_replicas must be at most batch_size ({config['batch_size']}), received "
            f"{config['num_replicas']}."
        )
    if not peak_rate(config) < _LARGEST:
        raise UserError(
            "--config.learning_rate, with batch_size / learning_rate_batch_size, must be below "
            f"{_LARGEST:g}, received {peak_rate(config):g}."
        )
    _check_growth(config)
    if config["strategy"] in ("none", "mirrored"):
        check_parts(config, config["num_replicas"] if config["strategy"] == "mirrored" else 1)
    if config["jit"] and config["synchronized"] and config["strategy"] != "none":
        raise UserError(
            "--config.jit compiles each replica's passes, and synchronized moments travel between "
            "the replicas within them: give one of the two, or strategy=none."
        )
    if is_path(config["optimizer"]) and config["head_rate_factor"] != 1:
        raise UserError(
            "--config.head_rate_factor must be 1 with an optimizer of your own, received "
            f"{config['head_rate_factor']}."
        )


def _check_growth(config: Mapping[str, Any]) -> None:
    """Raises a `UserError` for a schedule that takes the learning rate beyond float32."""
    peak, schedule = peak_rate(config), config["learning_rate_schedule"]
    decays, ends = 0.0, float(schedule in ("cosine", "polynomial"))
    if schedule == "piecewise":
        decays = len(times.decay_steps(config))
    elif schedule == "exponential":
        steps = times.in_steps(config)
        decays = (config["num_steps"] - steps["warmup_steps"]) / steps["decay_every_steps"]
    for key, count in (("decay_factor", decays), ("learning_rate_end", ends)):
        # By logarithms, because the power may be beyond float64 as well.
        if not math.log(peak) + count * math.log(max(config[key], 1.0)) < math.log(_LARGEST):
            raise UserError(
                f"--config.{key}={config[key]:g} must leave a learning rate below {_LARGEST:g}; it "
                f"multiplies the peak of {peak:g} {count:g} times."
            )


def check_parts(config: Mapping[str, Any], replicas: int) -> None:
    """Raises a `UserError` unless each part of each replica's rows has a row, and a whole ghost.

    Args:
        config: The config.
        replicas: How many there are.
    """
    parts = config["accumulate"] * replicas
    if parts > config["batch_size"]:
        raise UserError(
            "--config.accumulate x replicas must be at most batch_size "
            f"({config['batch_size']}), received {config['accumulate']} x {replicas}."
        )
    if config["virtual_batch_size"] > config["batch_size"] // parts:
        raise UserError(
            "--config.virtual_batch_size must be at most the images that are normalized at once, "
            f"{config['batch_size'] // parts}: batch_size ({config['batch_size']}) over "
            f"accumulate ({config['accumulate']}) x replicas ({replicas}). Received "
            f"{config['virtual_batch_size']}. Write 0 to normalize all of them together."
        )


def _check_effects(config: Mapping[str, Any], given: Collection[str]) -> None:
    """Raises a `UserError` for a key that has no effect with the others."""
    for name, other in without_effect(config):
        if name in given or config[name] != KEYS[name].default:
            raise UserError(
                f"--config.{name} has no effect with {other}={config[other]}: it is for "
                f"{KEYS[name].condition}. Leave it out, or change {other}."
            )


def without_effect(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yields `(key, other)` for keys that have no effect, because of the value of the key `other`.

    The config may change while this goes on.
    """
    for name, key in KEYS.items():
        if key.only is not None and config[key.only[0]] not in key.only[1]:
            yield name, key.only[0]
        elif name in _FOR_OWN_IMAGES and config["dataset"] == KEYS["dataset"].default:
            yield name, "dataset"


class Changes(NamedTuple):
    """How the config of a resumed run differs from that of the run so far.

    Attributes:
        refused: What would make it another run.
        allowed: What does not touch its numbers.
        longer: What a greater `num_steps` changes, itself included.
    """

    refused: dict[str, tuple[Any, Any]]
    allowed: dict[str, tuple[Any, Any]]
    longer: dict[str, tuple[Any, Any]]


def changes(there: Mapping[str, Any], here: Mapping[str, Any]) -> Changes:
    """Returns how two configs differ, by what the difference means for a run that is resumed.

    Args:
        there: The config of the run so far. A key that it lacks was added by a later release, whose
            default leaves the run as it is.
        here: The config of the run from now on.
    """
    defaults = {name: key.default for name, key in KEYS.items()}
    found = differences(defaults | dict(there), defaults | dict(here))
    steps, more = (config.get("num_steps", defaults["num_steps"]) for config in (there, here))
    sorts = Changes({}, {}, {})
    for name, pair in found.items():
        if name in KEYS and KEYS[name].free:
            sorts.allowed[name] = pair
        elif name == "num_steps" and more > steps:
            sorts.longer[name] = pair
        else:
            sorts.refused[name] = pair
    return sorts


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
