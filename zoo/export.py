"""Exports a trained model for others to run, folded, and checks it against the model.

python -m zoo.export --model=DIR|FILE.keras|CHECKPOINT --output=PATH
    [--format=keras|saved_model|litert|onnx] [IMAGE-or-FOLDER ...]

keras: a .keras file that Keras alone loads. saved_model: a folder whose signature serving_default
takes the bytes of JPEG files (or PNG, GIF, BMP), and pixels takes images in [0, 255]. litert: a
.tflite file, and onnx, where tf2onnx and onnxruntime are installed: both take such pixels. Without
--format the suffix of PATH says which. The export is run on the images, by default those that the
training was evaluated on, and kept only if it gives the model's probabilities.
"""

from pathlib import Path
from typing import Any

from zoo.errors import UserError
from zoo.training.cli import program
from zoo.training.cli.signals import as_interrupts

_SUFFIXES = {".keras": "keras", ".tflite": "litert", ".onnx": "onnx", "": "saved_model"}


def parse(argv: list[str]) -> tuple[tuple[str, str, str], dict[str, Any]]:
    """Returns the model, the output and the format, and the options of `export`."""
    from absl import flags

    from zoo.training.cli import arguments

    model = flags.DEFINE_string("model", None, "Folder of a run, .keras file, or checkpoint.")
    output = flags.DEFINE_string("output", None, "What to write; it must not exist.")
    formats = ["keras", "saved_model", "litert", "onnx"]
    kind = flags.DEFINE_enum("format", None, formats, "By default as the suffix of --output says.")
    data_dir = flags.DEFINE_string(
        "data_dir", None, "Folder of the run's images, if they have moved."
    )
    pixels = flags.DEFINE_enum("pixels", None, arguments.PIXELS, arguments.PIXELS_HELP)
    _, *names = arguments.parse_flags(argv)
    given = arguments.required("model", model.value, "runs/quickstart")
    path = arguments.required("output", output.value, "served")
    options = {"names": names, "data_dir": data_dir.value, "pixels": pixels.value}
    return (given, path, kind.value or _format_of(path)), options


def _format_of(path: str) -> str:
    """Returns the format that the suffix of a path says."""
    suffix = Path(path).suffix
    if suffix not in _SUFFIXES:
        raise UserError(
            f"--output={path}: there is no format for {suffix}. Give a path that ends in .keras, "
            ".tflite or .onnx, a folder without a suffix for a SavedModel, or --format."
        )
    return _SUFFIXES[suffix]


def main(parsed: tuple[tuple[str, str, str], dict[str, Any]]) -> int:
    """Exports."""
    from zoo.training.cli.runtime import load_tensorflow

    load_tensorflow()
    from rich.console import Console

    from zoo.trained.exporting import export

    what, options = parsed
    with as_interrupts():
        export(*what, Console(), **options)
    return 0


def run() -> None:
    """Runs the program with the arguments of the command line."""
    program.run(parse, main, __doc__)


if __name__ == "__main__":
    run()
