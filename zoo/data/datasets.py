"""Image classification sets, whole and in memory."""

import importlib.resources
import re
import typing
from typing import Literal

import numpy as np

from zoo.data import tensorflow_sets
from zoo.data.dataset import PACKAGED, Dataset, DatasetError

__all__ = ["PACKAGED", "check_name", "has_version", "load"]

#: A name of TensorFlow Datasets, with a configuration or a version after it, both, or neither.
_NAME = re.compile(r"\w+(/\w[\w.+-]*)?(:(\d+|\*)\.(\d+|\*)\.(\d+|\*))?")

#: What ends in a version, or is meant to: no name in Python is one.
_VERSIONED = re.compile(r".*:[\d.*]*")

Split = Literal["train", "test"]


def load(name: str, split: str, data_dir: str | None = None) -> Dataset:
    """Loads a split of a set into memory, in its stored order.

    Nothing is downloaded. Preparing a set takes minutes to hours, needs a network, and writes
    gigabytes where the user may not want them, so it is a step of its own. The error's message
    names its command.

    Args:
        name: "fashion_mnist_subset", which is part of this package, or an image classification set
            of TensorFlow Datasets whose images are uint8 and of one size.
        split: "train" or "test".
        data_dir: Where TensorFlow Datasets keeps its sets; None for its default,
            `~/tensorflow_datasets`. Not used for the packaged set.

    Returns:
        The split.

    Raises:
        DatasetError: If the set is unknown, not prepared, unreadable or of another kind.

    Example:
        >>> load("fashion_mnist_subset", "train").images.shape
        (10000, 28, 28, 1)
    """
    if split not in typing.get_args(Split):
        raise DatasetError(f"Unknown split {split!r}. Allowed are 'train' and 'test'.")
    check_name(name)
    if name == PACKAGED:
        return _load_packaged(split)
    return tensorflow_sets.load(name, split, data_dir)


def check_name(name: str) -> None:
    """Raises a `DatasetError` for what cannot be a set's name."""
    if not _NAME.fullmatch(name):
        raise DatasetError(
            f"{name!r} is not the name of a dataset. Names look like 'mnist' or 'mnist:3.0.1'."
        )


def has_version(name: str) -> bool:
    """Returns whether a name ends in a version, as `mnist:3.0.1` and `mnist:3.*.*` do."""
    return _VERSIONED.fullmatch(name) is not None


def _load_packaged(split: str) -> Dataset:
    resource = importlib.resources.files("zoo.data") / f"{PACKAGED}.npz"
    with resource.open("rb") as file, np.load(file) as arrays:
        return Dataset(
            name=PACKAGED,
            split=split,
            images=arrays[f"{split}_images"],
            labels=arrays[f"{split}_labels"].astype(np.int64),
            class_names=tuple(map(str, arrays["class_names"])),
        )
