"""Converts checkpoints and models of others to ones of this package, and compares the outputs.

python -m zoo.convert --kind=keras_renorm --source=model.keras --output=ours.keras
python -m zoo.convert --kind=tf_keras --source=model.h5 --output=ours.keras
python -m zoo.convert --kind=keras_applications --model=resnet50 --source=FILE
    --output=X.weights.h5 [--norm=batch_renorm|batch_norm]

keras_renorm: a saved Keras model, whose batch norms, with renorm=True or without, become layers of
keras_renorm. tf_keras: the same for the Keras 2 of older programs, which must be installed.
keras_applications: a file of weights. Nothing is overwritten, and nothing is written whose outputs
are not those of the source.
"""

from typing import Any

from zoo.errors import UserError
from zoo.training.cli import program
from zoo.training.cli.signals import as_interrupts


def parse(argv: list[str]) -> dict[str, Any]:
    """Returns what to convert to what."""
    from absl import flags

    from zoo.training.cli import arguments

    kinds, norms = (
        ["keras_renorm", "tf_keras", "keras_applications"],
        ["batch_renorm", "batch_norm"],
    )
    kind = flags.DEFINE_enum("kind", "keras_renorm", kinds, "What the source is.")
    source = flags.DEFINE_string("source", None, "File to convert.")
    output = flags.DEFINE_string("output", None, "File to write; it must not exist.")
    model = flags.DEFINE_string("model", None, "Name of the model, for keras_applications.")
    norm = flags.DEFINE_enum(
        "norm", None, norms, "For keras_applications: batch_renorm if not given."
    )
    arguments.no_arguments(arguments.parse_flags(argv))
    if (kind.value == "keras_applications") != (model.value is not None):
        raise UserError(
            "--model=NAME goes with --kind=keras_applications, each needs the other; received "
            f"--kind={kind.value} and --model={model.value}."
        )
    if norm.value is not None and model.value is None:
        raise UserError(
            f"--norm={norm.value} goes with --kind=keras_applications; a model of a file keeps the "
            "kinds of its norms. Leave it out."
        )
    return {
        "kind": kind.value,
        "source": arguments.required("source", source.value, "model.keras"),
        "output": arguments.required("output", output.value, "ours.keras"),
        "model": model.value,
        "norm": norm.value or "batch_renorm",
    }


def main(options: dict[str, Any]) -> int:
    """Converts."""
    from zoo.training.cli.runtime import load_tensorflow

    load_tensorflow()
    from pathlib import Path

    from zoo.conversion import keras_applications, keras_renorm, tf_keras_renorm

    source, output = (Path(options[name]).expanduser() for name in ("source", "output"))
    with as_interrupts():
        if options["kind"] == "keras_applications":
            name, norm = options["model"], options["norm"]
            keras_applications.convert_file(source, output, print, name=name, norm=norm)
        else:
            others = {"keras_renorm": keras_renorm, "tf_keras": tf_keras_renorm}
            others[options["kind"]].convert_file(source, output, print)
    return 0


def run() -> None:
    """Runs the program with the arguments of the command line."""
    program.run(parse, main, __doc__)


if __name__ == "__main__":
    run()
