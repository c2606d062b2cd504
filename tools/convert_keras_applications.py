"""Converts weights of keras.applications to those of the same model here.

    python tools/convert_keras_applications.py --model=resnet50 --source=FILE --output=X.weights.h5

The source may have a top or none, and any number of classes. `zoo.create_model` loads such files as
they are; a converted one needs no renaming, and Keras alone can load it into the model.
Keras loads the source into its own model, and the outputs of both are compared.
"""

import argparse
import pathlib
import tempfile

import convert_shared
import keras

import zoo
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
    """Builds the model of keras.applications that a file is of, without its weights.

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


def convert_model(name: str, theirs: keras.Model, norm: str) -> keras.Model:
    """Returns our model with the weights of a model in memory; see `convert`."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "theirs.weights.h5")
        theirs.save_weights(path)
        return convert(name, path, norm, theirs)


def main(parsed: argparse.Namespace) -> None:
    """Converts, compares and writes."""
    theirs = build_theirs(parsed.model, parsed.source)
    ours = convert(parsed.model, parsed.source, parsed.norm, theirs)
    try:
        theirs.load_weights(parsed.source)
    except ValueError as error:
        raise UserError(f"Keras cannot load {parsed.source}: {error}") from error
    difference = convert_shared.largest_difference(
        lambda x: theirs(x, training=False),
        lambda x: ours(x, training=False),
        ours,
    )
    convert_shared.write(ours.save_weights, parsed.output, difference)
    options = dict(find(parsed.model, parsed.source).norm_options)
    print(f"Load it into a model with norm_options={options!r}.")


if __name__ == "__main__":
    parser = convert_shared.arguments(__doc__, ".weights.h5")
    parser.add_argument("--model", choices=sorted(MODELS), required=True, help="Its name here.")
    norms = ("batch_norm", "batch_renorm")
    parser.add_argument("--norm", choices=norms, default="batch_renorm", help="For the counters.")
    convert_shared.run(main, parser)
