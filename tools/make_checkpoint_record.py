r"""Makes a checkpoint of a finished run of zoo.train, and prints its entry for the registry.

    python -m zoo.evaluate --workdir=RUN
    python tools/make_checkpoint_record.py --workdir=RUN --tag=fashion_mnist \
        --folder=zoo/weights/files --origin="zoo.train --config=resnet20"

Writes FOLDER/MODEL.TAG.weights.h5. Paste the entry into `zoo/weights/packaged.py`.
"""

import argparse
import hashlib
import json
import pathlib
import re
import sys
from typing import Any

import keras

from zoo.errors import UserError
from zoo.trained.card import Card, read_card
from zoo.trained.opening import load_model
from zoo.training import builders
from zoo.training.storage import files
from zoo.training.storage.workdir import Workdir

#: Options of a normalization layer that inference depends on, with their defaults.
_OPTIONS = {"epsilon": 1e-3, "scale": True, "center": True}

#: What a record says of a run's norm.
_NORMS = {"batch_norm": "batch_norm", "batch_renorm": "batch_norm", "skip_init": "skip_init"}


def read_evaluation(workdir: Workdir) -> dict[str, Any]:
    """Returns what zoo.evaluate found of the model that is there.

    Args:
        workdir: The run.

    Raises:
        UserError: If the evaluation is missing, or is of another model, data set or way of looking.
    """
    try:
        report = dict(json.loads(workdir.evaluation.read_text(encoding="utf-8")))
        digest = hashlib.sha256(workdir.model.read_bytes()).hexdigest()
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{workdir.evaluation} cannot be read ({error}): run python -m zoo.evaluate "
            f"--workdir={workdir.path}."
        ) from error
    about = (report.get("model_sha256"), report.get("statistics"), report.get("crops", 1))
    if about != (digest, "moving", 1):
        raise UserError(
            f"{workdir.evaluation} is not about one view of each image by the moving statistics of "
            f"{workdir.model}: run "
            f"python -m zoo.evaluate --workdir={workdir.path} again."
        )
    if report.get("norm") not in _NORMS:
        raise UserError(
            f"{workdir.path} has a model with norm={report.get('norm')!r}; a record holds one with "
            f"{', '.join(_NORMS)}."
        )
    trained_on = workdir.read_config("dataset")["dataset"]
    if report.get("dataset") != trained_on or report.get("split") == "train":
        raise UserError(
            f"{workdir.evaluation} is about {report.get('dataset')}, {report.get('split')}, and "
            f"not about images of {trained_on} that the model has not seen: run python -m "
            f"zoo.evaluate --workdir={workdir.path} again."
        )
    return report


def norm_options(model: keras.Model) -> dict[str, Any]:
    """Returns the options of the normalization layers that a model must be built with.

    Args:
        model: The model.
    """
    layers = [layer for layer in model.layers if layer.name.endswith("_norm")]
    return {
        name: getattr(layers[0], name)
        for name, default in _OPTIONS.items()
        if layers and getattr(layers[0], name, default) != default
    }


def entry(
    model: keras.Model,
    path: pathlib.Path,
    report: dict[str, Any],
    card: Card | None,
    **texts: str,
) -> str:
    """Returns the Python of a record.

    Args:
        model: The model.
        path: File of its weights.
        report: What `read_evaluation` returned.
        card: The model's, if its file has one.
        **texts: The record's name, licence and origin.
    """
    data = path.read_bytes()
    values = {
        "name": texts["name"],
        "file": path.name,
        "hash": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        "parameters": model.count_params(),
        "top1": round(100 * report["accuracy"], 2),
        "top1_source": (
            f"{report['num_examples']:,} images of {report['dataset']}, {report['split']}"
        ),
        "dataset": report["dataset"],
        "input_shape": tuple(model.input_shape[1:]),
        "preprocessing": card.preparation.pixels if card else "unit",
        "num_classes": int(builders.classifier_of(model).output_shape[-1]),
        "class_names": card.class_names if card else (),
        "norm": _NORMS[report["norm"]],
        "norm_options": norm_options(model),
        "licence": texts["licence"],
        "origin": texts["origin"],
    }
    lines = (f"    {key}={value!r}," for key, value in values.items())
    return "\n".join(["Record(", *lines, "),"])


def main(parsed: argparse.Namespace) -> None:
    """Writes the weights and prints the entry."""
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", parsed.tag):
        raise UserError(f"--tag must be of letters, digits, _, - and ., received {parsed.tag!r}.")
    workdir = Workdir(parsed.workdir)
    report = read_evaluation(workdir)
    model, card = load_model(workdir), read_card(workdir.model)
    name = f"{report['model']}.{parsed.tag}"
    output = parsed.folder / f"{name}.weights.h5"
    if output.exists():
        raise UserError(f"{output} exists already and is not overwritten: remove it first.")
    output.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(output) as temporary:
        model.save_weights(temporary)
    texts = {"name": name, "licence": parsed.licence, "origin": parsed.origin}
    print(entry(model, output, report, card, **texts))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", required=True, help="Folder of a finished run of zoo.train.")
    parser.add_argument("--tag", required=True, help="What follows the model in the name.")
    parser.add_argument("--folder", type=pathlib.Path, required=True, help="Where to write.")
    parser.add_argument("--origin", required=True, help="The command that trained it.")
    parser.add_argument("--licence", default="Apache-2.0", help="Licence of the weights.")
    try:
        main(parser.parse_args())
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")
