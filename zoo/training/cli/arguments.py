"""The command line: absl's flags, and a config that can be changed key by key."""

import argparse
import re

from absl import flags
from ml_collections import config_dict, config_flags

from zoo.errors import UserError, nearest
from zoo.training.cli.recipes import DEFAULT_RECIPE, load_recipe, recipes
from zoo.training.config import check_key, check_values, has_gauges, without_effect
from zoo.training.keys import KEYS

PIXELS = ("unit", "tf", "caffe", "raw")
"""What the flag `--pixels` takes, for models that do not say it themselves."""

PIXELS_HELP = (
    "What a .keras file takes that does not say so: from 0 to 1 (unit), from -1 to 1 (tf), BGR "
    "without means (caffe), from 0 to 255 (raw)."
)


def parse_arguments(
    argv: list[str], flag_values: flags.FlagValues = flags.FLAGS
) -> tuple[config_dict.ConfigDict, list[str]]:
    """Parses `--config=RECIPE`, `--config.KEY=VALUE` and every other absl flag.

    Args:
        argv: The program's name and its arguments; a `--flagfile` among them holds more.
        flag_values: Where the program's other flags are defined.

    Returns:
        The checked config, and `argv` without flags.

    Raises:
        UserError: When the recipe, a key or a value is not one.
    """
    recipe, argv = _split_recipe(_with_flagfiles(argv, flag_values))
    config, given = load_recipe(recipe), set()
    own = {name for name, key in KEYS.items() if config[name] != key.default}
    for argument in argv[1:]:
        if override := re.match(r"--?(?:no)?config\.([^=]*)", argument):
            check_key(override[1], f"{argument}: ")
            given.add(override[1])
    with config.unlocked():
        for name in _AS_TEXTS:  # so that a flag may give steps or a share, or None
            text = str(config[name])
            del config[name]  # its type would stay
            config[name] = text
    config_flags.DEFINE_config_dict(
        "config",
        config,
        "A recipe's name or file; --config.KEY=VALUE sets a key.",
        flag_values,
        sys_argv=argv,
    )
    rest = parse_flags(argv, config, flag_values)
    _read_texts(config)
    _give_way(config, given, own - given)
    check_values(config, given)
    return config, rest


def _give_way(config: config_dict.ConfigDict, given: set[str], own: set[str]) -> None:
    """Takes back what only the recipe sets, where a flag leaves it without an effect.

    So a recipe's limits do not stand in the way of another norm, nor its gauges of several devices.
    """
    changed = set(given)
    with config.ignore_type():
        for name, other in without_effect(config):
            if name in own and other in changed:
                config[name] = KEYS[name].default
                changed.add(name)
        if "gauges_every_steps" in own and given & {"norm", "strategy"}:
            config.gauges_every_steps = config.gauges_every_steps if has_gauges(config) else 0


def _with_flagfiles(argv: list[str], flag_values: flags.FlagValues) -> list[str]:
    """Returns `argv` with the flags of each `--flagfile` in its place."""
    try:
        return argv[:1] + flag_values.read_flags_from_files(argv[1:], force_gnu=False)
    except flags.Error as error:
        raise UserError(f"{str(error).removeprefix('ERROR:: ')}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"A --flagfile must be a text of flags in UTF-8: {error}.") from error


_AS_TEXTS = [name for name, key in KEYS.items() if key.time or key.default is None]


def _read_texts(config: config_dict.ConfigDict) -> None:
    """Turns what flags gave as texts into the values that they mean."""
    for name in _AS_TEXTS:
        value = KEYS[name].read(config[name])
        with config.ignore_type():
            config[name] = value


def _split_recipe(argv: list[str]) -> tuple[str, list[str]]:
    """Returns the value of --config, wherever it stands, and `argv` without it."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config", default=DEFAULT_RECIPE)
    # Like every flag of absl's, it may have one dash.
    arguments = [re.sub(r"^-(?=config(=|$))", "--", argument) for argument in argv[1:]]
    try:
        known, others = parser.parse_known_args(arguments)
    except argparse.ArgumentError:
        raise UserError(f"--config needs a value: {', '.join(recipes())} or a file.") from None
    return known.config, argv[:1] + others


def parse_flags(
    argv: list[str],
    config: config_dict.ConfigDict | None = None,
    flag_values: flags.FlagValues = flags.FLAGS,
) -> list[str]:
    """Parses absl's flags and returns what is left of `argv`.

    Args:
        argv: The program's name and its arguments.
        config: The config whose keys can be set with `--config.KEY=VALUE`.
        flag_values: Where the flags are defined.

    Raises:
        UserError: When a flag is unknown or its value has the wrong type.
    """
    argv = _with_flagfiles(argv, flag_values)
    try:
        return list(flag_values(argv))
    except flags.UnrecognizedFlagError as error:
        raise UserError(
            f"There is no flag --{error.flagname}.{nearest(error.flagname, flag_values)} "
            "--help lists the flags."
        ) from error
    except flags.Error as error:
        override = re.match(r"flag (--config\.(\w+))=(.*?): ", str(error), re.DOTALL)
        if override is None or config is None:
            raise UserError(f"{error}.") from error
        flag, key, value = override.groups()
        wanted = KEYS[key].type_name
        raise UserError(f"{flag} must be {wanted}, received {value!r}.") from error


def no_arguments(rest: list[str]) -> None:
    """Raises a `UserError` when something is left of the command line that is not a flag.

    Args:
        rest: `argv` without flags.
    """
    if len(rest) > 1:
        raise UserError(f"{rest[1]!r} is not a flag: flags look like --name=value.")


def required(name: str, value: str | None, example: str) -> str:
    """Returns the value of a flag that must be given.

    Args:
        name: The flag's name.
        value: What was received.
        example: A value to show when there is none.

    Raises:
        UserError: When there is no value, or one that must have been meant as a flag.
    """
    if not value:
        raise UserError(f"--{name} is missing: add it, as in --{name}={example}.")
    if value.startswith("-"):
        raise UserError(
            f"--{name}={value} looks like a flag: write --{name}={example}, or --{name}=./{value} "
            "for a folder of that name."
        )
    return value


def two_steps(name: str, value: str | None, num_steps: int) -> tuple[int, int] | None:
    """Returns the first and the last step that a flag gives, as A,B; None where it gives none.

    Args:
        name: The flag's name.
        value: What was received.
        num_steps: Number of steps of the run.

    Raises:
        UserError: When they are not two whole numbers from 1 to `num_steps`, in order.
    """
    if value is None:
        return None
    found = re.fullmatch(r"([1-9]\d*),([1-9]\d*)", value)
    if found is None or int(found[1]) > int(found[2]):
        raise UserError(
            f"--{name} must be the first and the last step, such as 100,110, received {value!r}."
        )
    if int(found[2]) > num_steps:
        raise UserError(f"--{name} must be at most num_steps ({num_steps}), received {value!r}.")
    return int(found[1]), int(found[2])
