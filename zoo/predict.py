"""Classifies images with a trained model.

python -m zoo.predict --model=DIR|FILE.keras|CHECKPOINT IMAGE-or-FOLDER ... [--output=FILE.json]

Prints a table, and writes FILE, .json or .csv, if one is given. DIR is the working directory of a
finished run of zoo.train, CHECKPOINT a name that zoo.list lists. Folders are searched at any depth.
"""

from typing import Any

from zoo.errors import UserError
from zoo.training.cli import program


def parse(argv: list[str]) -> tuple[str, list[str], dict[str, Any]]:
    """Returns the model, the images and the options of `predict`."""
    from absl import flags

    from zoo.training.cli import arguments

    model = flags.DEFINE_string("model", None, "Folder of a run, .keras file, or checkpoint.")
    options = [
        flags.DEFINE_integer("top", 5, "How many classes of each image.", 1, 2**31 - 1),
        flags.DEFINE_string("output", None, "File to write, .json or .csv; it must not exist."),
        flags.DEFINE_integer("batch_size", 32, "Images at a time.", 1, 2**31 - 1),
        flags.DEFINE_enum("pixels", None, arguments.PIXELS, arguments.PIXELS_HELP),
    ]
    _, *names = arguments.parse_flags(argv)
    path = arguments.required("model", model.value, "runs/quickstart")
    if not names:
        raise UserError(
            f"Say which images to classify, as in: python -m zoo.predict --model={path} photo.jpg."
        )
    return path, names, {option.name: option.value for option in options}


def main(parsed: tuple[str, list[str], dict[str, Any]]) -> int:
    """Classifies."""
    from zoo.training.cli.runtime import load_tensorflow

    load_tensorflow()
    from rich.console import Console

    from zoo.trained.predicting import predict

    model, names, options = parsed
    predict(model, names, Console(), **options)
    return 0


def run() -> None:
    """Runs the program with the arguments of the command line."""
    program.run(parse, main, __doc__)


if __name__ == "__main__":
    run()
