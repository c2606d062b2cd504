"""Converts saved Keras models with `BatchNormalization(renorm=True)` to layers of ours."""

import pathlib
from collections.abc import Callable

import keras

from keras_renorm.models.members import batch_norms
from zoo.conversion import comparing
from zoo.errors import UserError, as_user_errors
from zoo.trained.card import read_card
from zoo.training.storage import model_files


def load_model(path: pathlib.Path) -> keras.Model:
    """Loads a saved model.

    Args:
        path: The file.

    Raises:
        UserError: If Keras cannot load it, or it has no weights yet.
    """
    model = model_files.load(path)
    if not model.built:
        raise UserError(
            f"The model in {path} has no weights yet: call it on an input, and save it again."
        )
    return model


def convert_file(source: pathlib.Path, output: pathlib.Path, report: Callable[[str], None]) -> None:
    """Writes a model with layers of this package.

    Every `keras.layers.BatchNormalization` becomes a layer of `keras_renorm`, those with
    renorm=True a `BatchRenormalization`; see `keras_renorm.convert.from_keras`, whose report is
    told. What a model of `zoo` says of its classes and images goes along. The source is loaded in
    Keras's safe mode, which runs no code in it from Keras 3.11.3 on.

    Args:
        source: A .keras file, or .h5 of `model.save`.
        output: `*.keras` to write; it must not exist.
        report: Called with sentences about what was found.

    Raises:
        UserError: If the files are not as they must be, or the model cannot be converted.
    """
    comparing.check_files(source, output, ".keras")
    theirs = load_model(source)
    with as_user_errors(ValueError):
        batch_norms(theirs)  # raises if there is none
    card = read_card(source) if source.suffix == ".keras" else None
    comparing.write_with_our_layers(theirs, theirs, output, report, card)
