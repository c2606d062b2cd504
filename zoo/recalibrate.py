"""Computes the population statistics of a trained model anew, from images of any kind.

python -m zoo.recalibrate --model=DIR|FILE.keras|CHECKPOINT --output=FILE.keras IMAGE-or-FOLDER ...

Use it for images that differ from those of the training: another camera, another light. It needs no
labels, and changes only the statistics of the normalization layers. Each image counts once
(PreciseBN, Wu & Johnson 2021). Folders are searched at any depth.
"""

from typing import Any

from zoo.errors import UserError
from zoo.training.cli import program
from zoo.training.cli.signals import as_interrupts


def parse(argv: list[str]) -> tuple[tuple[str, list[str], str], dict[str, Any]]:
    """Returns the model, the images and the output, and the options of `recalibrate`."""
    from absl import flags

    from zoo.training.cli import arguments

    model = flags.DEFINE_string("model", None, "Folder of a run, .keras file, or checkpoint.")
    output = flags.DEFINE_string("output", None, "The .keras file to write; it must not exist.")
    options = [
        flags.DEFINE_integer(
            "num_samples", None, "Number of images, spread over all; by default all.", 1, 2**31 - 1
        ),
        flags.DEFINE_integer("batch_size", 100, "Images at a time.", 1, 2**31 - 1),
        flags.DEFINE_enum("pixels", None, arguments.PIXELS, arguments.PIXELS_HELP),
    ]
    _, *names = arguments.parse_flags(argv)
    given = arguments.required("model", model.value, "runs/quickstart")
    path = arguments.required("output", output.value, "recalibrated.keras")
    if not names:
        raise UserError(
            "Say which images to take the statistics of, as in: python -m zoo.recalibrate "
            f"--model={given} --output={path} photos/."
        )
    return (given, names, path), {option.name: option.value for option in options}


def main(parsed: tuple[tuple[str, list[str], str], dict[str, Any]]) -> int:
    """Recalibrates."""
    from zoo.training.cli.runtime import load_tensorflow

    load_tensorflow()
    from rich.console import Console

    from zoo.trained.recalibrating import recalibrate

    (model, names, output), options = parsed
    with as_interrupts():
        recalibrate(model, names, output, Console(), **options)
    return 0


def run() -> None:
    """Runs the program with the arguments of the command line."""
    program.run(parse, main, __doc__)


if __name__ == "__main__":
    run()
