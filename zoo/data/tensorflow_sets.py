"""Image classification sets of TensorFlow Datasets: in memory, or read as they are needed."""

import contextlib
import functools
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from zoo.data.dataset import PACKAGED, SUGGESTED, Dataset, DatasetError
from zoo.data.decoding import as_encoded
from zoo.data.sources import EVALUATION, Source, Streamed
from zoo.errors import nearest

#: Up to here, images of one size stay in memory, and so do files that cannot be read by number.
_MEMORY_BYTES = 4 * 2**30


def load(name: str, split: str, data_dir: str | None) -> Dataset:
    """Loads a split into memory; see `zoo.data.datasets.load`."""
    return _Prepared(name, data_dir, one_size=True).in_memory(split)


def open_split(name: str, split: str, data_dir: str | None, held_out: float) -> Source:
    """Opens a split: in memory if its images have one size and fit, else image by image.

    Args:
        name: Name of TensorFlow Datasets.
        split: Name of the split, or "evaluation"; see `zoo.data.opening.open_split`.
        data_dir: Where TensorFlow Datasets keeps its sets; None for its default.
        held_out: Share of the training images for evaluation where there is no split for it.

    Raises:
        DatasetError: If the set is unknown, not prepared, unreadable or of another kind.
    """
    prepared = _Prepared(name, data_dir)
    split = prepared.resolve(split, held_out)
    return prepared.in_memory(split) if prepared.fits(split) else prepared.streamed(split)


class _Prepared:
    """A set that is on the disk.

    Args:
        name: Name of TensorFlow Datasets.
        data_dir: Where it is.
        one_size: Whether to refuse images of several sizes.
    """

    def __init__(self, name: str, data_dir: str | None, *, one_size: bool = False) -> None:
        self._name = name
        self._directory = None if data_dir is None else pathlib.Path(data_dir).expanduser()
        if self._directory is not None and not self._directory.is_dir():
            raise DatasetError(
                f"data_dir {str(self._directory)!r} is not a directory that can be read."
            )
        with _explained(name, self._directory) as tfds:
            self._tfds = tfds
            self._builder = tfds.builder(name, data_dir=self._directory)
            self._info = self._builder.info
        # Before the advice to prepare it, which can take hours.
        _check_kind(name, self._info.features, tfds.features, one_size)
        with _explained(name, self._directory):
            self._random_access = self._has_random_access()
        classes = self._info.features["label"]
        self._class_names = tuple(map(classes.int2str, range(classes.num_classes)))

    def _has_random_access(self) -> bool:
        """Whether records can be read by their numbers; raises if there are none on the disk."""
        formats = self._tfds.core.file_adapters.FileFormat
        if self._info.file_format == formats.ARRAY_RECORD:
            self._builder.as_data_source(split=None)
            return True
        self._builder.as_dataset()
        return False

    def resolve(self, split: str, held_out: float) -> str:
        """Returns what TensorFlow Datasets calls a split."""
        names = list(self._info.splits)
        evaluation = [name for name in ("validation", "test") if name in names]
        if "train" in names and not evaluation:
            count = self._count("train")
            # The first of those that are held out. Each part has an image where it can.
            first = count - min(max(1, round(held_out * count)), count - 1)
            parts = {"train": f"train[:{first}]", EVALUATION: f"train[{first}:]"}
            return parts.get(split, split)
        return evaluation[0] if split == EVALUATION and evaluation else split

    def fits(self, split: str) -> bool:
        """Whether the images have one size, and fit into memory."""
        shape = self._info.features["image"].shape
        return None not in shape and self._count(split) * np.prod(shape) <= _MEMORY_BYTES

    def _count(self, split: str) -> int:
        """Number of images of a split."""
        try:
            count = int(self._info.splits[split].num_examples)
        except (KeyError, ValueError) as error:
            raise DatasetError(
                f"Dataset {self._name!r} has no split {split!r}, only {list(self._info.splits)}."
            ) from error
        if not count:
            raise DatasetError(f"Dataset {self._name!r} has no images in its split {split!r}.")
        return count

    def in_memory(self, split: str) -> Dataset:
        """Returns the images and labels of a split."""
        images, labels = self._read(split, self._count(split))
        try:
            return Dataset(self._name, split, images, labels, self._class_names)
        except ValueError as error:
            raise DatasetError(
                f"The {split!r} images of {self._name!r} cannot be used: {error}"
            ) from error

    def _read(self, split: str, count: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Returns all examples of a split."""
        try:
            if self._random_access:
                source = self._builder.as_data_source(split)
                examples = [source[index] for index in range(count)]
                images = np.stack([example["image"] for example in examples])
                return images, np.array([example["label"] for example in examples], np.int64)
            batch = self._builder.as_dataset(split=split).batch(count).get_single_element()
        except (tf.errors.OpError, OSError, ValueError) as error:
            raise DatasetError(_damaged(self._name, error)) from error
        return batch["image"].numpy(), batch["label"].numpy().astype(np.int64)

    def streamed(self, split: str) -> Streamed:
        """Returns a split whose images are decoded as they are needed."""
        count = self._count(split)
        by_number = self._by_number if self._random_access else self._kept
        fetch, read, find_labels = by_number(split, count)
        shape = (None, None, self._info.features["image"].shape[-1])
        return Streamed(
            self._name, split, self._class_names, shape, count, fetch, read, find_labels
        )

    def _by_number(self, split: str, count: int) -> tuple[Any, Any, Any]:
        """Reads records as they are needed."""
        raw = self._tfds.decode.DeserializeMethod.RAW_BYTES
        source = self._builder.as_data_source(split, deserialize_method=raw)
        features = self._info.features
        decoders = {"image": self._tfds.decode.SkipDecoding()}

        def records(numbers: Any) -> Any:
            return np.array(source.__getitems__(numbers.tolist()), object)

        def fetch(indices: Any) -> Any:
            # Declared stateless: the same numbers give the same records.
            found = tf.numpy_function(records, [indices], tf.string, stateful=False)
            return tf.ensure_shape(found, indices.shape)

        def read(record: Any) -> tuple[Any, Any]:
            example = features.deserialize_example(record, decoders=decoders)
            return as_encoded(example["image"]), tf.cast(example["label"], tf.int64)

        def find_labels() -> npt.NDArray[np.int64]:
            numbers = tf.data.Dataset.range(count).batch(256).map(fetch).unbatch()
            labels = numbers.map(lambda record: read(record)[1], tf.data.AUTOTUNE)
            return np.array(list(labels.as_numpy_iterator()), np.int64)

        return fetch, read, functools.cache(find_labels)

    def _kept(self, split: str, count: int) -> tuple[Any, Any, Any]:
        """Keeps the files of all images in memory: they can only be read from the beginning."""
        # TensorFlow Datasets knows no size of train[:800] or train+test.
        splits = self._info.splits.values()
        size = count * sum(s.num_bytes for s in splits) / sum(s.num_examples for s in splits)
        if size > _MEMORY_BYTES:
            raise DatasetError(
                f"Dataset {self._name!r} has {size / 2**30:.1f} GiB of images in its split "
                f"{split!r}, in a format that can only be read from the beginning. Prepare it in "
                'one that can be read by number: python -c "import tensorflow_datasets; '
                f"tensorflow_datasets.builder({self._name!r}, data_dir='ANOTHER', "
                "file_format='array_record').download_and_prepare()\", and give that data_dir."
            )
        decoders = {"image": self._tfds.decode.SkipDecoding()}
        stored = self._builder.as_dataset(split=split, decoders=decoders)
        try:
            batch = stored.batch(count).get_single_element()
        except tf.errors.OpError as error:
            raise DatasetError(_damaged(self._name, error)) from error
        contents, labels = batch["image"], tf.cast(batch["label"], tf.int64)

        def fetch(indices: Any) -> Any:
            return tf.gather(contents, indices), tf.gather(labels, indices)

        return fetch, lambda item: (as_encoded(item[0]), item[1]), labels.numpy


@contextlib.contextmanager
def _explained(name: str, directory: pathlib.Path | None) -> Iterator[Any]:
    """Yields TensorFlow Datasets, and turns its errors into ones that say what to do."""
    try:
        import tensorflow_datasets as tfds
        from google.protobuf import json_format

        try:
            yield tfds
        except tfds.core.DatasetNotFoundError as error:
            known = tfds.list_builders(with_community_datasets=False)
            raise DatasetError(_unknown(name, known)) from error
        except AssertionError as error:  # For a set, or a version of it, that is not there.
            where = directory or pathlib.Path(tfds.core.constants.DATA_DIR).expanduser()
            raise DatasetError(_not_prepared(name, where, error)) from error
        except (OSError, ValueError, KeyError, json_format.ParseError) as error:
            if re.search(r"\bBuilderConfig \S+ not found", str(error)):
                base, config = re.split("[/:]", name)[:2]
                known = list(tfds.builder_cls(base).builder_configs)
                raise DatasetError(_no_config(base, config, known)) from error
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
        "Datasets with uint8 images."
    )


def _no_config(base: str, config: str, known: list[str]) -> str:
    few = ", ".join(map(repr, known[:5])) + f" and {len(known) - 5} more" * (len(known) > 5)
    which = f"It has {few}." if known else f"It has none: write {base!r}."
    return f"Dataset {base!r} has no configuration {config!r}.{nearest(config, known)} {which}"


def _not_prepared(name: str, where: pathlib.Path, error: AssertionError) -> str:
    if "could not find data" not in str(error):
        return f"Dataset {name!r} cannot be opened: {_last_line(error)}"
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


def _check_kind(name: str, found: Any, kinds: Any, one_size: bool) -> None:
    """Refuses what cannot be used, before any of it is read."""
    features = dict(found.items()) if hasattr(found, "items") else {}
    image, label = features.get("image"), features.get("label")
    if not (isinstance(image, kinds.Image) and isinstance(label, kinds.ClassLabel)):
        raise DatasetError(
            f"Dataset {name!r} is not an image classification set: its 'image' must be an Image "
            f"and its 'label' a ClassLabel, received {sorted(features)}."
        )
    if np.dtype(image.np_dtype) != np.uint8 or (one_size and None in image.shape):
        raise DatasetError(
            f"The images of {name!r} must be uint8{' and of one size' * one_size}, received "
            f"{np.dtype(image.np_dtype)} of shape {image.shape}."
        )
