"""Evaluates a trained image classifier.

python -m zoo.evaluate --workdir=DIR [--dataset=NAME] [--split=test] [--data_dir=DIR]

DIR is the working directory of a finished run of zoo.train. Without further flags its model is
evaluated on the test images of the data set that it was trained on. Prints a table and writes
evaluation.json into DIR, in place of the one before.
"""

from absl import flags

from zoo.training import arguments, cli

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a finished run of zoo.train.")
_DATASET = flags.DEFINE_string("dataset", None, "Data set; by default the run's own.")
_SPLIT = flags.DEFINE_string("split", "test", "Split of the data set.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Of TensorFlow Datasets; the run's by default.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "Examples at a time.", lower_bound=1)


def parse(argv: list[str]) -> str:
    """Returns the working directory."""
    arguments.no_arguments(arguments.parse_flags(argv))
    return arguments.required("workdir", _WORKDIR.value, "runs/quickstart")


def main(workdir: str) -> int:
    """Evaluates."""
    from zoo.training.runtime import load_tensorflow

    load_tensorflow()
    from rich.console import Console

    from zoo.training.evaluation import evaluate_workdir

    evaluate_workdir(
        workdir,
        Console(),
        dataset=_DATASET.value,
        split=_SPLIT.value,
        data_dir=_DATA_DIR.value,
        batch_size=_BATCH_SIZE.value,
    )
    return 0


def run() -> None:
    """Runs the program with the arguments of the command line."""
    cli.run(parse, main, __doc__)


if __name__ == "__main__":
    run()
