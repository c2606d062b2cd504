"""Measures when `statistics.precise` helps after a training with Batch Renorm, and when it harms.

python tools/precise_after_renorm.py --json=FILE.json [--cases=dense] [--seeds=0,1,2]

Small nets are trained on the packaged subset of Fashion-MNIST, with each rule for the limits. At
some steps their test accuracy is taken with the moving statistics, and with the precise ones of
2,000 training images. Training goes on from the former. --cases is a regular expression.
docs/precise_statistics.md says what came out.
"""

import dataclasses
import functools
import re
import statistics
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from benchmarking import machine, write_json
from choose_limits import Settings, parse
from limit_runs import Case, draw

from keras_renorm import diagnostics, layers
from keras_renorm.models import batch_norms
from keras_renorm.statistics import moving_statistics, precise, trained_with
from zoo.data import datasets
from zoo.errors import UserError
from zoo.training.cli import program

RULES: dict[str, Any] = {
    "batch norm": layers.BatchNormalization,
    "adaptive": layers.BatchRenormalization,
    "1.5, 0.5": lambda **options: layers.BatchRenormalization(r_max=1.5, d_max=0.5, **options),
    "3, 5": lambda **options: layers.BatchRenormalization(r_max=3.0, d_max=5.0, **options),
}
STEPS = (60, 250, 1000, 3000)
IMAGES = 2_000


@dataclasses.dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        net: "dense" or "convolutional".
        minibatches: Kind of the minibatches of 32 images: "iid" or "2 labels".
        optimizer: "sgd", with a momentum of 0.9, or "adam", both with a constant rate, or "cosine",
            SGD whose rate falls to 0.
        momentum: Momentum of the moving statistics.
        snapshots: The steps at which to measure.
    """

    net: str
    minibatches: str
    optimizer: str
    momentum: float
    snapshots: tuple[int, ...] = STEPS

    def __str__(self) -> str:
        """The run in a cell of a table."""
        return f"{self.net}, {self.minibatches}, {self.optimizer}, {self.momentum:g}"


def runs() -> Iterator[Run]:
    """All runs."""
    for net, momenta in (("dense", (0.99, 0.9)), ("convolutional", (0.99,))):
        for minibatches in ("iid", "2 labels"):
            for momentum in momenta:
                yield Run(net, minibatches, "sgd", momentum)
                yield Run(net, minibatches, "adam", momentum)
                for steps in STEPS[1:]:
                    yield Run(net, minibatches, "cosine", momentum, (steps,))


def compiled(run: Run, rule: str, seed: int) -> keras.Model:
    """A new net."""
    keras.utils.set_random_seed(seed)
    norms = [RULES[rule](momentum=run.momentum) for _ in range(2)]
    if run.net == "dense":
        parts = [keras.layers.Flatten(), *_blocks(keras.layers.Dense, norms, (100, 100))]
    else:
        convolution = functools.partial(
            keras.layers.Conv2D, kernel_size=3, strides=2, padding="same"
        )
        parts = [*_blocks(convolution, norms, (16, 32)), keras.layers.GlobalAveragePooling2D()]
    ends = keras.layers.Rescaling(1 / 255), keras.layers.Dense(10, "softmax")
    model = keras.Sequential([keras.Input((28, 28, 1)), ends[0], *parts, ends[1]])
    rate: Any = 0.02
    if run.optimizer == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(rate, run.snapshots[-1])
    adam = run.optimizer == "adam"
    optimizer = keras.optimizers.Adam(1e-3) if adam else keras.optimizers.SGD(rate, 0.9)
    model.compile(optimizer, "sparse_categorical_crossentropy", steps_per_execution=10)
    return model


def _blocks(layer: Any, norms: list[Any], widths: tuple[int, ...]) -> Iterator[Any]:
    for norm, width in zip(norms, widths, strict=True):
        yield from (layer(width), norm, keras.layers.ReLU())


def measure(
    model: keras.Model, images: Any, minibatch: Any, test: tuple[Any, Any]
) -> dict[str, Any]:
    """Accuracies with moving and with precise statistics, and what may foretell them."""
    gap = diagnostics.train_inference_gap(model, minibatch).output
    norms = batch_norms(model)
    kept = [moving_statistics.read(norm) for norm in norms]
    state = model.get_weights()
    before = accuracy(model, *test)
    model.run_eagerly = True
    with warnings.catch_warnings():  # that it may harm is what is measured
        warnings.simplefilter("ignore")
        precise(model, images, batch_size=len(images), verbose=0)
    model.run_eagerly = False
    after = accuracy(model, *test)
    exact = [moving_statistics.read(norm) for norm in norms]
    model.set_weights(state)
    to_before, to_after = trained_with.square_distances(zip(norms, kept, exact, strict=True))
    limits = [trained_with.limits(norm) for norm in norms]
    return {
        "before": before,
        "after": after,
        "to_before": to_before,
        "to_after": to_after,
        "gap": gap,
        "limits": limits,
    }


def accuracy(model: keras.Model, images: Any, labels: Any) -> float:
    """The accuracy in inference."""
    return float(np.mean(np.argmax(model.predict_on_batch(images), -1) == labels))


def train(run: Run, rule: str, seed: int, data: Any, test: tuple[Any, Any]) -> list[dict[str, Any]]:
    """What is measured at the snapshots."""
    model, rows = compiled(run, rule, seed), []
    case = Case(run.net, run.minibatches, run.snapshots[-1], 0.02, run.momentum)
    order = draw(data.labels, case, run.snapshots[-1], seed)
    images = data.images[np.random.default_rng(seed).permutation(len(data.labels))[:IMAGES]]
    done = 0
    for steps in run.snapshots:
        drawn = order[done:steps].ravel()
        model.fit(data.images[drawn], data.labels[drawn], batch_size=32, shuffle=False, verbose=0)
        done = steps
        row = measure(model, images, data.images[order[steps - 1]], test)
        rows.append({"run": str(run), "rule": rule, "seed": seed, "steps": steps, **row})
    return rows


def main(settings: Settings) -> int:
    """Trains, and prints a row for each run, number of steps and rule."""
    chosen = [run for run in runs() if re.search(settings.cases, str(run))]
    if not chosen:
        raise UserError(f"--cases={settings.cases!r} matches none of the runs.")
    data, held_out = (datasets.load(datasets.PACKAGED, split) for split in ("train", "test"))
    test = held_out.images, held_out.labels
    found: list[dict[str, Any]] = []
    print(
        "| run | steps | limits | before | after | to before | to after |",
        "|---" * 7 + "|",
        sep="\n",
    )
    for run in chosen:
        for rule in RULES:
            keras.backend.clear_session()
            own = [train(run, rule, seed, data, test) for seed in settings.seeds]
            for rows in zip(*own, strict=True):
                print(line(rows), flush=True)
                found += rows
    write_json(settings.json, {"machine": machine(), "rows": found})
    return 0


def line(rows: Any) -> str:
    """One row, means over the seeds."""
    mean = {
        key: statistics.mean(row[key] for row in rows)
        for key in ("before", "after", "to_before", "to_after")
    }
    return (
        f"| {rows[0]['run']} | {rows[0]['steps']} | {rows[0]['rule']} | {100 * mean['before']:.1f} "
        f"| {100 * mean['after']:.1f} | {mean['to_before']:.3f} | {mean['to_after']:.3f} |"
    )


if __name__ == "__main__":
    program.run(parse, main, __doc__)
