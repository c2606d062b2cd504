"""Trains on two domains with every combination of shared and per-domain normalisation.

python tools/domain_table.py --json=FILE.json [--second=inverted|low_contrast] [--seeds=0,1,2]

The domains are the images of a set, and the same images inverted or with a fifth of their
contrast. Each minibatch mixes them at random, with one domain id per example. For each of the
2x2x2 ways in which a small convolutional net's normalisation can keep batch statistics, population
statistics, and gamma and beta, the net is trained and then tested on all test images in both
domains, with the population statistics of that way. Wu & Johnson 2021, table 5, has the same for
the levels of a detector's feature pyramid.
"""

import dataclasses
import itertools
import pathlib
import statistics
import time
import warnings
from typing import Any, NamedTuple

from benchmarking import machine, write_json

from zoo.errors import UserError
from zoo.training.cli import program

DOMAINS = 2
CHANNELS = (32, 64, 64)


class Row(NamedTuple):
    """What is kept by domain, in the order of the paper's table."""

    batch_statistics: str
    population_statistics: str
    affine: str


ROWS = [Row(*kinds) for kinds in itertools.product(("shared", "domain"), repeat=3)]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the flags say."""

    dataset: str
    second: str
    layer: str
    steps: int
    batch_size: int
    learning_rate: float
    momentum: float
    seeds: list[int]
    json: pathlib.Path | None


def parse(argv: list[str]) -> Settings:
    """Defines and reads the flags."""
    from absl import flags

    from zoo.training.cli import arguments

    flags.DEFINE_string("dataset", "cifar10", "An image classification set that is prepared.")
    flags.DEFINE_enum("second", "low_contrast", ["inverted", "low_contrast"], "The other domain.")
    flags.DEFINE_enum("layer", "batch_norm", ["batch_norm", "batch_renorm"], "The layer.")
    flags.DEFINE_integer("steps", 600, "Minibatches per row and seed.", lower_bound=1)
    flags.DEFINE_integer("batch_size", 128, "Examples of both domains together.", lower_bound=2)
    flags.DEFINE_float("learning_rate", 0.05, "Of SGD at first; it falls along a cosine.")
    flags.DEFINE_float("momentum", 0.97, "Of the population statistics.", 0.0, 1.0)
    flags.DEFINE_list("seeds", ["0"], "Comma-separated integers.")
    flags.DEFINE_string("json", None, "A new file for the results.")
    arguments.no_arguments(arguments.parse_flags(argv))
    values = {f.name: flags.FLAGS[f.name].value for f in dataclasses.fields(Settings)}
    return Settings(**values | {"seeds": _seeds(values["seeds"]), "json": _new(values["json"])})


def _seeds(words: list[str]) -> list[int]:
    if not words or not all(word.strip().isdecimal() for word in words):
        raise UserError(f"--seeds must be integers, as in --seeds=0,1; received {words}.")
    return [int(word) for word in words]


def _new(name: str | None) -> pathlib.Path | None:
    """The path of a file that can be made at the end."""
    path = None if name is None else pathlib.Path(name)
    if path is not None and (path.exists() or not path.absolute().parent.is_dir()):
        what = "exists" if path.exists() else "is in a folder that does not exist"
        raise UserError(f"--json: {str(path)!r} {what}; name another file.")
    return path


class Images:
    """The images of a split in both domains, of mean about 0 and deviation about 1."""

    def __init__(self, settings: Settings, split: str) -> None:
        from zoo.data import datasets

        data = datasets.load(settings.dataset, split)
        self.labels = data.labels
        self.shape, self.num_classes = data.image_shape, data.num_classes
        self._pixels = data.images
        # Inverted: -x. Low contrast: a fifth of it, which a net of 8-bit images still resolves.
        self._factor = {"inverted": -1.0, "low_contrast": 0.2}[settings.second]

    def batch(self, chosen: Any, domain: Any) -> Any:
        """Images `[B, H, W, C]` in the domain of each."""
        import numpy as np

        pixels = (self._pixels[chosen].astype(np.float32) - 127.5) / 64
        factors = np.where(domain == 1, self._factor, 1.0).astype(np.float32)
        return pixels * factors[:, None, None, None]


def make_model(row: Row, settings: Settings, images: Images) -> Any:
    """A net of three convolutions that takes images and ids."""
    import keras

    from keras_renorm import layers, schedules

    options: dict[str, Any] = {"momentum": settings.momentum, "activation": "relu"}
    cls = layers.DomainBatchNormalization
    if settings.layer == "batch_renorm":
        cls, begin = layers.DomainBatchRenormalization, settings.steps // 8
        options["r_max"] = schedules.LinearRamp(1.0, 3.0, begin, 8 * begin + 1)
        options["d_max"] = schedules.LinearRamp(0.0, 5.0, begin, 5 * begin + 1)
    x = inputs = keras.Input(images.shape)
    domain = keras.Input((), dtype="int32")
    for channels in CHANNELS:
        x = keras.layers.Conv2D(channels, 3, strides=2, padding="same", use_bias=False)(x)
        with warnings.catch_warnings():  # that a row breaks the rule is what is to be shown
            warnings.filterwarnings("ignore", message=".*breaks a rule", category=UserWarning)
            x = cls(DOMAINS, **row._asdict(), **options)(x, domain=domain)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model([inputs, domain], keras.layers.Dense(images.num_classes)(x))


def train(model: Any, images: Images, settings: Settings, seed: int, done: Any) -> float:
    """Trains `model`, calls `done()` after each step; returns the mean loss of the last tenth."""
    import keras
    import numpy as np
    import tensorflow as tf

    rate = keras.optimizers.schedules.CosineDecay(settings.learning_rate, settings.steps)
    optimizer = keras.optimizers.SGD(rate, momentum=0.9)
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer.build(model.trainable_variables)

    @tf.function
    def step(x: Any, domain: Any, labels: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = loss_of(labels, model([x, domain], training=True))
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        return loss

    rng, losses = np.random.default_rng(seed), []
    for _ in range(settings.steps):
        chosen = rng.integers(len(images.labels), size=settings.batch_size)
        domain = rng.integers(DOMAINS, size=settings.batch_size, dtype=np.int32)
        batch = images.batch(chosen, domain), domain, images.labels[chosen]
        losses.append(float(step(*(tf.constant(part) for part in batch))))
        done()
    return statistics.fmean(losses[-max(settings.steps // 10, 1) :])


def test_errors(model: Any, images: Images) -> list[float]:
    """The error in per cent on the test images in each domain, with population statistics."""
    import numpy as np

    errors = []
    for domain in range(DOMAINS):
        wrong = 0
        for begin in range(0, len(images.labels), 500):
            chosen = np.arange(begin, min(begin + 500, len(images.labels)))
            ids = np.full(len(chosen), domain, np.int32)
            logits = model.predict_on_batch([images.batch(chosen, ids), ids])
            wrong += int(np.sum(np.argmax(logits, axis=-1) != images.labels[chosen]))
        errors.append(100 * wrong / len(images.labels))
    return errors


def measure(settings: Settings, console: Any) -> list[dict[str, Any]]:
    """Trains and tests every row with every seed; a progress bar counts the steps."""
    import keras
    from rich.progress import Progress

    training, testing = Images(settings, "train"), Images(settings, "test")
    results: list[dict[str, Any]] = []
    with Progress(console=console) as progress:
        total = len(ROWS) * len(settings.seeds) * settings.steps
        task = progress.add_task("training", total=total)
        for row, seed in itertools.product(ROWS, settings.seeds):
            progress.update(task, description=f"{'/'.join(row)}, seed {seed}")
            keras.utils.set_random_seed(seed)
            begin, model = time.perf_counter(), make_model(row, settings, training)
            loss = train(model, training, settings, seed, lambda: progress.advance(task))
            errors = dict(zip(("first", "second"), test_errors(model, testing), strict=True))
            seconds = time.perf_counter() - begin
            results.append(
                row._asdict() | {"seed": seed, "loss": loss, "error": errors, "seconds": seconds}
            )
    return results


def print_table(settings: Settings, results: list[dict[str, Any]], console: Any) -> None:
    """Prints a line per row: the mean over the seeds, and the deviation if there are several."""
    from rich.table import Table

    title = f"{settings.layer} on {settings.dataset} and {settings.second}: test error, %"
    columns = ("batch", "population", "affine", "loss", settings.dataset, settings.second, "s")
    table = Table(*columns, title=title)
    for row in ROWS:
        runs = [r for r in results if row == Row(*(r[name] for name in Row._fields))]
        loss = statistics.fmean(r["loss"] for r in runs)
        errors = (_spread([r["error"][name] for r in runs]) for name in ("first", "second"))
        seconds = statistics.fmean(r["seconds"] for r in runs)
        table.add_row(*row, f"{loss:.3f}", *errors, f"{seconds:.0f}")
    console.print(table)


def _spread(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{spread}"


def main(settings: Settings) -> int:
    """Measures, prints the table and writes the file."""
    from rich.console import Console

    from zoo.training.cli import runtime

    runtime.load_tensorflow()
    console = Console()
    results = measure(settings, console)
    print_table(settings, results, console)
    # Where it was written is no part of what was measured.
    asked = {key: value for key, value in dataclasses.asdict(settings).items() if key != "json"}
    write_json(settings.json, {"machine": machine(), "settings": asked, "rows": results})
    return 0


if __name__ == "__main__":
    program.run(parse, main, __doc__)
