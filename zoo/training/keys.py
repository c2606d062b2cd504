"""The keys of a training config: the name, default, help and range of each."""

import math
import textwrap

from zoo.training.allowed import (
    ABOVE_0,
    ASPECTS,
    AT_LEAST_0,
    AT_LEAST_1,
    BELOW_1,
    CHANNELS,
    INSIDE,
    SEEDS,
    SHARES,
    SIZES,
    TO_1,
    one_of,
)
from zoo.training.key import Key, rounded_down, rounded_up

_INTERPOLATIONS = ("bilinear", "bicubic", "area", "lanczos3", "nearest")
_NORMS = ("norm", ("batch_renorm", "batch_norm"))
_RENORM = ("norm", ("batch_renorm",))
_AUGMENTED = ("augment", (True,))
_INCEPTION = ("crop", ("inception",))
_SCHEDULE = "learning_rate_schedule"
_TO_AN_END = (_SCHEDULE, ("cosine", "polynomial"))
_IN_STAIRS = (_SCHEDULE, ("exponential", "piecewise"))
_EXPONENTIAL = (_SCHEDULE, ("exponential",))
_ADAMS = ("optimizer", ("adam", "adamw", "lamb"))

# The layers check their own, too, but do not know what the config calls them.
GROUPS: dict[str, tuple[Key, ...]] = {
    "Run": (
        Key("seed", 0, "Decides initial weights, minibatches and augmentation.", SEEDS),
        Key("num_steps", 1000, "How many minibatches it is trained on.", AT_LEAST_1),
        Key(
            "precision",
            "float32",
            "The type that layers compute in. Weights are float32.",
            one_of("float32", "bfloat16", "float16"),
        ),
        Key("jit", False, "Whether XLA compiles the step."),
    ),
    "Model": (
        Key("model", "resnet20", "A name of zoo.list, or an import path of your own, module:name."),
        Key(
            "dropout_rate",
            None,
            "Before the classifier; by default the model's.",
            BELOW_1,
            optional=float,
        ),
        Key(
            "stochastic_depth_rate",
            0.0,
            "Share of the images that skip the last residual branch; the share rises linearly to "
            "it with depth.",
            BELOW_1,
        ),
        Key(
            "auxiliary_weight",
            None,
            "Weight of Inceptions' second loss: 0.4 by default, 0 for none.",
            AT_LEAST_0,
            optional=float,
        ),
    ),
    "Normalization": (
        Key(
            "norm",
            "batch_renorm",
            "The normalization layer.",
            one_of("batch_renorm", "batch_norm", "skip_init", "none"),
        ),
        Key(
            "norm_momentum",
            0.99,
            "The old value's weight in moving statistics: 1 - the papers' alpha.",
            TO_1,
            only=_NORMS,
        ),
        Key(
            "norm_epsilon",
            None,
            "Added to the variance. By default 0.001, or what the weights were trained with.",
            ABOVE_0,
            optional=float,
            only=_NORMS,
        ),
        Key("norm_scale", True, "Whether gamma is learned, or 1.", only=_NORMS),
        Key("synchronized", False, "Whether moments are those of all replicas.", only=_NORMS),
        Key(
            "virtual_batch_size",
            0,
            "How many images are normalized together. 0: all.",
            AT_LEAST_0,
            only=_NORMS,
        ),
        Key(
            "freeze_statistics_at_step",
            0,
            "From this step on training uses the moving statistics and leaves them as they "
            "are. 0: never.",
            AT_LEAST_0,
            time=rounded_down,
            only=_NORMS,
        ),
        Key(
            "r_max",
            None,
            "Limit of r. By default the layer's own, up to 3 as it needs.",
            AT_LEAST_1,
            optional=float,
            only=_RENORM,
        ),
        Key(
            "r_max_ramp",
            None,
            "Two times, such as 0.05,0.35: between them it rises from 1 to r_max, or 3. paper: in "
            "the paper's shares of the run, but not in the first 3 / (1 - norm_momentum) steps.",
            only=_RENORM,
        ),
        Key(
            "d_max",
            None,
            "Limit of d. By default the layer's own, up to 5 as it needs.",
            AT_LEAST_0,
            optional=float,
            only=_RENORM,
        ),
        Key(
            "d_max_ramp",
            None,
            "Two times or paper, as for r_max: it rises from 0 to d_max, or 5.",
            only=_RENORM,
        ),
        Key(
            "skip_init_value",
            "zero",
            "The learnable scale of each residual branch at first; "
            "inverse_sqrt_depth is 1 / sqrt(number of residual blocks).",
            one_of("zero", "inverse_sqrt_depth", "one"),
            only=("norm", ("skip_init",)),
        ),
    ),
    "Weights to begin with": (
        Key(
            "weights",
            None,
            "A name of zoo.list, or a .h5 or .keras file. By default fresh weights.",
        ),
        Key("freeze", None, "Patterns of layers' names, such as stem*,stage1*: not trained."),
        Key(
            "initial_statistics",
            "kept",
            "What happens to the statistics that come with the weights: training updates "
            "them (kept), they are first computed anew (precise), or they never change "
            "(frozen).",
            one_of("kept", "precise", "frozen"),
            only=_NORMS,
        ),
        Key("head_rate_factor", 1.0, "Multiplies the learning rate of the classifier.", AT_LEAST_0),
    ),
    "Images and minibatches": (
        Key(
            "dataset",
            "fashion_mnist_subset",
            "A set of TensorFlow Datasets, folder, or an import path of your own, module:name.",
        ),
        Key("data_dir", None, "The folder of TensorFlow Datasets, or of class folders.", free=True),
        Key(
            "minibatches",
            "iid",
            "iid: drawn from all images; few_labels: each from a few classes.",
            one_of("iid", "few_labels"),
        ),
        Key(
            "labels_per_batch",
            2,
            "How many labels a few_labels minibatch has.",
            AT_LEAST_1,
            only=("minibatches", ("few_labels",)),
        ),
        Key("batch_size", 128, "Images of a minibatch, of all replicas together.", AT_LEAST_1),
    ),
    "How images are prepared": (
        Key("held_out", 0.2, "Share of images to evaluate on, if no split is for it.", INSIDE),
        Key("skip_bad_files", False, "Whether to leave out unusable files, not refuse the set."),
        Key("image_size", 0, "Height and width to resize to; 0: as stored.", SIZES),
        Key("image_channels", 0, "3, or 1 for grey; 0: as weights need, or as stored.", CHANNELS),
        Key("interpolation", "bilinear", "How images are resized.", one_of(*_INTERPOLATIONS)),
        Key("eval_crop_share", 1.0, "Side of the evaluated middle, as a share.", SHARES),
        Key(
            "pixels",
            None,
            "What pixels are mapped to: [0, 1] (unit), [-1, 1] (tf), BGR without means "
            "(caffe), or nothing (raw). By default as the weights need.",
            one_of("unit", "tf", "caffe", "raw"),
        ),
    ),
    "Augmentation": (
        Key("augment", False, "Whether training images are cropped and flipped at random."),
        Key(
            "crop",
            "pad",
            "pad adds a border and cuts the size back out. inception cuts out a random part "
            "and resizes it.",
            one_of("pad", "inception"),
            only=_AUGMENTED,
        ),
        Key("flip", True, "Whether half of the images are mirrored.", only=_AUGMENTED),
        Key(
            "crop_area",
            0.08,
            "Smallest part of an image that an Inception crop may take, as a share of its area.",
            SHARES,
            only=_INCEPTION,
        ),
        Key(
            "crop_aspect",
            4 / 3,
            "Largest width over height of an Inception crop.",
            ASPECTS,
            only=_INCEPTION,
        ),
        Key("colour_strength", 0.0, "Strength of random colours. 1 is Inception's.", TO_1),
        Key("rand_augment", 0.0, "Strength of RandAugment's two operations; 0: none.", TO_1),
        Key("erasing", 0.0, "Share of the images in which a box is erased.", TO_1),
        Key(
            "mixup_alpha",
            0.0,
            "Alpha of the beta distribution from which mixup draws its shares. 0: no mixup.",
            AT_LEAST_0,
        ),
        Key(
            "cutmix_alpha",
            0.0,
            "The same for cutmix, which pastes a box of another image. If mixup is on, "
            "too, each minibatch uses one of the two.",
            AT_LEAST_0,
        ),
    ),
    "Learning rate": (
        Key("learning_rate", 0.1, "The highest learning rate of the run.", ABOVE_0),
        Key(
            "learning_rate_batch_size",
            0,
            "The minibatch that learning_rate is meant for. The rate is scaled in "
            "proportion to yours. 0: not scaled.",
            AT_LEAST_0,
        ),
        Key(
            "learning_rate_schedule",
            "cosine",
            "After the warm-up; or an import path of your own, module:name.",
            one_of("constant", "cosine", "exponential", "piecewise", "polynomial", path=True),
        ),
        Key("learning_rate_end", 0.0, "As a share of learning_rate.", AT_LEAST_0, only=_TO_AN_END),
        Key(
            "polynomial_power",
            1.0,
            "Power of the polynomial. 1 is a straight line.",
            ABOVE_0,
            only=(_SCHEDULE, ("polynomial",)),
        ),
        Key(
            "decay_every_steps",
            0.01,
            "How often decay_factor multiplies the rate.",
            ABOVE_0,
            time=rounded_up,
            only=_EXPONENTIAL,
        ),
        Key(
            "decay_at_steps",
            "0.5,0.75",
            "Times at which decay_factor multiplies the rate.",
            only=(_SCHEDULE, ("piecewise",)),
        ),
        Key("decay_factor", 0.1, "What multiplies the rate.", ABOVE_0, only=_IN_STAIRS),
        Key(
            "decay_smoothly",
            False,
            "Whether the rate also falls between these times.",
            only=_EXPONENTIAL,
        ),
        Key("warmup_steps", 0, "The rate rises from 0 over these.", AT_LEAST_0, time=math.floor),
    ),
    "Optimizer and loss": (
        Key(
            "optimizer",
            "sgd",
            "One of Keras's, or an import path of your own, module:name.",
            one_of("sgd", "rmsprop", "adam", "adamw", "lamb", path=True),
        ),
        Key(
            "momentum",
            0.9,
            "Share of the last update in the next.",
            BELOW_1,
            only=("optimizer", ("sgd", "rmsprop")),
        ),
        Key("nesterov", False, "Whether momentum looks ahead.", only=("optimizer", ("sgd",))),
        Key(
            "rho",
            0.9,
            "The old value's weight in the average of squares.",
            BELOW_1,
            only=("optimizer", ("rmsprop",)),
        ),
        Key(
            "beta_1",
            0.9,
            "The old value's weight in the average of gradients.",
            BELOW_1,
            only=_ADAMS,
        ),
        Key(
            "beta_2",
            0.999,
            "The old value's weight in the average of squares.",
            BELOW_1,
            only=_ADAMS,
        ),
        Key(
            "optimizer_epsilon",
            None,
            "Added to the denominator. By default Keras's.",
            ABOVE_0,
            optional=float,
            only=("optimizer", ("rmsprop", "adam", "adamw", "lamb")),
        ),
        Key(
            "weight_decay",
            0.0,
            "Acts on kernels, not gamma, beta, biases: half of it times the squares in the loss, "
            "with adamw and lamb beside the gradient.",
            AT_LEAST_0,
        ),
        Key("clip_norm", 0.0, "Limit of the norm of all gradients together; 0: none.", AT_LEAST_0),
        Key("label_smoothing", 0.0, "Share of the label that all classes get.", BELOW_1),
        Key(
            "accumulate",
            1,
            "Parts in which a minibatch, or a replica's share of it, is computed, to save memory.",
            AT_LEAST_1,
        ),
        Key(
            "average_decay",
            0.0,
            "The old value's weight in averages of all weights and statistics. 0 keeps none.",
            BELOW_1,
        ),
    ),
    "Replicas": (
        Key(
            "strategy",
            "none",
            "mirrored: several devices of this machine; multi_worker: several processes, each with "
            "its TF_CONFIG and devices.",
            one_of("none", "mirrored", "multi_worker"),
        ),
        Key(
            "num_replicas",
            2,
            "GPUs, or logical CPU devices.",
            AT_LEAST_1,
            only=("strategy", ("mirrored",)),
        ),
    ),
    "Records, evaluations and checkpoints, which a resumed run may change": (
        Key(
            "log_every_steps",
            50,
            "How often the training loss is recorded.",
            ABOVE_0,
            time=rounded_up,
            free=True,
        ),
        Key(
            "eval_every_steps",
            500,
            "How often the model is evaluated.",
            ABOVE_0,
            time=rounded_up,
            free=True,
        ),
        Key("eval_batch_size", 500, "Images evaluated at a time.", AT_LEAST_1, free=True),
        Key(
            "gauges_every_steps",
            0,
            "How often the corrections of each norm are recorded for TensorBoard. 0: never.",
            AT_LEAST_0,
            time=rounded_up,
            free=True,
        ),
        Key(
            "checkpoint_every_steps",
            500,
            "How often a checkpoint is saved, from which a killed run resumes.",
            ABOVE_0,
            time=rounded_up,
            free=True,
        ),
        Key(
            "checkpoint_every_minutes",
            0.0,
            "Saves by the clock as well. 0: by steps only.",
            AT_LEAST_0,
            free=True,
        ),
        Key(
            "keep_checkpoints",
            2,
            "How many of the newest undamaged checkpoints stay.",
            AT_LEAST_1,
            free=True,
        ),
        Key(
            "keep_every_steps",
            0,
            "Checkpoints at multiples of this also stay. 0: none.",
            AT_LEAST_0,
            free=True,
        ),
        Key(
            "keep_best",
            False,
            "Whether the checkpoint with the best test accuracy also stays.",
            free=True,
        ),
    ),
}
"""The keys by their subject."""

KEYS: dict[str, Key] = {key.name: key for group in GROUPS.values() for key in group}


def key_help() -> str:
    """Returns what `--help` says of all keys: a heading for each group."""
    groups = ["\n".join([f"{title}:", *_indented(group)]) for title, group in GROUPS.items()]
    return "\n\n".join(groups)


def _indented(group: tuple[Key, ...]) -> list[str]:
    return [textwrap.indent(key.described(), "  ") for key in group]
