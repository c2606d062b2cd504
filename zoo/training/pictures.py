"""From a config to images: the sets, how they are prepared and changed, the minibatches."""

import contextlib
import dataclasses
import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf
from rich.console import Console

from zoo.data import opening, pipeline
from zoo.data.folders import FolderOptions, is_read
from zoo.data.preparation import Augmentation, Preparation
from zoo.data.samplers import Sampler
from zoo.data.sources import EVALUATION, Source
from zoo.errors import UserError, as_user_errors, reason
from zoo.trained.card import Card, read_card
from zoo.training.cli import terminal
from zoo.training.distribution.clusters import read_cluster
from zoo.training.storage import files
from zoo.weights import find
from zoo.weights.records import RECORDS

Config = Mapping[str, Any]


def open_sets(config: Config, console: Console) -> tuple[Source, Source]:
    """Opens the images to train on, and those to evaluate on.

    Raises:
        DatasetError: When one of them cannot be opened.
        UserError: When a model of the one cannot be evaluated on the other.
    """
    train, evaluation = (open_split(config, s, console) for s in ("train", EVALUATION))
    _check_alike(config, train, evaluation)
    return train, evaluation


def _check_alike(config: Config, train: Source, evaluation: Source) -> None:
    """Refuses images to evaluate on that have other classes, or are none."""
    dataset = f"--config.dataset={config['dataset']}"
    if not len(evaluation):
        raise UserError(f"{dataset} has no images to evaluate on.")
    classes = list(map(str, train.class_names)), list(map(str, evaluation.class_names))
    if classes[0] != classes[1]:
        pairs = itertools.zip_longest(*classes, fillvalue="none")
        number, (one, other) = next((i, p) for i, p in enumerate(pairs) if p[0] != p[1])
        raise UserError(
            f"{dataset} must have the same classes in the same order to train and to evaluate on, "
            f"received {len(classes[0])} and {len(classes[1])}: number {number} is {one!r} in "
            f"training and {other!r} in the evaluation."
        )


def open_split(config: Config, split: str, console: Console) -> Source:
    """Opens a split of the config's data set, and prints what a user should know of it.

    Raises:
        DatasetError: When the split cannot be opened.
    """
    options = FolderOptions(
        held_out=config["held_out"],
        seed=config["seed"],
        skip_bad_files=config["skip_bad_files"],
        channels=config["image_channels"] or 3,
        report=lambda text: terminal.say(console, text),
    )
    return opening.open_split(config["dataset"], split, config["data_dir"], options)


def check_place(config: Config, path: Path) -> None:
    """Raises a `UserError` for a working directory that would count as a class of the images.

    Args:
        config: Names the images.
        path: The working directory.
    """
    images = config["data_dir"]
    if config["dataset"] != opening.FOLDER or not images or not Path(images).expanduser().is_dir():
        return
    if is_read(path, images):
        beside = Path(images).expanduser().resolve().parent / "runs" / path.name
        raise UserError(
            f"--workdir={path} lies in the class folders of --config.data_dir={images}, where it "
            "would count as a class or its images: nothing was written. Choose a folder beside "
            f"them, such as --workdir={beside}."
        )


def preparation(config: Config) -> Preparation:
    """Returns how an image becomes what the model takes."""
    needed = needed_by(config["model"], config["weights"])
    return Preparation(
        size=config["image_size"],
        channels=config["image_channels"] or needed.channels,
        crop_share=config["eval_crop_share"],
        interpolation=config["interpolation"],
        pixels=config["pixels"] or needed.pixels,
    )


def needed_by(model: str, weights: str | None) -> Preparation:
    """Returns the channels and the pixels that weights were trained with.

    Args:
        model: Name of the architecture.
        weights: A tag, a name or a file; None for fresh ones.
    """
    if weights is None:
        return Preparation()
    path = Path(weights).expanduser()
    if path.suffix == ".keras" and path.is_file():
        found = read_card(path)
        return Preparation() if found is None else found.preparation
    record = RECORDS.get(weights) or RECORDS.get(f"{model}.{weights}")
    if record is None and path.is_file():
        record = find(model, path).published
    if record is None:
        return Preparation()
    return Preparation(channels=record.input_shape[2], pixels=record.preprocessing)


def input_shape(config: Config, source: Source) -> tuple[int, int, int]:
    """Returns the shape of the images that the model takes.

    Raises:
        UserError: When they have several sizes and the config names none.
    """
    with as_user_errors(ValueError):
        return preparation(config).shape(source.image_shape)


def augmentation(config: Config) -> Augmentation:
    """Returns how images are changed in training.

    Raises:
        UserError: When keys contradict each other.
    """
    if config["crop"] == "inception" and not config["image_size"]:
        raise UserError(
            "--config.crop=inception needs the --config.image_size that its crops are resized to, "
            "received 0."
        )
    if config["eval_crop_share"] < 1 and not config["image_size"]:
        raise UserError(
            "--config.eval_crop_share below 1 needs the --config.image_size that the crop is "
            f"resized to, received {config['eval_crop_share']}."
        )
    return Augmentation(
        crop=config["crop"] if config["augment"] else "none",
        flip=config["augment"] and config["flip"],
        area=config["crop_area"],
        aspect=config["crop_aspect"],
        colour=config["colour_strength"],
        rand_augment=config["rand_augment"],
        erasing=config["erasing"],
        mixup=config["mixup_alpha"],
        cutmix=config["cutmix_alpha"],
    )


def card(config: Config, source: Source, evaluation: Source) -> Card:
    """Returns what the model file says of its classes and images.

    Args:
        config: The run's.
        source: What it trained on.
        evaluation: What it was evaluated on.
    """
    shape = input_shape(config, source)
    return Card(
        class_names=source.class_names,
        preparation=dataclasses.replace(preparation(config), channels=shape[2]),
        model=config["model"],
        norm=config["norm"],
        dataset=source.name,
        held_out=config["held_out"],
        seed=config["seed"],
        evaluated_on=_fingerprint(evaluation),
    )


def keep_description(path: Path, train: Source, evaluation: Source) -> None:
    """Writes which images a run uses, or checks that a resumed run still has them.

    Args:
        path: The file, `data.json` of the working directory.
        train: The training images.
        evaluation: The evaluation images.

    Raises:
        UserError: When a run that is resumed would go on with other images or classes.
    """
    check_description(path, train, evaluation)
    if not path.exists():
        files.write_json(path, _description(train, evaluation))


def _description(train: Source, evaluation: Source) -> dict[str, Any]:
    sets = {source.split: _described(source) for source in (train, evaluation)}
    return {"dataset": train.name, "classes": list(train.class_names), "splits": sets}


def check_description(path: Path, train: Source, evaluation: Source) -> None:
    """Raises a `UserError` as `keep_description` does, and writes nothing."""
    if not path.exists():
        return
    here = _description(train, evaluation)
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error
    if there != here:
        known = there if isinstance(there, dict) else {}
        differing = [key for key, value in here.items() if known.get(key) != value]
        raise UserError(
            f"The images are not those that the run began with: {', '.join(differing)} of "
            f"{path} differ from what is there now. Nothing was trained. Put the images back as "
            "they were, or choose another --workdir. An earlier version of zoo had the images of "
            "class folders in another order."
        )


def is_described(path: Path, source: Source) -> bool:
    """Returns whether a run used these images, as far as its `data.json` says.

    Args:
        path: That file. An older run has none, which says nothing.
        source: Images of the split "train", or of the one that the run was evaluated on.
    """
    if not path.exists():
        return True
    try:
        there = json.loads(path.read_text(encoding="utf-8"))["splits"][source.split]
    except (OSError, ValueError, LookupError, TypeError):
        return False
    return bool(there == _described(source))


def is_evaluated_on(known: Card, source: Source) -> bool:
    """Returns whether a model was evaluated on these images, as far as its card says."""
    return known.evaluated_on in ("", _fingerprint(source))


def _described(source: Source) -> dict[str, Any]:
    return {"images": len(source), "fingerprint": _fingerprint(source)}


def _fingerprint(source: Source) -> str:
    return getattr(source, "fingerprint", "")


def part(config: Config) -> pipeline.Part:
    """Returns which part of each minibatch this worker makes."""
    cluster = read_cluster(config["strategy"])
    return cluster.index, len(cluster)


def training_batches(
    config: Config, source: Source, sampler: Sampler, start_step: int
) -> tf.data.Dataset:
    """Returns the minibatches of the steps from `start_step` to the last."""
    return pipeline.training_batches(
        source,
        sampler,
        start_step=start_step,
        num_steps=config["num_steps"],
        augmentation=augmentation(config),
        seed=config["seed"],
        preparation=preparation(config),
        part=part(config),
    )


def evaluation_batches(config: Config, source: Source) -> tf.data.Dataset:
    """Returns prepared images and their labels in order, as many at a time as in training."""
    return pipeline.evaluation_batches(source, config["batch_size"], preparation(config))


def read(batches: tf.data.Dataset) -> Iterator[Any]:
    """Yields the batches.

    Raises:
        UserError: When an image cannot be read or decoded any more.
    """
    with reading_errors_named():
        yield from batches


@contextlib.contextmanager
def reading_errors_named() -> Iterator[None]:
    """Turns an error of the pipeline into one line: a file has changed since it was checked.

    Yields:
        Nothing.

    Raises:
        UserError: When an image cannot be read or decoded any more.
    """
    kinds = (tf.errors.NotFoundError, tf.errors.InvalidArgumentError, tf.errors.UnknownError)
    try:
        yield
    except (*kinds, tf.errors.PermissionDeniedError, tf.errors.DataLossError) as error:
        raise UserError(
            f"An image can no longer be read: {reason(error.message)}. Run the same command again: "
            "it checks all images."
        ) from error
