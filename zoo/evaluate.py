"""Evaluates a trained image classifier: top 1, top 5, each class, and what is taken for what.

python -m zoo.evaluate --workdir=DIR [--dataset=NAME] [--split=NAME] [--data_dir=DIR]
    [--weights=raw|averaged] [--statistics=moving|precise|minibatch] [--crops=1|2|10|144]
python -m zoo.evaluate --model=DIR|FILE.keras|CHECKPOINT [--model=... ...]
    [--dataset=folder --data_dir=DIR --split=all]

DIR is the working directory of a finished run of zoo.train. Without further flags its model is
evaluated on the images that its training was evaluated on. Prints tables and writes evaluation.json
into DIR, in place of the one before. CHECKPOINT is a name that zoo.list lists. With several --model
their probabilities are averaged. --weights=averaged takes model_averaged.keras of each DIR.

The normalization layers use the moving statistics of the training. --statistics=precise takes those
of --num_samples training images, computed anew with the final weights, and --statistics=minibatch
those of each minibatch of --batch_size images. --crops averages over parts of each image.
"""

from typing import Any

from zoo.errors import UserError
from zoo.training.allowed import LARGEST_INT as _LARGEST
from zoo.training.cli import program


def parse(argv: list[str]) -> dict[str, Any]:
    """Returns what to evaluate on what, by the names of `evaluate`."""
    from absl import flags

    from zoo.training.cli import arguments

    statistics, crops = ["moving", "precise", "minibatch"], ["1", "2", "10", "144"]
    options = [
        flags.DEFINE_string("workdir", None, "Folder of a finished run of zoo.train."),
        flags.DEFINE_multi_string("model", [], "Or: a folder, .keras file or checkpoint's name."),
        flags.DEFINE_enum(
            "weights", "raw", ["raw", "averaged"], "Which model of a working directory."
        ),
        flags.DEFINE_string("dataset", None, "Data set; by default the run's own."),
        flags.DEFINE_string("split", None, "Split; by default the one that training evaluates on."),
        flags.DEFINE_string("data_dir", None, "Folder of the data set. By default the run's."),
        flags.DEFINE_bool("skip_bad_files", False, "Leave out unusable files."),
        flags.DEFINE_enum("statistics", "moving", statistics, "What normalization layers use."),
        flags.DEFINE_integer("num_samples", None, "For precise: 2000 images, or all.", 1, _LARGEST),
        flags.DEFINE_integer("batch_size", None, "Images at a time; the run's.", 1, _LARGEST),
        flags.DEFINE_enum("crops", "1", crops, "2: mirrored, too; 10: corners; 144: GoogLeNet."),
        flags.DEFINE_enum("pixels", None, arguments.PIXELS, arguments.PIXELS_HELP),
        flags.DEFINE_string("output", None, "JSON file of the report; it must not exist."),
    ]
    arguments.no_arguments(arguments.parse_flags(argv))
    values = {option.name: option.value for option in options}
    if not values["model"]:
        arguments.required("workdir", values["workdir"], "runs/quickstart")
    for model in values["model"]:
        arguments.required("model", model, "runs/quickstart")
    if values["num_samples"] is not None and values["statistics"] != "precise":
        raise UserError(
            f"--num_samples={values['num_samples']} is for --statistics=precise, received "
            f"--statistics={values['statistics']}."
        )
    return values | {"crops": int(values["crops"])}


def main(options: dict[str, Any]) -> int:
    """Evaluates."""
    from zoo.training.cli.runtime import load_tensorflow

    load_tensorflow()
    from rich.console import Console

    from zoo.trained.evaluating import evaluate

    evaluate(Console(), **options)
    return 0


def run() -> None:
    """Runs the program with the arguments of the command line."""
    program.run(parse, main, __doc__)


if __name__ == "__main__":
    run()
