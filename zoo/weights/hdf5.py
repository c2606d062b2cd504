"""The weights in a Keras file, by layer. A shape is checked before anything is read.

Two layouts hold weights by layer. Today's `.weights.h5`, of `model.save_weights`: a group
`layers/CLASS_k/vars` for each layer, with the layer's name as its attribute and the weights as
"0", "1", ... And the older one, of the public keras.applications files and of `model.save("x.h5")`:
a group for each layer, listed with its weights in the attributes `layer_names` and `weight_names`.
Nothing in either is unpickled, and links to other files are refused.
"""

import contextlib
import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py

from zoo.weights.errors import WeightsError

#: What a file of HDF5 begins with.
_SIGNATURE = b"\x89HDF\r\n\x1a\n"


@dataclasses.dataclass(frozen=True)
class StoredLayer:
    """The weights of one layer in a file.

    Attributes:
        weights: Arrays that are read when indexed, in the order of the layer's `weights`.
        names: Their names, such as "kernel"; empty if the file has none.
    """

    weights: tuple[Any, ...]
    names: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class StoredModel:
    """The weights in a file.

    Attributes:
        layers: Name of each layer with weights, and these.
        ordered: Whether the layers come in the order of the model's.
    """

    layers: dict[str, StoredLayer]
    ordered: bool


@contextlib.contextmanager
def open_weights(file: io.BufferedReader, path: Path) -> Iterator[StoredModel]:
    """Yields the weights in an open file; its arrays can be read until the end of the body.

    Args:
        file: The open file.
        path: Its name, for messages.

    Yields:
        The weights by layer.

    Raises:
        WeightsError: If the file is damaged, or no Keras file with weights.
    """
    _check_signature(file, path)
    # What h5py raises for a truncated or damaged file, when it is opened or when it is read; a
    # ValueError for numbers of unknown types, and for an address beyond 2**63.
    damage = OSError, RuntimeError, KeyError, ValueError
    with _as_damage(path, *damage), h5py.File(file, "r") as root:
        # The same for names that are no text, and for arrays in the place of groups.
        with _as_damage(path, TypeError, AttributeError):
            stored = _read(root, path)
        yield stored


@contextlib.contextmanager
def _as_damage(path: Path, *kinds: type[Exception]) -> Iterator[None]:
    """Turns exceptions of the given kinds into a `WeightsError` about the file."""
    try:
        yield
    except kinds as error:
        raise WeightsError(
            f"{path} is damaged, or no checkpoint: {error}. Nothing was loaded. Write or download "
            "it again."
        ) from error


def _check_signature(file: io.BufferedReader, path: Path) -> None:
    beginning = file.read(len(_SIGNATURE))
    file.seek(0)
    if beginning == _SIGNATURE:
        return
    if beginning.startswith(b"PK"):
        raise WeightsError(
            f"{path} is a zip archive, such as a whole .keras model or .npz arrays, and not "
            "weights in HDF5. Load the model with keras.saving.load_model, and write its weights "
            "with model.save_weights('model.weights.h5')."
        )
    raise WeightsError(
        f"{path} is no HDF5 file: it begins with {beginning!r}. Weights are loaded from files that "
        "model.save_weights('model.weights.h5') writes, and from those of keras.applications."
    )


def _read(root: Any, path: Path) -> StoredModel:
    if "model_weights" in root:  # A whole model in the older layout.
        root = _group(root, "model_weights")
    if "layer_names" in root.attrs or "layer_names0" in root.attrs:
        return StoredModel(_read_older(root), ordered=True)
    if "layers" in root:
        return StoredModel(_read_todays(_group(root, "layers"), path), ordered=False)
    raise WeightsError(
        f"{path} holds no weights of a Keras model, but {', '.join(map(repr, root)) or 'nothing'}. "
        "Write one with model.save_weights('model.weights.h5')."
    )


def _read_older(root: Any) -> dict[str, StoredLayer]:
    found = {}
    for name in _texts(root, "layer_names"):
        group = _group(root, name)
        paths = _texts(group, "weight_names")
        # "conv1_conv/kernel:0" of older Keras is "conv1_conv/kernel" today.
        names = tuple(path.split("/")[-1].split(":")[0] for path in paths)
        if paths:
            found[name] = StoredLayer(tuple(_dataset(group, path) for path in paths), names)
    return found


def _read_todays(layers: Any, path: Path) -> dict[str, StoredLayer]:
    found: dict[str, StoredLayer] = {}
    for key in layers:
        layer = _group(layers, key)
        weights: Any = _group(layer, "vars") if "vars" in layer else {}
        if len(weights):
            name = weights.attrs.get("name")
            if name is None or name in found:
                raise WeightsError(
                    f"{path} was written by a Keras that does not keep the names of the layers. "
                    "Load it into its model, and write it with model.save_weights of Keras 3.15."
                )
            found[name] = StoredLayer(tuple(_dataset(weights, str(i)) for i in range(len(weights))))
        _refuse_nested(layer, key, path)
    return found


def _refuse_nested(layer: Any, key: str, path: Path) -> None:
    """Refuses weights of layers inside of layers; the state of a random generator is none."""
    for inner in layer:
        if inner == "vars" or inner.startswith("seed_generator"):
            continue
        nested: list[str] = []
        group = _group(layer, inner)
        group.visititems(lambda name, item, to=nested: to.append(name) if _is_array(item) else None)
        if nested:
            raise WeightsError(
                f"{path} holds the weights of a model with layers in layers: {key}/{inner}/"
                f"{nested[0]}. The models of this package have none."
            )


def _is_array(item: Any) -> bool:
    return isinstance(item, h5py.Dataset)


def _texts(group: Any, name: str) -> list[str]:
    """A list of names among a group's attributes; one over 64 KB is cut into name0, name1, ..."""
    if name in group.attrs:
        parts = [group.attrs[name]]
    else:
        parts = []
        while f"{name}{len(parts)}" in group.attrs:
            parts.append(group.attrs[f"{name}{len(parts)}"])
    return [
        text.decode("utf-8") if isinstance(text, bytes) else str(text)
        for part in parts
        for text in part
    ]


def _group(parent: Any, name: str) -> Any:
    item = _followed(parent, name)
    if not isinstance(item, h5py.Group):
        raise KeyError(f"{item.name} is no group")
    return item


def _dataset(parent: Any, name: str) -> Any:
    """An array of numbers that lies in this file."""
    item = _followed(parent, name)
    if not _is_array(item) or item.dtype.kind not in "fiu" or item.external or item.is_virtual:
        raise KeyError(f"{item.name} is no array of numbers in this file")
    return item


def _followed(parent: Any, name: str) -> Any:
    """An item of a group, whose path has no links: they can lead to any file of this machine."""
    for part in name.split("/"):
        if not isinstance(parent.get(part, getlink=True), h5py.HardLink):
            raise KeyError(f"{parent.name}/{part} is missing, or a link")
        parent = parent[part]
    return parent
