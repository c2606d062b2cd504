"""Evaluates a trained image classifier.

python -m zoo.evaluate --workdir=DIR [--dataset=NAME] [--split=test] [--data_dir=DIR]
    [--statistics=moving|precise|minibatch]

DIR is the working directory of a finished run of zoo.train. Without further flags its model is
evaluated on the test images of the data set that it was trained on. Prints a table and writes
evaluation.json into DIR, in place of the one before.

The normalization layers use the moving statistics of the training; with --statistics=precise those
of --num_samples training images, computed anew with the final weights; with --statistics=minibatch
those of each minibatch of --batch_size images.
"""

from typing import Any

from zoo.training.cli import program


def parse(argv: list[str]) -> tuple[str, dict[str, Any]]:
    """Returns the working directory, and what to evaluate on by the names of `evaluate_workdir`."""
    from absl import flags

    from zoo.training.cli import arguments

    workdir = flags.DEFINE_string("workdir", None, "Folder of a finished run of zoo.train.")
    options = [
        flags.DEFINE_string("dataset", None, "Data set; by default the run's own."),
        flags.DEFINE_string("split", "test", "Split of the data set."),
        flags.DEFINE_string("data_dir", None, "Of TensorFlow Datasets; the run's by default."),
        flags.DEFINE_enum(
            "statistics",
            "moving",
            ["moving", "precise", "minibatch"],
            "What the normalization layers use.",
        ),
        flags.DEFINE_integer(
            "num_samples", 2000, "Training images for --statistics=precise.", 1, 2**31 - 1
        ),
        flags.DEFINE_integer(
            "batch_size", None, "Examples at a time; by default the run's.", 1, 2**31 - 1
        ),
    ]
    arguments.no_arguments(arguments.parse_flags(argv))
    path = arguments.required("workdir", workdir.value, "runs/quickstart")
    return path, {option.name: option.value for option in options}


def main(parsed: tuple[str, dict[str, Any]]) -> int:
    """Evaluates."""
    from zoo.training.cli.runtime import load_tensorflow

    load_tensorflow()
    from rich.console import Console

    from zoo.training.evaluation import evaluate_workdir

    workdir, options = parsed
    evaluate_workdir(workdir, Console(), **options)
    return 0


def run() -> None:
    """Runs the program with the arguments of the command line."""
    program.run(parse, main, __doc__)


if __name__ == "__main__":
    run()
