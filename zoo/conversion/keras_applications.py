"""Converts weights of keras.applications to those of the same model here."""

import pathlib
from collections.abc import Callable

import keras

import zoo
from zoo.conversion import comparing
from zoo.errors import UserError
from zoo.weights import find, load

MODELS = {
    "inception_v3": keras.applications.InceptionV3,
    "resnet50": keras.applications.ResNet50,
    "resnet101": keras.applications.ResNet101,
    "resnet152": keras.applications.ResNet152,
    "resnet50v2": keras.applications.ResNet50V2,
    "resnet101v2": keras.applications.ResNet101V2,
    "resnet152v2": keras.applications.ResNet152V2,
}


def build_theirs(name: str, path: pathlib.Path) -> keras.Model:
    """Builds the keras.applications model of a file, without its weights.

    Args:
        name: A key of `MODELS`.
        path: The file.
    """
    classes = find(name, path).num_classes
    size = 299 if name == "inception_v3" else 224
    top = {"classes": classes} if classes else {}
    return MODELS[name](
        weights=None, include_top=classes is not None, input_shape=(size, size, 3), **top
    )


def convert(name: str, path: pathlib.Path, norm: str, theirs: keras.Model) -> keras.Model:
    """Returns our model with the weights of a file.

    Args:
        name: A key of `MODELS`.
        path: The file.
        norm: "batch_norm" or "batch_renorm".
        theirs: The model of keras.applications, which tells the shapes.
    """
    source = find(name, path)
    ours = zoo.create_model(
        name,
        norm=norm,
        norm_options=source.norm_options,
        input_shape=theirs.input_shape[1:],
        num_classes=source.num_classes,
        include_top=source.num_classes is not None,
    )
    load(ours, source)
    return ours


def convert_file(
    source: pathlib.Path,
    output: pathlib.Path,
    report: Callable[[str], None],
    *,
    name: str,
    norm: str = "batch_renorm",
) -> None:
    """Writes the weights of a file as those of the same model of this package.

    The source may have a top or none, and any number of classes. `zoo.create_model` loads such
    files as they are; a converted one needs no renaming, and Keras alone can load it into the
    model. Keras loads the source into its own model, and the outputs of both are compared.

    Args:
        source: File of weights, as keras.applications publishes them.
        output: `*.weights.h5` to write; it must not exist.
        report: Called with a sentence about what was found.
        name: A key of `MODELS`.
        norm: "batch_norm" or "batch_renorm", for the counters.

    Raises:
        UserError: If the files are not as they must be, or the source is another model's.
    """
    if name not in MODELS:
        raise UserError(
            f"Unknown model {name!r} of keras.applications. Allowed are "
            f"{', '.join(sorted(MODELS))}."
        )
    comparing.check_files(source, output, ".weights.h5")
    theirs = build_theirs(name, source)
    ours = convert(name, source, norm, theirs)
    try:
        theirs.load_weights(source)
    except ValueError as error:
        raise UserError(f"Keras cannot load {source}: {error}") from error
    comparing.write(theirs, ours, ours.save_weights, output, report)
    options = dict(find(name, source).norm_options)
    report(f"Load it into a model with norm_options={options!r}.")
