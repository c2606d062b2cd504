"""Trains an image classifier.

python -m zoo.train --workdir=DIR [--config=RECIPE] [--config.KEY=VALUE ...]

RECIPE is a name in zoo/configs (few_labels, which is the default; norm_batch; resnet20) or the path
of a Python file of your own. Every key of a recipe can be set, as in --config.norm=batch_norm; an
unknown one is answered with the nearest, or with all. Times (warm-up, ramps, evaluations) scale
with --config.num_steps unless they are given. An interrupted run is resumed by the same command,
bit for bit. --config.strategy=mirrored uses several devices, multi_worker several machines.

DIR gets config.json (every key and value), metrics.jsonl (one measurement a line), tensorboard/,
checkpoints/ (the two newest) and, at the end, model.keras, which keras.saving.load_model reads
after `import keras_renorm`.
"""

from typing import Any

from zoo.training.cli import program


def parse(argv: list[str]) -> tuple[dict[str, Any], str]:
    """Returns the checked config and the working directory."""
    from absl import flags

    from zoo.training.cli import arguments

    workdir = flags.DEFINE_string("workdir", None, "Folder of the run: made, or resumed.")
    config, rest = arguments.parse_arguments(argv)
    arguments.no_arguments(rest)
    return config.to_dict(), arguments.required("workdir", workdir.value, "runs/quickstart")


def main(parsed: tuple[dict[str, Any], str]) -> int:
    """Trains."""
    from zoo.training.cli.terminal import LastingConsole
    from zoo.training.run import train

    return train(*parsed, LastingConsole())


def keys() -> str:
    """Returns the part of the help that is about the config's keys."""
    from zoo.training.keys import key_help

    return f"\nThe keys, and their values where a recipe has none of its own:\n\n{key_help()}\n"


def run() -> None:
    """Runs the program with the arguments of the command line."""
    program.run(parse, main, __doc__, keys)


if __name__ == "__main__":
    run()
