"""Images per second of the input pipeline, beside a hand-written one and beside the bare step.

    python tools/bench_pipeline.py --task=resnet20   # CIFAR's size, in memory, with augmentation
    python tools/bench_pipeline.py --task=resnet50   # 112 pixels of a folder of JPEGs of 500

The contenders take turns; the medians of the rounds, and of their ratios, are printed. "pipeline"
is `zoo.data` alone, "by hand" a tf.data pipeline over the same images that does the same with its
own random numbers, "step" the training step with one minibatch over and over, "fed" the step with
the pipeline. Where the step runs on the processor that makes the images, "fed" cannot reach 1.
"""

import argparse
import itertools
import pathlib
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import benchmarking
import keras
import numpy as np
import tensorflow as tf

import zoo
from zoo.data import (
    Augmentation,
    Dataset,
    FolderOptions,
    Preparation,
    ShuffledSampler,
    Source,
    open_split,
    training_batches,
)
from zoo.training import builders, optimizers, step
from zoo.training.config import default_config

#: Size of images that are resized, 0 for none, and of a minibatch.
SIZES = {"resnet20": (0, 128), "resnet50": (112, 16)}

#: Minibatches that a pipeline makes ahead.
_PREFETCHED = 4

#: Minibatches, and what is done with each.
Contender = tuple[Iterator[Any], Callable[..., Any] | None]


def write_photos(folder: pathlib.Path, count: int) -> None:
    """Writes JPEGs of some 500 pixels with much detail, of four classes.

    Args:
        folder: For `train/CLASS/*.jpg` and `val/CLASS/*.jpg`.
        count: How many.
    """
    rng = np.random.default_rng(0)
    for number in range(count + 8):
        split = "train" if number < count else "val"
        path = folder / split / f"class{number % 4}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        small = rng.uniform(0, 255, (64, 80, 3))
        size = (375 + number % 50, 500)
        pixels = tf.cast(
            tf.clip_by_value(tf.image.resize(small, size, "bicubic"), 0, 255), tf.uint8
        )
        path.write_bytes(tf.io.encode_jpeg(pixels, quality=90).numpy())


def in_memory() -> Dataset:
    """Returns random images of CIFAR's size: what they show makes no difference."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (10_000, 32, 32, 3)).astype(np.uint8)
    names = tuple(map(str, range(10)))
    return Dataset("random", "train", pixels, rng.integers(0, 10, len(pixels)), names)


def ours(source: Source, size: int, batch_size: int) -> tf.data.Dataset:
    """Returns the pipeline of this package."""
    crop = "inception" if size else "pad"
    return training_batches(
        source,
        ShuffledSampler(len(source), batch_size, seed=0),
        start_step=0,
        num_steps=1_000_000,
        augmentation=Augmentation(crop, flip=True),
        seed=0,
        preparation=Preparation(size),
    )


def by_hand(source: Any, folder: pathlib.Path | None, size: int, batch: int) -> tf.data.Dataset:
    """Returns a pipeline as one writes it: files, a shuffle buffer, parallel maps, a batch."""

    def photo(path: Any) -> tuple[Any, Any]:
        contents = tf.io.read_file(path)
        begin, shape, _ = tf.image.sample_distorted_bounding_box(
            tf.io.extract_jpeg_shape(contents),
            tf.zeros([1, 0, 4]),
            aspect_ratio_range=(0.75, 4 / 3),
            area_range=(0.08, 1.0),
            max_attempts=10,
            use_image_if_no_bounding_boxes=True,
            seed=1,
        )
        window = tf.concat([begin[:2], shape[:2]], 0)
        pixels = tf.io.decode_and_crop_jpeg(contents, window, channels=3)
        pixels = tf.image.resize(pixels, (size, size), antialias=True)
        return tf.image.random_flip_left_right(pixels) / 255.0, tf.constant(0, tf.int64)

    def small(pixels: Any, label: Any) -> tuple[Any, Any]:
        padded = tf.pad(pixels, [[4, 4], [4, 4], [0, 0]])
        pixels = tf.image.random_crop(padded, [32, 32, 3])
        return tf.cast(tf.image.random_flip_left_right(pixels), tf.float32) / 255.0, label

    if folder is None:
        images = tf.data.Dataset.from_tensor_slices((source.images, source.labels))
        images = images.shuffle(10_000).repeat().map(small, tf.data.AUTOTUNE)
    else:
        paths = [str(path) for path in sorted(folder.glob("train/*/*.jpg"))]
        images = tf.data.Dataset.from_tensor_slices(paths)
        images = images.shuffle(len(paths)).repeat().map(photo, tf.data.AUTOTUNE)
    return images.batch(batch, drop_remainder=True).prefetch(_PREFETCHED)


def make_step(name: str, source: Source, shape: tuple[int, int, int]) -> Callable[..., Any]:
    """Returns the compiled training step of a net with Batch Renorm."""
    config = default_config().to_dict() | {"model": name}
    model = zoo.create_model(name, num_classes=source.num_classes, input_shape=shape)
    optimizer = optimizers.build_optimizer(config, model)
    return step.make_train_step(builders.logits_of(model), optimizer, builders.step_options(config))


def rate(batches: Iterator[Any], steps: int, work: Callable[..., Any] | None) -> float:
    """Returns images per second of some batches, each given to `work` if there is any.

    Batches that a pipeline made before its turn do not count.
    """
    for _ in itertools.islice(batches, _PREFETCHED):
        pass
    count, begin = 0, time.perf_counter()
    for images, labels in itertools.islice(batches, steps):
        count += len(labels)
        if work is not None:
            float(work(images, labels).loss)
    return count / (time.perf_counter() - begin)


def contenders(arguments: argparse.Namespace, folder: pathlib.Path) -> dict[str, Contender]:
    """Returns what is measured: batches, and what is done with them."""
    size, batch = SIZES[arguments.task]
    source: Source = in_memory()
    if size:
        write_photos(folder, arguments.photos)
        source = open_split("folder", "train", str(folder), FolderOptions())
    pipeline = iter(ours(source, size, batch))
    found: dict[str, Contender] = {
        "pipeline": (pipeline, None),
        "by hand": (iter(by_hand(source, folder if size else None, size, batch)), None),
    }
    if not arguments.no_step:
        train = make_step(arguments.task, source, (size or 32, size or 32, 3))
        found["step"] = (itertools.repeat(next(pipeline)), train)
        found["fed"] = (pipeline, train)
    return found


def take_turns(measured: dict[str, Contender], rounds: int, steps: int) -> dict[str, list[float]]:
    """Returns the images per second of the contenders, round by round."""
    found: dict[str, list[float]] = {key: [] for key in measured}
    for number in range(rounds + 1):
        for key in random.sample(list(measured), len(measured)):
            batches, work = measured[key]
            value = rate(batches, steps, work)
            # The first round builds and warms up.
            found[key] += [value] if number else []
    return found


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", choices=SIZES, default="resnet20")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=8, help="of a turn")
    parser.add_argument("--photos", type=int, default=400, help="in the folder")
    parser.add_argument("--no_step", action="store_true", help="the pipelines alone")
    arguments = parser.parse_args()
    keras.utils.set_random_seed(0)
    with tempfile.TemporaryDirectory() as name:
        # The pipelines end with the call, and so before their folder.
        folder = pathlib.Path(name)
        found = take_turns(contenders(arguments, folder), arguments.rounds, arguments.steps)
    medians = {key: statistics.median(values) for key, values in found.items()}
    benchmarking.print_table("images/s", list(found), {arguments.task: medians})
    for ours_, theirs in (("pipeline", "by hand"), ("fed", "step")):
        if ours_ in found:
            # Ratios of neighbouring turns: what else the machine does is the same for both.
            ratios = [a / b for a, b in zip(found[ours_], found[theirs], strict=True)]
            print(f"{ours_} / {theirs}: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
