"""Times of a config: steps, or shares of the run."""

import itertools
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from zoo.errors import UserError
from zoo.training.key import read_time, rounded_up
from zoo.training.keys import KEYS

#: A ramp in the proportions of the paper.
PAPER = "paper"


def in_steps(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the config with every time in steps, also those given as shares of num_steps."""
    times = {name: _steps(config, config[name], key.time) for name, key in KEYS.items() if key.time}
    return {**config, **times}


def _steps(config: Mapping[str, Any], value: float, rounded: Callable[[float], int]) -> int:
    """Returns a time in steps, a share rounded as the key says."""
    if isinstance(value, int) or value == 0:
        return int(value)
    # 0.29 * 100 is 28.999999999999996.
    return rounded(round(value * config["num_steps"], 6))


def ramp(config: Mapping[str, Any], name: str) -> tuple[int, int] | None:
    """Returns the steps at which a ramp begins and ends; None where there is none.

    "paper" stands for the proportions of the Batch Renormalization paper, but not before the moving
    statistics have settled: see `keras_renorm.schedules.paper`.

    Raises:
        UserError: When it is neither that nor two times, the later one second.
    """
    if config[name] is None:
        return None
    if config[name] == PAPER:
        return _ramp_of_paper(config, name)
    found = _times(config, name, math.floor, rounded_up)
    if len(found) != 2 or not found[0] < found[1]:
        raise UserError(
            f"--config.{name} must be two times, the later one second, such as 0.05,0.35 or "
            f"150,1050, or {PAPER}, received {config[name]!r}: {_listed(found)} steps."
        )
    return found[0], found[1]


def _ramp_of_paper(config: Mapping[str, Any], name: str) -> tuple[int, int]:
    from keras_renorm import schedules

    with warnings.catch_warnings():  # zoo.train's lint says it of limits that do not open
        warnings.simplefilter("ignore")
        r_max, d_max = schedules.paper(config["num_steps"], momentum=config["norm_momentum"])
    limit = {"r_max_ramp": r_max, "d_max_ramp": d_max}[name]
    return math.floor(limit.start_step), math.ceil(limit.end_step)


def decay_steps(config: Mapping[str, Any]) -> list[int]:
    """Returns the steps at which a piecewise constant learning rate falls.

    Raises:
        UserError: When they are no times, or do not grow.
    """
    found = _times(config, "decay_at_steps", math.floor)
    warmup = in_steps(config)["warmup_steps"]
    if sorted(set(found)) != found or found[0] <= warmup:
        raise UserError(
            f"--config.decay_at_steps must grow and be after the warm-up of {warmup} steps, such "
            f"as 0.5,0.75, received {config['decay_at_steps']!r}: {_listed(found)} steps."
        )
    return found


def _times(config: Mapping[str, Any], name: str, *rounded: Callable[[float], int]) -> list[int]:
    """Returns the times that a string lists, in steps; rounds shares in these ways in turn."""
    values = [read_time(text) for text in config[name].split(",")]
    for value in values:
        good = value is not None and value >= 0 and (isinstance(value, int) or value <= 1)
        if not good:
            raise UserError(
                f"--config.{name} must be times with commas between, each a number of steps or a "
                f"share of num_steps, such as 0.05,0.35, received {config[name]!r}."
            )
    ways = itertools.cycle(rounded)
    return [_steps(config, value, next(ways)) for value in values if value is not None]


def _listed(values: list[int]) -> str:
    return ", ".join(map(str, values))
