"""Images that a trained model is shown: a split of a set, or files and folders."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from zoo.data import opening, pipeline
from zoo.data.folders import FolderOptions, file_source, files_below
from zoo.data.preparation import Preparation
from zoo.data.scan import scan
from zoo.data.sources import EVALUATION, Source, Streamed
from zoo.errors import UserError
from zoo.trained.opening import Trained
from zoo.training import pictures


def open_for(
    trained: Trained,
    report: Callable[[str], None],
    *,
    dataset: str | None = None,
    split: str | None = None,
    data_dir: str | None = None,
    skip_bad_files: bool = False,
) -> Source:
    """Opens images for a model: by default those that its run was evaluated on.

    Args:
        trained: The model.
        report: Called with a sentence about what a user should know.
        dataset: Name of the set; that of the run by default.
        split: Its split, or "all" of class folders without splits.
        data_dir: Where it is; where the run's was by default.
        skip_bad_files: Whether to leave out files that cannot be used.

    Raises:
        UserError: If there are no images, or they have other classes than the model.
    """
    config = trained.config
    if dataset is None and not trained.card.dataset and trained.workdir is None:
        raise UserError(
            f"{trained.name} does not say which images it is for: name a set, such as "
            "--dataset=folder --data_dir=DIR --split=all for class folders in DIR, or, for "
            "zoo.export, files and folders of images."
        )
    name = dataset if dataset is not None else trained.card.dataset or config["dataset"]
    options = FolderOptions(
        held_out=config["held_out"],
        seed=config["seed"],
        skip_bad_files=skip_bad_files or config["skip_bad_files"],
        channels=trained.card.preparation.channels or 3,
        classes=_classes(trained) if name == opening.FOLDER else None,
        report=report,
    )
    where = data_dir or config["data_dir"]
    try:
        source = opening.open_split(name, EVALUATION if split is None else split, where, options)
    except UserError as error:
        # A key of zoo.train's config is a flag here.
        raise UserError(str(error).replace("--config.", "--")) from error
    check_fit(trained, source)
    return source


def _classes(trained: Trained) -> tuple[str, ...] | None:
    """Returns the names of the classes; None to take those of the folders."""
    return None if trained.card.numbered else trained.card.class_names


def check_fit(trained: Trained, source: Source) -> None:
    """Raises a `UserError` when a model is for other images or classes than a set's."""
    model = trained.classifier
    takes, gives = tuple(model.input_shape[1:]), model.output_shape[-1]
    shape = trained.card.preparation.shape(source.image_shape) if _has_size(trained, source) else ()
    fits = len(shape) == 3 and all(a in (None, b) for a, b in zip(takes, shape, strict=True))
    if not fits or gives != source.num_classes:
        raise UserError(
            f"The model takes images of shape {takes} and knows {gives} classes; {source.name} has "
            f"{tuple(source.image_shape)} and {source.num_classes}.{_advice(shape, takes)}"
        )


def _advice(shape: tuple[int, ...], takes: tuple[int | None, ...]) -> str:
    """Returns what to do about images of several sizes, and a model that says none."""
    if shape:
        return ""
    return (
        " The images have several sizes, and are resized for models that take squares of one size "
        f"only: give the model such an input, as keras.Input((224, 224, {takes[-1]}))."
    )


def _has_size(trained: Trained, source: Source) -> bool:
    return bool(trained.card.preparation.size) or None not in source.image_shape


@dataclasses.dataclass(frozen=True)
class Found:
    """Image files that were named, or found in named folders.

    Attributes:
        paths: The files that can be used.
        problems: The problems of the others, by path.
        source: The images of `paths`, all with the label 0.
    """

    paths: tuple[str, ...]
    problems: dict[str, str]
    source: Streamed


def find_files(names: Sequence[str], trained: Trained) -> Found:
    """Finds image files, and inspects each of them.

    Args:
        names: Files and folders, in which files lie at any depth. A file counts once.
        trained: The model that is to see them.

    Raises:
        UserError: If a name does not exist, or no image can be read.
    """
    below: dict[bytes, list[bytes]] = {}
    paths: list[bytes] = []
    for name in names:
        path = os.path.expanduser(os.fsencode(name))
        if not os.path.lexists(path):
            raise UserError(f"There is no file or folder {name!r}.")
        folder = path if os.path.isdir(path) else os.path.dirname(path)
        mine = files_below(path) if folder == path else [path]
        below.setdefault(folder, []).extend(mine)
        paths += mine
    # What is known of a file belongs to its folder, however many are named with it.
    known = {
        path: finding
        for folder, mine in below.items()
        for path, finding in zip(mine, scan(folder, mine), strict=True)
    }
    # Each file once, even if it is named again, or its folder is.
    by_place: dict[bytes, bytes] = {}
    for path in paths:
        by_place.setdefault(os.path.realpath(path), path)
    paths = list(by_place.values())
    findings = [known[path] for path in paths]
    usable = [i for i, finding in enumerate(findings) if not finding.problem]
    problems = {
        os.fsdecode(paths[i]): finding.problem
        for i, finding in enumerate(findings)
        if finding.problem
    }
    if not usable:
        few = "; ".join(f"{path!r} {problem}" for path, problem in [*problems.items()][:5])
        raise UserError(f"There are no images that can be read in {', '.join(names)}. {few}")
    source = file_source(
        [paths[i] for i in usable],
        [findings[i] for i in usable],
        trained.card.class_names,
        trained.card.preparation.channels or 3,
    )
    check_fit(trained, source)
    return Found(tuple(os.fsdecode(paths[i]) for i in usable), problems, source)


def probabilities(
    trained: Trained, source: Source, batch_size: int, prepared: Sequence[Preparation] = ()
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Returns the classifier's probabilities of all images `[N, K]`, and the labels `[N]`.

    Args:
        trained: The model.
        source: The images.
        batch_size: How many at a time.
        prepared: The ways to prepare an image, to average over; by default the model's.

    Raises:
        UserError: If an image cannot be read, or its label is no class.
    """
    model = trained.classifier
    predict = tf.function(lambda x: model(x, training=False), reduce_retracing=True)
    prepared = prepared or (trained.card.preparation,)
    total: Any = np.float32(0)
    for view in prepared:
        found: list[npt.NDArray[np.float32]] = []
        labels: list[npt.NDArray[np.int64]] = []
        for x, y in pictures.read(pipeline.evaluation_batches(source, batch_size, view)):
            _check_labels(y.numpy(), source)
            found.append(np.asarray(predict(x), np.float32))
            labels.append(y.numpy())
        total = total + np.concatenate(found)
    return total / np.float32(len(prepared)), np.concatenate(labels)


def _check_labels(labels: npt.NDArray[np.int64], source: Source) -> None:
    """Raises a `UserError` for a label that is no class."""
    wrong = labels[(labels < 0) | (labels >= source.num_classes)]
    if wrong.size:
        raise UserError(
            f"An image of {source.name}, {source.split}, has the label {wrong[0]}, which is no "
            "class. TensorFlow Datasets marks images without a label by -1. Choose another split."
        )
