"""The layers of keras.applications under our names.

Our ResNets name their layers as keras.applications does, with `_norm` for `_bn` and `logits` for
the classifier; `InceptionV3` leaves the names to Keras, which numbers the layers as they are made.
In the older HDF5 layout the order of the layers tells which is which, as in Keras itself, and not
their names: the public files come from several versions of Keras, with several names.
"""

import re
from collections.abc import Iterator

from zoo.weights.errors import MismatchError
from zoo.weights.hdf5 import StoredLayer, StoredModel

_RESNET = re.compile(r"resnet(50|101|152)(v2)?")

#: The convolutions of InceptionV3, and likewise its normalizations, in the order of the model's
#: layers: by their distance from the output. The numbers are those of the order in which they are
#: made, which is that of `CONVOLUTIONS` of `zoo.models.inception_v3`.
_INCEPTION_V3 = (
    *(0, 1, 2, 3, 4, 8, 6, 9, 5, 7, 10, 11, 15, 13, 16, 12, 14, 17, 18, 22, 20, 23, 19, 21, 24, 25),
    *(27, 28, 26, 29, 34, 35, 31, 36, 32, 37, 30, 33, 38, 39, 44, 45, 41, 46, 42, 47, 40, 43, 48),
    *(49, 54, 55, 51, 56, 52, 57, 50, 53, 58, 59, 64, 65, 61, 66, 62, 67, 60, 63, 68, 69, 72, 73),
    *(70, 74, 71, 75, 80, 77, 81, 78, 79, 82, 83, 76, 84, 89, 86, 90, 87, 88, 91, 92, 85, 93),
)

#: Kinds of layers by the number of dimensions of their first weight: kernel or gamma or beta.
_KINDS = {1: "normalizations", 2: "classifiers", 4: "convolutions"}


def wrote(stored: StoredModel, architecture: str) -> bool:
    """Returns whether a file holds a model of keras.applications, and not one of ours.

    Args:
        stored: What the file holds.
        architecture: Name of the model that it is for.
    """
    known = architecture == "inception_v3" or _RESNET.fullmatch(architecture)
    ours = any(name.endswith("_norm") for name in stored.layers)
    # A model of ours without norms may have Keras's very names, but all of Keras's have norms.
    return bool(known) and not ours and bool(_by_kind(stored)["normalizations"])


def our_layers(stored: StoredModel, architecture: str) -> dict[str, StoredLayer]:
    """Returns the layers of a keras.applications file under our names.

    Args:
        stored: What the file holds.
        architecture: Name of the model, one for which `wrote` is true.

    Returns:
        The layers of the file by our names.

    Raises:
        MismatchError: If the file holds another model.
    """
    theirs = _by_kind(stored)
    ours = {
        "convolutions": [f"{name}_conv" for name in _convolutions(architecture)],
        "normalizations": [f"{name}_norm" for name in _normalizations(architecture)],
        "classifiers": ["logits"] * len(theirs["classifiers"]),
    }
    if _counts(theirs) != _counts(ours) or len(theirs["classifiers"]) > 1:
        raise MismatchError(
            f"The file does not hold {architecture} of keras.applications: expected "
            f"{_counts(ours)}, got {_counts(theirs)}. Nothing was loaded."
        )
    if not stored.ordered:
        theirs = _in_order(theirs, architecture)
    pairs = ((a, b) for kind in ours for a, b in zip(ours[kind], theirs[kind], strict=True))
    found = {our_name: stored.layers[name] for our_name, name in pairs if name in stored.layers}
    if len(found) < len(stored.layers):
        unknown = sorted(
            stored.layers.keys() - {name for names in theirs.values() for name in names}
        )
        raise MismatchError(
            f"The file does not hold {architecture} of keras.applications, which has no layers "
            f"{', '.join(unknown[:5])}. Nothing was loaded."
        )
    return found


def _by_kind(stored: StoredModel) -> dict[str, list[str]]:
    """The names in a file by kinds, in the order of the file."""
    kinds: dict[str, list[str]] = {"convolutions": [], "normalizations": [], "classifiers": []}
    for name, layer in stored.layers.items():
        kind = _KINDS.get(len(layer.weights[0].shape), "other layers")
        kinds.setdefault(kind, []).append(name)
    return kinds


def _counts(kinds: dict[str, list[str]]) -> str:
    return ", ".join(f"{len(names)} {kind}" for kind, names in kinds.items())


def _in_order(theirs: dict[str, list[str]], architecture: str) -> dict[str, list[str]]:
    """The names that keras.applications gives, in the order of a model's layers."""
    if architecture == "inception_v3":
        # Keras counts on from the models that a process made before.
        numbered = {kind: sorted(theirs[kind], key=_number) for kind in theirs}
        return theirs | {
            kind: [numbered[kind][i] for i in _INCEPTION_V3]
            for kind in ("convolutions", "normalizations")
        }
    return theirs | {
        "convolutions": [f"{name}_conv" for name in _convolutions(architecture)],
        "normalizations": [f"{name}_bn" for name in _normalizations(architecture)],
    }


def _number(name: str) -> int:
    """The k of a name "conv2d_k"; 0 of "conv2d"."""
    found = re.search(r"_(\d+)$", name)
    return int(found[1]) if found else 0


def _convolutions(architecture: str) -> list[str]:
    """What the names of the convolutions begin with, in the order of a model's layers."""
    if architecture == "inception_v3":
        from zoo.models.inception_v3 import CONVOLUTIONS  # zoo.models imports zoo.weights.

        return [CONVOLUTIONS[i] for i in _INCEPTION_V3]
    # The shortcut's convolution is as far from the output as the last one of the block.
    return ["conv1"] + [
        f"{block}_{part}"
        for block in _blocks(architecture)
        for part in ("1203" if block.endswith("block1") else "123")
    ]


def _normalizations(architecture: str) -> list[str]:
    if architecture.endswith("v2"):
        blocks = _blocks(architecture)
        return [*(f"{block}_{part}" for block in blocks for part in ("preact", "1", "2")), "post"]
    return _convolutions(architecture)


def _blocks(architecture: str) -> Iterator[str]:
    from zoo.models.resnet import BLOCKS  # zoo.models imports zoo.weights.

    match = _RESNET.fullmatch(architecture)
    assert match is not None
    for stage, count in enumerate(BLOCKS[int(match[1])], start=2):
        yield from (f"conv{stage}_block{block}" for block in range(1, count + 1))
