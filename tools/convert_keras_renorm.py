"""Converts a saved Keras model with `BatchNormalization(renorm=True)` to one with layers of ours.

    python tools/convert_keras_renorm.py --source=model.keras --output=ours.keras

Every `keras.layers.BatchNormalization` becomes a layer of `keras_renorm`, those with renorm=True a
`BatchRenormalization`; see `keras_renorm.convert.from_keras`, whose report is printed. The source
is a .keras file, or .h5 of `model.save`. It is loaded in Keras's safe mode: nothing in it is run.
"""

import argparse
import pathlib

import convert_shared
import keras

from keras_renorm import convert
from zoo.errors import UserError


def load_model(path: pathlib.Path) -> keras.Model:
    """Loads a saved model.

    Args:
        path: The file.

    Raises:
        UserError: If Keras cannot load it, or it has no weights yet.
    """
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise UserError(f"Keras cannot load {path}: {error}") from error
    if not model.built:
        raise UserError(
            f"The model in {path} has no weights yet: call it on an input, and save it again."
        )
    return model


def main(parsed: argparse.Namespace) -> None:
    """Converts, compares and writes."""
    theirs = load_model(parsed.source)
    try:
        ours = convert.from_keras(theirs, report=print)
    except (ValueError, TypeError) as error:
        raise UserError(str(error)) from error
    difference = convert_shared.largest_difference(
        lambda x: theirs(x, training=False),
        lambda x: ours(x, training=False),
        ours,
    )
    convert_shared.write(ours.save, parsed.output, difference)


if __name__ == "__main__":
    convert_shared.run(main, convert_shared.arguments(__doc__, ".keras"))
