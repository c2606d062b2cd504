"""The meaning of a model's `weights=...`, before anything is downloaded."""

import dataclasses
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from zoo.errors import nearest
from zoo.weights import hdf5, keras_applications
from zoo.weights.errors import WeightsError
from zoo.weights.record import Record
from zoo.weights.records import RECORDS, get_record, list_weights

#: A tag, a name `architecture.tag`, or the path of a file.
Weights: TypeAlias = str | os.PathLike[str]

_SUFFIXES = re.compile(r"\.(h5|hdf5|keras|npz|npy|pkl|pt|pth|ckpt|safetensors)$", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Source:
    """The origin of weights, and the model that takes them.

    Attributes:
        architecture: Name of the model.
        record: The checkpoint's record; None for a file of the user's.
        path: The user's file; None for a checkpoint with a record.
        published: The record of the published weights that take the same images: the checkpoint's
            own, or for a file of keras.applications that of the model; else None.
        norm_options: Arguments of the normalization layers without which the outputs are not those
            of the model that the weights were trained in.
        num_classes: Number of classes; None without a top.
    """

    architecture: str
    record: Record | None = None
    path: Path | None = None
    published: Record | None = None
    norm_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    num_classes: int | None = None

    @property
    def name(self) -> str:
        """Name of the checkpoint or of the file."""
        return self.record.name if self.record else str(self.path)


def find(architecture: str, weights: Weights) -> Source:
    """Returns the source that a model's `weights` name.

    Args:
        architecture: Name of the model, such as "resnet50".
        weights: "keras_imagenet" or "resnet50.keras_imagenet", or the path of a file: one that ends
            in a suffix such as ".h5", has a folder in it, or is a `Path`.

    Returns:
        The source. A file is opened, nothing is downloaded.

    Raises:
        WeightsError: If no weights have that name, or they belong to another model; if the file
            does not exist, holds no weights, or holds another model of keras.applications.
        TypeError: If `weights` is neither a string nor a path.

    Example:
        >>> source = find("resnet50", "keras_imagenet")
        >>> source.num_classes, dict(source.norm_options)
        (1000, {'epsilon': 1.001e-05})
    """
    if not isinstance(weights, str | os.PathLike):
        raise TypeError(
            "`weights` must be a tag such as 'keras_imagenet', or the path of a file, received "
            f"{weights!r}."
        )
    if not isinstance(weights, str) or os.sep in weights or _SUFFIXES.search(weights):
        return _file(architecture, Path(weights).expanduser())
    record = RECORDS.get(weights) or RECORDS.get(f"{architecture}.{weights}")
    if record is None:
        _refuse(architecture, weights)
    if record.architecture != architecture:
        raise WeightsError(
            f"{record.name} are weights of {record.architecture!r}, not of {architecture!r}: write "
            f"zoo.create_model({record.architecture!r}, weights={record.tag!r}), or to zoo.train "
            f"--config.model={record.architecture}."
        )
    return Source(
        architecture,
        record=record,
        published=record,
        norm_options=record.norm_options,
        num_classes=record.num_classes,
    )


def _refuse(architecture: str, weights: str) -> NoReturn:
    _refuse_run(Path(weights))
    if "." in weights:
        get_record(weights)
    tags = [name.partition(".")[2] for name in list_weights(f"{architecture}.*")]
    known = f"There are {', '.join(map(repr, tags))}" if tags else "There are none"
    raise WeightsError(
        f"There are no weights {weights!r} for {architecture!r}.{nearest(weights, tags)} {known}, "
        "and the path of a file, which ends in .h5 or .keras, can be given."
    )


def _refuse_run(path: Path) -> None:
    """Raises a `WeightsError` for the folder of a run, which programs take as a model."""
    if (path / "model.keras").is_file():
        raise WeightsError(
            f"{path} is a folder, and `weights` is the path of a file. Its model is "
            f"{path / 'model.keras'}: zoo.train takes that as --config.weights, and "
            "keras.saving.load_model loads it."
        )


def _file(architecture: str, path: Path) -> Source:
    _refuse_run(path)
    if not path.is_file():
        raise WeightsError(
            f"There is no file {path}. `weights` is the path of a file, or one of the names that "
            "`python -m zoo.list` lists."
        )
    with path.open("rb") as file, hdf5.open_weights(file, path) as stored:
        keras_wrote = keras_applications.wrote(stored, architecture)
        if keras_wrote:
            keras_applications.our_layers(stored, architecture)
        heads = [
            layer.weights[0].shape[-1]
            for name, layer in stored.layers.items()
            if name == "logits" or (keras_wrote and len(layer.weights[0].shape) == 2)
        ]
    published = RECORDS[f"{architecture}.keras_imagenet"] if keras_wrote else None
    return Source(
        architecture,
        path=path,
        published=published,
        norm_options={} if published is None else published.norm_options,
        num_classes=heads[0] if heads else None,
    )
