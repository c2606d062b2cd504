"""The keys of a training config: what each is for, its default, and what it may be."""

import dataclasses
import json
import math
import textwrap
from collections.abc import Callable
from typing import Any, NamedTuple

from zoo.errors import UserError, nearest

# What a config can hold: TensorFlow counts in 32 bits here and there and computes in float32.
_LARGEST_INT = 2**31 - 1
_LARGEST_FLOAT = 3.4028235e38
_TYPES: dict[type, tuple[Any, str]] = {
    int: (int, "a whole number"),
    float: (int | float, "a number"),
    bool: (bool, "true or false"),
    str: (str, "a string"),
}
_HELP_COLUMNS = 100


class Allowed(NamedTuple):
    """What a key takes: in words, as a question, and, of strings, the list."""

    words: str
    holds: Callable[[Any], bool]
    choices: tuple[str, ...] = ()


def _one_of(*choices: str) -> Allowed:
    """Returns what allows these strings."""
    return Allowed(f"one of {', '.join(choices)}", choices.__contains__, choices)


_ABOVE_0 = Allowed("above 0", lambda value: value > 0)
_AT_LEAST_0 = Allowed("at least 0", lambda value: value >= 0)
_AT_LEAST_1 = Allowed("at least 1", lambda value: value >= 1)
_BELOW_1 = Allowed("at least 0 and below 1", lambda value: 0 <= value < 1)
_TO_1 = Allowed("from 0 to 1", lambda value: 0 <= value <= 1)
_SEEDS = Allowed(f"from 0 to {_LARGEST_INT}", lambda value: 0 <= value <= _LARGEST_INT)


@dataclasses.dataclass(frozen=True)
class Key:
    """A key of the config.

    Attributes:
        name: As in `--config.NAME=VALUE`.
        default: Its value where a recipe has none of its own. None is a string that is not given.
        help: What it is, for `--help`.
        allowed: None where other code knows.
        scaled: How a time that grows with num_steps is rounded; None for other keys.
        free: Whether a run may be resumed with another value: the key touches no number of it.
    """

    name: str
    default: Any
    help: str = ""
    allowed: Allowed | None = None
    scaled: Callable[[float], int] | None = None
    free: bool = False

    @property
    def kind(self) -> type:
        """The type of its values."""
        return str if self.default is None else type(self.default)

    @property
    def type_name(self) -> str:
        """What a value must be, in words."""
        return _TYPES[self.kind][1]

    def described(self) -> str:
        """Returns its default, and as a comment what it is and takes: a line, or some more."""
        value = json.dumps(self.default) if isinstance(self.default, str) else self.default
        words = f"{self.allowed.words.capitalize()}." if self.allowed else ""
        line, comment = f"{self.name} = {value}", f"{self.help} {words}".strip()
        if len(f"{line}  # {comment}") <= _HELP_COLUMNS:
            return f"{line}  # {comment}" if comment else line
        above = textwrap.wrap(f"# {comment}", _HELP_COLUMNS, subsequent_indent="# ")
        return "\n".join([*above, line])

    def check_type(self, value: Any, label: str) -> None:
        """Raises a `UserError` when a value has another type, or is too large.

        Args:
            value: What was received.
            label: What the message calls the key.
        """
        if value is None and self.default is None:
            return
        # To Python, True is a whole number.
        allowed = isinstance(value, bool) == (self.kind is bool)
        if not allowed or not isinstance(value, _TYPES[self.kind][0]):
            raise UserError(f"{label} must be {self.type_name}, received {value!r}.")
        if self.kind is int and value > _LARGEST_INT:
            raise UserError(f"{label} must be at most {_LARGEST_INT}, received {value}.")
        if self.kind is float and not abs(value) <= _LARGEST_FLOAT:
            raise UserError(
                f"{label} must be finite and at most {_LARGEST_FLOAT:g}, received {value}."
            )

    def check(self, value: Any) -> None:
        """Raises a `UserError` when a value has another type, or is not allowed."""
        self.check_type(value, f"--config.{self.name}")
        if self.allowed and not self.allowed.holds(value):
            raise UserError(
                f"--config.{self.name} must be {self.allowed.words}, received {value!r}."
                f"{nearest(str(value), self.allowed.choices)}"
            )


# The layers check their own, too, but do not know what the config calls them.
_GROUPS: tuple[tuple[Key, ...], ...] = (
    (Key("seed", 0, "Of the initial weights, the minibatches, their augmentation.", _SEEDS),),
    (
        Key("model", "resnet20", "One of zoo.list_models()."),
        Key("norm", "batch_renorm", "", _one_of("batch_renorm", "batch_norm", "skip_init", "none")),
        Key("norm_momentum", 0.99, "Of the moving statistics: 1 - the papers' alpha.", _TO_1),
        Key("norm_epsilon", 1e-3, "", _ABOVE_0),
        Key("synchronized", False, "Whether a minibatch's moments are those of all replicas."),
        Key("virtual_batch_size", 0, "Images normalized together; 0: all.", _AT_LEAST_0),
        Key("freeze_statistics_at_step", 0, "The moving ones; 0: never.", _AT_LEAST_0, math.floor),
        Key("r_max", 3.0, "The limit of r; 1, and d_max 0, is Batch Norm.", _AT_LEAST_1),
        Key("r_max_start_step", 0, "From here it rises from 1, in a line.", None, math.floor),
        Key("r_max_end_step", 1000, "To here; 0 to 0: always r_max.", None, math.ceil),
        Key("d_max", 5.0, "The limit of d.", _AT_LEAST_0),
        Key("d_max_start_step", 0, "From here it rises from 0, in a line.", None, math.floor),
        Key("d_max_end_step", 1000, "To here; 0 to 0: always d_max.", None, math.ceil),
        Key(
            "skip_init_value",
            "zero",
            "Only for skip_init: the learnable scale of each residual branch at first; "
            "inverse_sqrt_depth is 1 / sqrt(number of residual blocks).",
            _one_of("zero", "inverse_sqrt_depth", "one"),
        ),
    ),
    (
        Key("dataset", "fashion_mnist_subset"),
        Key("data_dir", None, "Of TensorFlow Datasets; None is its own.", free=True),
        Key("minibatches", "iid", "What is together.", _one_of("iid", "few_labels")),
        Key("labels_per_batch", 2, "How many labels a few_labels minibatch has.", _AT_LEAST_1),
        Key("batch_size", 128, "Images of a minibatch, of all replicas together.", _AT_LEAST_1),
        Key("augment", False, "Random crops of the padded image, and flips."),
    ),
    (
        Key("num_steps", 1000, "", _AT_LEAST_1),
        Key("learning_rate", 0.1, "", _ABOVE_0),
        Key("learning_rate_schedule", "cosine", "Down to 0.", _one_of("cosine", "constant")),
        Key("warmup_steps", 0, "The rate rises from 0 over these.", _AT_LEAST_0, math.floor),
        Key("sgd_momentum", 0.9, "", _BELOW_1),
        Key("auxiliary_weight", 0.4, "Of Inceptions' second loss; 0: without it.", _AT_LEAST_0),
        Key("weight_decay", 0.0, "L2: half of it times the kernels' squares.", _AT_LEAST_0),
    ),
    (
        Key(
            "strategy",
            "none",
            "mirrored: several devices of this machine; multi_worker: several processes, each with "
            "its TF_CONFIG and devices.",
            _one_of("none", "mirrored", "multi_worker"),
        ),
        Key("num_replicas", 2, "Only for mirrored: GPUs, or logical CPU devices.", _AT_LEAST_1),
    ),
    (
        Key("log_every_steps", 50, "", _AT_LEAST_1, free=True),
        Key("eval_every_steps", 500, "", _AT_LEAST_1, math.ceil, free=True),
        Key("eval_batch_size", 500, "", _AT_LEAST_1, free=True),
        Key("checkpoint_every_steps", 500, "", _AT_LEAST_1, free=True),
        Key("checkpoint_every_minutes", 0.0, "As well; 0: by steps only.", _AT_LEAST_0, free=True),
        Key("keep_checkpoints", 2, "The newest so many, undamaged ones.", _AT_LEAST_1, free=True),
        Key("keep_every_steps", 0, "Multiples that stay, too; 0: none.", _AT_LEAST_0, free=True),
        Key("keep_best", False, "Whether that of the best test accuracy stays, too.", free=True),
    ),
)

KEYS: dict[str, Key] = {key.name: key for group in _GROUPS for key in group}


def key_help() -> str:
    """Returns what `--help` says of the keys, a paragraph for those that belong together."""
    return "\n\n".join("\n".join(map(Key.described, group)) for group in _GROUPS)
