"""Image classification sets, whole and in memory."""

import contextlib
import dataclasses
import importlib.resources
import pathlib
import re
import typing
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from zoo.errors import UserError, nearest

#: The set inside this package: 10,000 training and 2,000 test images of Fashion-MNIST.
PACKAGED = "fashion_mnist_subset"

#: The sets that the recipes and their numbers are about.
SUGGESTED = (PACKAGED, "fashion_mnist", "mnist", "cifar10")

#: A name of TensorFlow Datasets, with a configuration or a version after it, or neither.
_NAME = re.compile(r"\w+([/:]\w[\w.*+-]*)*")

Split = Literal["train", "test"]


class DatasetError(UserError, ValueError):
    """A set cannot be had; the message says why and what to do."""


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """The images of one split and their labels.

    Attributes:
        name: Name of the set.
        split: "train" or "test".
        images: Pixels, uint8 `[N, H, W, C]`.
        labels: Numbers of the classes, int64 `[N]`.
        class_names: Names of the classes, in the order of their numbers.
    """

    name: str
    split: str
    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != np.uint8:
            raise ValueError(
                "`images` must be uint8 [N, H, W, C], received "
                f"{self.images.dtype} {list(self.images.shape)}."
            )
        if self.labels.shape != self.images.shape[:1] or self.labels.dtype != np.int64:
            raise ValueError(
                f"`labels` must be int64 [{len(self.images)}], one per image, received "
                f"{self.labels.dtype} {list(self.labels.shape)}."
            )
        if np.any((self.labels < 0) | (self.labels >= self.num_classes)):
            raise ValueError(
                f"`labels` must lie in [0, {self.num_classes}), one number per class name, "
                f"received {self.labels.min()} to {self.labels.max()}."
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape of an image, `(H, W, C)`."""
        _, height, width, channels = self.images.shape
        return height, width, channels


def load(name: str, split: str, data_dir: str | None = None) -> Dataset:
    """Loads a split of a set into memory, in its stored order.

    Nothing is downloaded. Preparing a set takes minutes to hours, needs a network, and writes
    gigabytes where the user may not want them; so it is a step of its own, and the message of the
    error names its command.

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
    if not _NAME.fullmatch(name):
        raise DatasetError(
            f"{name!r} is not the name of a dataset. Names look like 'mnist' or 'mnist:3.0.1'."
        )
    if name == PACKAGED:
        return _load_packaged(split)
    return _load_tfds(name, split, data_dir)


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


def _load_tfds(name: str, split: str, data_dir: str | None) -> Dataset:
    directory = None if data_dir is None else pathlib.Path(data_dir).expanduser()
    if directory is not None and not directory.is_dir():
        raise DatasetError(f"data_dir {str(directory)!r} is not a directory that can be read.")
    with _explained(name, directory) as tfds:
        builder = tfds.builder(name, data_dir=directory)
        info = builder.info
    # Before the advice to prepare it, which can take hours.
    _check_kind(name, info.features, tfds.features)
    with _explained(name, directory):
        stored = builder.as_dataset()
    if split not in info.splits:
        raise DatasetError(f"Dataset {name!r} has no split {split!r}, only {list(info.splits)}.")
    images, labels = _read(name, stored[split], info.splits[split].num_examples)
    classes = info.features["label"]
    class_names = tuple(classes.int2str(label) for label in range(classes.num_classes))
    try:
        return Dataset(name, split, images, labels, class_names)
    except ValueError as error:
        raise DatasetError(f"The {split!r} images of {name!r} cannot be used: {error}") from error


@contextlib.contextmanager
def _explained(name: str, directory: pathlib.Path | None) -> Iterator[Any]:
    """Yields TensorFlow Datasets, whose errors are turned into ones that say what to do."""
    try:
        import tensorflow_datasets as tfds
        from google.protobuf import json_format  # type: ignore[import-untyped]

        try:
            yield tfds
        except tfds.core.DatasetNotFoundError as error:
            known = tfds.list_builders(with_community_datasets=False)
            raise DatasetError(_unknown(name, known)) from error
        except AssertionError as error:  # For a set, or a version of it, that is not there.
            where = directory or pathlib.Path(tfds.core.constants.DATA_DIR).expanduser()
            raise DatasetError(_not_prepared(name, where, error)) from error
        except (OSError, ValueError, KeyError, json_format.ParseError) as error:
            raise DatasetError(_damaged(name, error)) from error
    except ModuleNotFoundError as error:
        raise DatasetError(
            f"Dataset {name!r} needs a module that is missing ({error.name}): "
            f"pip install 'keras-renorm[zoo]'. Only {PACKAGED!r} does without."
        ) from error


def _unknown(name: str, known: list[str]) -> str:
    return (
        f"Unknown dataset {name!r}.{nearest(name, [PACKAGED, *known])} Allowed are "
        f"{', '.join(map(repr, SUGGESTED))} and every image classification set of TensorFlow "
        "Datasets with uint8 images of one size."
    )


def _not_prepared(name: str, where: pathlib.Path, error: AssertionError) -> str:
    if "could not find data" not in str(error):
        return f"Dataset {name!r} cannot be had: {_last_line(error)}"
    return (
        f"Dataset {name!r} is not prepared in {str(where)!r}. Prepare it once, on a machine with a "
        f'network: python -c "import tensorflow_datasets; tensorflow_datasets.load({name!r}, '
        f'data_dir={str(where)!r})". The set {PACKAGED!r} needs no preparing.'
    )


def _damaged(name: str, error: Exception) -> str:
    return (
        f"Dataset {name!r} cannot be read ({type(error).__name__}: {_last_line(error)}). If its "
        "files are damaged, delete its folder and prepare it again."
    )


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1] if str(error).strip() else "no message"


def _check_kind(name: str, found: Any, kinds: Any) -> None:
    """Refuses what cannot become a `Dataset`, before any of it is read."""
    features = dict(found.items()) if hasattr(found, "items") else {}
    image, label = features.get("image"), features.get("label")
    if not (isinstance(image, kinds.Image) and isinstance(label, kinds.ClassLabel)):
        raise DatasetError(
            f"Dataset {name!r} is not an image classification set: its 'image' must be an Image "
            f"and its 'label' a ClassLabel, received {sorted(features)}."
        )
    if np.dtype(image.np_dtype) != np.uint8 or None in image.shape:
        raise DatasetError(
            f"The images of {name!r} must be uint8 and of one size, received "
            f"{np.dtype(image.np_dtype)} of shape {image.shape}."
        )


def _read(name: str, stored: Any, count: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    import tensorflow as tf

    try:
        batch = stored.batch(count).get_single_element()
    except tf.errors.OpError as error:
        raise DatasetError(_damaged(name, error)) from error
    return batch["image"].numpy(), batch["label"].numpy().astype(np.int64)
