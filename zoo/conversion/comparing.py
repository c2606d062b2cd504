"""What the converters have in common: they compare, and never overwrite."""

import pathlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from zoo.errors import UserError
from zoo.training.storage import files, places
from zoo.training.storage.writing import writing


def check_files(source: pathlib.Path, output: pathlib.Path, suffix: str) -> None:
    """Raises unless the source exists and the output can be written without losing anything.

    Args:
        source: File or folder to convert.
        output: File to write.
        suffix: What its name must end in.

    Raises:
        UserError: If the source does not exist, or the output cannot be written so.
    """
    if not source.exists():
        raise UserError(f"There is no file {source}.")
    places.new_path(output, suffix)


def largest_difference(
    theirs: Callable[[Any], Any], ours: Callable[[Any], Any], model: keras.Model
) -> float:
    """The largest difference of two models' outputs on two random examples.

    Args:
        theirs: The source, which maps inputs to outputs in inference.
        ours: The result.
        model: A model with the inputs of both. Unknown sizes are taken as 64, that of the batch as
            2.

    Returns:
        max |theirs(x) - ours(x)|.
    """
    rng = np.random.default_rng(0)
    # A Sequential has no `input`.
    inputs = model.inputs[0] if len(model.inputs) == 1 else model.input
    x = keras.tree.map_structure(lambda symbolic: _examples(rng, symbolic), inputs)
    differences = [
        np.max(np.abs(np.asarray(a) - keras.ops.convert_to_numpy(b)))
        for a, b in zip(_flat(theirs(x)), _flat(ours(x)), strict=True)
    ]
    return float(max(differences))


def _examples(rng: np.random.Generator, symbolic: Any) -> Any:
    """Random numbers of a symbolic input's shape and type: 0 and 1 for integers."""
    batch, *sizes = symbolic.shape
    shape = (batch or 2, *(size or 64 for size in sizes))
    if "float" in symbolic.dtype:
        return rng.normal(0.0, 1.0, shape).astype(np.float32)
    return rng.integers(0, 2, shape).astype(symbolic.dtype)


def _flat(outputs: Any) -> list[Any]:
    return list(keras.tree.flatten(outputs))


def write(
    save: Callable[[pathlib.Path], None],
    output: pathlib.Path,
    difference: float,
    report: Callable[[str], None],
) -> None:
    """Writes the output in one piece, and says how it compares.

    Args:
        save: Writes a file.
        output: Its name.
        difference: What `largest_difference` returned.
        report: Called with a sentence.
    """
    with writing(output), files.replacing(output) as temporary:
        save(temporary)
    report(f"{output}: largest difference of the outputs {difference:.3g}")
