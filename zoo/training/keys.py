"""The keys of a training config: what each is for, its default, and what it may be."""

import dataclasses
import json
import math
import textwrap
from collections.abc import Callable
from typing import Any, NamedTuple

from zoo.errors import UserError, nearest

# What a config can hold: TensorFlow counts in 32 bits here and there and computes in float32,
# in which smaller numbers are 0.
_LARGEST_INT = 2**31 - 1
_LARGEST_FLOAT = 3.4028235e38
_LEAST_FLOAT = 1.1754944e-38
_TYPES: dict[type, tuple[Any, str]] = {
    int: (int, "a whole number"),
    float: (int | float, "a number"),
    bool: (bool, "true or false"),
    str: (str, "a string"),
}
_HELP_COLUMNS = 100
_A_TIME = "a number of steps, or a share of num_steps such as 0.05"


class Allowed(NamedTuple):
    """What a key takes: in words, as a question, and, of strings, the list."""

    words: str
    holds: Callable[[Any], bool]
    choices: tuple[str, ...] = ()


def _one_of(*choices: str, path: bool = False) -> Allowed:
    """Returns what allows these strings, and perhaps an import path."""

    def holds(value: str) -> bool:
        return value in choices or (path and ":" in value)

    return Allowed(f"one of {', '.join(choices)}", holds, choices)


_ABOVE_0 = Allowed("above 0", lambda value: value > 0)
_AT_LEAST_0 = Allowed("at least 0", lambda value: value >= 0)
_AT_LEAST_1 = Allowed("at least 1", lambda value: value >= 1)
_BELOW_1 = Allowed("at least 0 and below 1", lambda value: 0 <= value < 1)
_TO_1 = Allowed("from 0 to 1", lambda value: 0 <= value <= 1)
_INSIDE = Allowed("above 0 and below 1", lambda value: 0 < value < 1)
_SHARES = Allowed("above 0 and at most 1", lambda value: 0 < value <= 1)
_SIZES = Allowed("from 0 to 8192", lambda value: 0 <= value <= 8192)
_CHANNELS = Allowed("0, 1 or 3", (0, 1, 3).__contains__)
_INTERPOLATIONS = ("bilinear", "bicubic", "area", "lanczos3", "nearest")
_PIXELS = _one_of("unit", "tf", "caffe")
_SEEDS = Allowed(f"from 0 to {_LARGEST_INT}", lambda value: 0 <= value <= _LARGEST_INT)


@dataclasses.dataclass(frozen=True)
class Key:
    """A key of the config.

    Attributes:
        name: As in `--config.NAME=VALUE`.
        default: Its value where a recipe has none of its own. None is one that is not given.
        help: What it is, for `--help`.
        allowed: None where other code knows.
        time: How a time is rounded that is a share of num_steps, as a number with a point is; None
            for keys that are no times.
        optional: The type of a value that may be None; None for other keys.
        only: The key, and the values of it, with which this one has an effect.
        free: Whether a run may be resumed with another value: the key touches no number of it.
    """

    name: str
    default: Any
    help: str = ""
    allowed: Allowed | None = None
    time: Callable[[float], int] | None = None
    optional: type | None = None
    only: tuple[str, tuple[Any, ...]] | None = None
    free: bool = False

    @property
    def kind(self) -> type:
        """The type of its values."""
        if self.default is None:
            return self.optional or str
        return type(self.default)

    @property
    def type_name(self) -> str:
        """What a value must be, in words."""
        return _A_TIME if self.time else _TYPES[self.kind][1]

    @property
    def condition(self) -> str:
        """With what it has an effect, as `norm=batch_renorm or batch_norm`."""
        other, values = self.only or ("", ())
        return f"{other}={' or '.join(map(str, values))}"

    def described(self) -> str:
        """Returns its default, and as a comment what it is and takes: a line, or some more."""
        value = json.dumps(self.default) if isinstance(self.default, str) else self.default
        words = f"{self.allowed.words.capitalize()}." if self.allowed else ""
        if self.only is not None:
            words = f"{words} For {self.condition}.".strip()
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
        if not allowed or not isinstance(value, int | float if self.time else _TYPES[self.kind][0]):
            raise UserError(f"{label} must be {self.type_name}, received {value!r}.")
        if self.time and isinstance(value, float) and not 0 <= value <= 1:
            raise UserError(f"{label} must be from 0 to 1 as a share, received {value}.")
        if isinstance(value, int) and value > _LARGEST_INT and self.kind is int:
            raise UserError(f"{label} must be at most {_LARGEST_INT}, received {value}.")
        if self.kind is float and not abs(value) <= _LARGEST_FLOAT:
            raise UserError(
                f"{label} must be finite and at most {_LARGEST_FLOAT:g}, received {value}."
            )
        if self.kind is float and 0 < abs(value) < _LEAST_FLOAT:
            raise UserError(
                f"{label} must be 0 or at least {_LEAST_FLOAT:g}, received {value}, which is 0 in "
                "float32."
            )

    def check(self, value: Any) -> None:
        """Raises a `UserError` when a value has another type, or is not allowed."""
        self.check_type(value, f"--config.{self.name}")
        if value is not None and self.allowed and not self.allowed.holds(value):
            raise UserError(
                f"--config.{self.name} must be {self.allowed.words}, received {value!r}."
                f"{nearest(str(value), self.allowed.choices)}"
            )


def read_time(text: str) -> int | float | None:
    """Returns the time that a text means: steps, or a share where it has a point; None if none."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return None


_NORMS = ("norm", ("batch_renorm", "batch_norm"))
_RENORM = ("norm", ("batch_renorm",))
_AUGMENTED = ("augment", (True,))
_INCEPTION = ("crop", ("inception",))
_DECAYING = ("learning_rate_schedule", ("cosine", "polynomial"))

# The layers check their own, too, but do not know what the config calls them.
_GROUPS: tuple[tuple[Key, ...], ...] = (
    (Key("seed", 0, "Of the initial weights, the minibatches, their augmentation.", _SEEDS),),
    (
        Key("model", "resnet20", "One of zoo.list. Or an import path of your own, module:name."),
        Key("norm", "batch_renorm", "", _one_of("batch_renorm", "batch_norm", "skip_init", "none")),
        Key("norm_momentum", 0.99, "Of the moving statistics: 1 - the papers' alpha.", _TO_1),
        Key("norm_epsilon", None, "0.001, or that of weights.", _ABOVE_0, optional=float),
        Key("norm_scale", True, "Whether gamma is learned, or 1.", only=_NORMS),
        Key("synchronized", False, "Whether moments are those of all replicas.", only=_NORMS),
        Key(
            "virtual_batch_size",
            0,
            "Images normalized together; 0: all.",
            _AT_LEAST_0,
            only=_NORMS,
        ),
        Key("freeze_statistics_at_step", 0, "0: never.", _AT_LEAST_0, time=math.floor, only=_NORMS),
        Key(
            "r_max",
            None,
            "The limit of r. By default the layer's: up to 3, as it needs.",
            _AT_LEAST_1,
            optional=float,
            only=_RENORM,
        ),
        Key(
            "r_max_ramp",
            None,
            "Two times, such as 0.05,0.35: between them it rises from 1 to r_max, or 3.",
            only=_RENORM,
        ),
        Key(
            "d_max",
            None,
            "The limit of d. By default the layer's: up to 5, as it needs.",
            _AT_LEAST_0,
            optional=float,
            only=_RENORM,
        ),
        Key(
            "d_max_ramp",
            None,
            "Two times, as of r_max: it rises from 0 to d_max, or 5.",
            only=_RENORM,
        ),
        Key(
            "skip_init_value",
            "zero",
            "The learnable scale of each residual branch at first; "
            "inverse_sqrt_depth is 1 / sqrt(number of residual blocks).",
            _one_of("zero", "inverse_sqrt_depth", "one"),
            only=("norm", ("skip_init",)),
        ),
        Key("dropout_rate", None, "Before the classifier.", _BELOW_1, optional=float),
        Key(
            "auxiliary_weight",
            None,
            "Of Inceptions' second loss, 0.4 by default; 0: without it.",
            _AT_LEAST_0,
            optional=float,
        ),
    ),
    (
        Key("weights", None, "To begin with: a name of zoo.list, a .h5 or a .keras file."),
        Key("freeze", None, "Patterns of layers' names, such as stem*,stage1*: not trained."),
        Key(
            "initial_statistics",
            "kept",
            "Of the weights: kept, computed anew of training images, or kept for ever.",
            _one_of("kept", "precise", "frozen"),
            only=_NORMS,
        ),
        Key("head_rate_factor", 1.0, "Times the learning rate, for the classifier.", _AT_LEAST_0),
    ),
    (
        Key(
            "dataset",
            "fashion_mnist_subset",
            "A set of TensorFlow Datasets, folder, or an import path of your own, module:name.",
        ),
        Key("data_dir", None, "Of TensorFlow Datasets, or of class folders.", free=True),
        Key("minibatches", "iid", "What is together.", _one_of("iid", "few_labels")),
        Key(
            "labels_per_batch",
            2,
            "How many labels a few_labels minibatch has.",
            _AT_LEAST_1,
            only=("minibatches", ("few_labels",)),
        ),
        Key("batch_size", 128, "Images of a minibatch, of all replicas together.", _AT_LEAST_1),
    ),
    (
        Key("held_out", 0.2, "Share for evaluation of images without a split for it.", _INSIDE),
        Key("skip_bad_files", False, "Whether to leave out, not refuse, what is no whole image."),
        Key("image_size", 0, "Height and width to resize to; 0: as stored.", _SIZES),
        Key("image_channels", 0, "3, 1 for grey, or 0: as stored.", _CHANNELS),
        Key("interpolation", "bilinear", "Of what is resized.", _one_of(*_INTERPOLATIONS)),
        Key("eval_crop_share", 1.0, "Side of the middle square that is evaluated.", _SHARES),
        Key("pixels", None, "Mapped to [0, 1], [-1, 1] or BGR; as weights need.", _PIXELS),
    ),
    (
        Key("augment", False, "Random crops, and flips."),
        Key(
            "crop",
            "pad",
            "Of the padded image, or Inception's.",
            _one_of("pad", "inception"),
            only=_AUGMENTED,
        ),
        Key("flip", True, "Of half of the images, left to right.", only=_AUGMENTED),
        Key("crop_area", 0.08, "Least share of the image.", _SHARES, only=_INCEPTION),
        Key("crop_aspect", 4 / 3, "Largest width over height.", _AT_LEAST_1, only=_INCEPTION),
        Key("colour_strength", 0.0, "Of random colours; 1: as Inception's.", _TO_1),
        Key("rand_augment", 0.0, "Strength of RandAugment's two operations; 0: none.", _TO_1),
        Key("erasing", 0.0, "Share of the images of which a box is erased.", _TO_1),
        Key("mixup_alpha", 0.0, "0: no mixup.", _AT_LEAST_0),
        Key("cutmix_alpha", 0.0, "0: no cutmix; with both, one of them at a time.", _AT_LEAST_0),
    ),
    (
        Key("num_steps", 1000, "", _AT_LEAST_1),
        Key("learning_rate", 0.1, "", _ABOVE_0),
        Key("learning_rate_batch_size", 0, "That it is for; 0: any. Scaled to yours.", _AT_LEAST_0),
        Key(
            "learning_rate_schedule",
            "cosine",
            "After the warm-up. Or an import path of your own, as module:name.",
            _one_of("constant", "cosine", "exponential", "piecewise", "polynomial", path=True),
        ),
        Key("learning_rate_end", 0.0, "Share of it at the end.", _AT_LEAST_0, only=_DECAYING),
        Key(
            "polynomial_power", 1.0, "", _ABOVE_0, only=("learning_rate_schedule", ("polynomial",))
        ),
        Key(
            "decay_every_steps",
            0.01,
            "When it is multiplied by decay_factor.",
            _ABOVE_0,
            time=math.ceil,
            only=("learning_rate_schedule", ("exponential",)),
        ),
        Key(
            "decay_at_steps",
            "0.5,0.75",
            "Times at which it is multiplied by decay_factor.",
            only=("learning_rate_schedule", ("piecewise",)),
        ),
        Key(
            "decay_factor",
            0.1,
            "",
            _ABOVE_0,
            only=("learning_rate_schedule", ("exponential", "piecewise")),
        ),
        Key(
            "decay_smoothly",
            False,
            "And not in stairs.",
            only=("learning_rate_schedule", ("exponential",)),
        ),
        Key("warmup_steps", 0, "The rate rises from 0 over these.", _AT_LEAST_0, time=math.floor),
    ),
    (
        Key(
            "optimizer",
            "sgd",
            "Keras's. Or an import path of your own, as module:name.",
            _one_of("sgd", "rmsprop", "adam", "adamw", "lamb", path=True),
        ),
        Key("momentum", 0.9, "", _BELOW_1, only=("optimizer", ("sgd", "rmsprop"))),
        Key("nesterov", False, "", only=("optimizer", ("sgd",))),
        Key("rho", 0.9, "Of the squares' average.", _BELOW_1, only=("optimizer", ("rmsprop",))),
        Key("beta_1", 0.9, "", _BELOW_1, only=("optimizer", ("adam", "adamw", "lamb"))),
        Key("beta_2", 0.999, "", _BELOW_1, only=("optimizer", ("adam", "adamw", "lamb"))),
        Key(
            "optimizer_epsilon",
            None,
            "By default Keras's.",
            _ABOVE_0,
            optional=float,
            only=("optimizer", ("rmsprop", "adam", "adamw", "lamb")),
        ),
        Key(
            "weight_decay",
            0.0,
            "Of kernels, not gamma, beta and biases: half of it times their squares in the loss; "
            "with adamw and lamb beside the gradient.",
            _AT_LEAST_0,
        ),
        Key("clip_norm", 0.0, "Of all gradients together; 0: as they are.", _AT_LEAST_0),
        Key("label_smoothing", 0.0, "Share of the label that all classes get.", _BELOW_1),
        Key("accumulate", 1, "Parts of a minibatch, one after the other.", _AT_LEAST_1),
        Key(
            "average_decay",
            0.0,
            "Of averages of all weights and statistics; 0: none.",
            _BELOW_1,
        ),
    ),
    (
        Key(
            "precision",
            "float32",
            "Of the layers' computations; weights are float32.",
            _one_of("float32", "bfloat16", "float16"),
        ),
        Key("jit", False, "Whether XLA compiles the step."),
    ),
    (
        Key(
            "strategy",
            "none",
            "mirrored: several devices of this machine; multi_worker: several processes, each with "
            "its TF_CONFIG and devices.",
            _one_of("none", "mirrored", "multi_worker"),
        ),
        Key(
            "num_replicas",
            2,
            "GPUs, or logical CPU devices.",
            _AT_LEAST_1,
            only=("strategy", ("mirrored",)),
        ),
    ),
    (
        Key("log_every_steps", 50, "", _ABOVE_0, time=math.ceil, free=True),
        Key("eval_every_steps", 500, "", _ABOVE_0, time=math.ceil, free=True),
        Key("eval_batch_size", 500, "", _AT_LEAST_1, free=True),
        Key("gauges_every_steps", 0, "0: never.", _AT_LEAST_0, time=math.ceil, free=True),
        Key("checkpoint_every_steps", 500, "", _ABOVE_0, time=math.ceil, free=True),
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
