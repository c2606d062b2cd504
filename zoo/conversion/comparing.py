"""What the converters have in common: they compare, and never overwrite."""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_renorm import convert, keras_internals
from zoo.errors import UserError, as_user_errors
from zoo.trained.card import Card, write_card
from zoo.training.storage import files, places
from zoo.training.storage.writing import writing

#: An output may differ by that much of the largest: sums are rounded in another order.
TOLERANCE = 1e-3

#: The same in half precision: 8 times the distance from 1 to the next number. ResNet-50 without its
#: top differed by 0.0013 in float16, and by 0.011 in bfloat16.
_HALVES = {"float16": 8 * 2**-10, "bfloat16": 8 * 2**-7}


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
    expected: Sequence[Any], found: Sequence[Any], tolerance: float = TOLERANCE
) -> float:
    """Returns the largest difference between the outputs of a model and of what it became.

    Args:
        expected: The model's outputs, arrays.
        found: The others', likewise.
        tolerance: What is allowed, as a share of the largest output, or of 1 if that is less.

    Returns:
        max |expected - found|.

    Raises:
        UserError: If it is more than is allowed, or not finite.
    """
    pairs = [
        [np.asarray(output, np.float64) for output in pair]
        for pair in zip(expected, found, strict=True)
    ]
    with np.errstate(invalid="ignore"):  # infinities may be taken from each other
        # Python's max passes over a NaN, NumPy's does not.
        difference = float(np.max([np.max(np.abs(a - b)) for a, b in pairs]))
    allowed = tolerance * max(1.0, float(np.max([np.max(np.abs(a)) for a, _ in pairs])))
    if not np.isfinite(difference) or difference > allowed:
        raise UserError(
            f"The result does not do what the model does: an output differs by {difference:.3g}, "
            f"more than {allowed:.3g}. Nothing was written."
        )
    return difference


def _outputs(model: Callable[..., Any], x: Any) -> list[Any]:
    outputs = keras.tree.flatten(model(x, training=False))
    return [keras.ops.convert_to_numpy(output) for output in outputs]


def tolerance_of(model: keras.Model) -> float:
    """Returns the share that is allowed for the coarsest type in which a layer computes."""
    types = {layer.compute_dtype for layer in keras_internals.flattened(model)}
    return max(_HALVES.get(name, TOLERANCE) for name in types)


def _examples(rng: np.random.Generator, symbolic: Any) -> Any:
    """Random numbers of a symbolic input's shape and type: 0 and 1 for integers."""
    batch, *sizes = symbolic.shape
    shape = (batch or 2, *(size or 64 for size in sizes))
    if "float" in symbolic.dtype:
        return rng.normal(0.0, 1.0, shape).astype(np.float32)
    return rng.integers(0, 2, shape).astype(symbolic.dtype)


def write(
    theirs: Callable[..., Any],
    ours: keras.Model,
    save: Callable[[pathlib.Path], None],
    output: pathlib.Path,
    report: Callable[[str], None],
) -> None:
    """Compares two models on two random examples, writes one, and says how it compares.

    Args:
        theirs: The source, called as `theirs(inputs, training=False)`.
        ours: The result. Unknown sizes of its inputs are taken as 64, that of the batch as 2.
        save: Writes a file.
        output: Its name; it is written in one piece.
        report: Called with a sentence.

    Raises:
        UserError: If the outputs do not agree, or the file cannot be written.
    """
    rng = np.random.default_rng(0)
    # A Sequential has no `input`.
    inputs = ours.inputs[0] if len(ours.inputs) == 1 else ours.input
    x = keras.tree.map_structure(lambda symbolic: _examples(rng, symbolic), inputs)
    expected, found = (_outputs(model, x) for model in (theirs, ours))
    difference = largest_difference(expected, found, tolerance_of(ours))
    with writing(output), files.replacing(output, existing=False) as temporary:
        save(temporary)
    report(f"{output}: largest difference of the outputs {difference:.3g}")


def write_with_our_layers(
    theirs: Callable[..., Any],
    model: keras.Model,
    output: pathlib.Path,
    report: Callable[[str], None],
    card: Card | None = None,
) -> None:
    """Writes a model with our batch norms in place of Keras's; see `convert.from_keras`.

    Args:
        theirs: The source, to compare with; see `write`.
        model: The source as a model of Keras 3.
        output: The .keras file to write.
        report: Called with sentences about what was found.
        card: What the file says beside the model, if anything.

    Raises:
        UserError: If the model cannot be converted or written, or the outputs do not agree.
    """
    with as_user_errors(ValueError, TypeError):
        ours = convert.from_keras(model, report=lambda found: report(str(found)))

    def save(path: pathlib.Path) -> None:
        ours.save(path)
        if card is not None:
            write_card(path, card)

    write(theirs, ours, save, output, report)
