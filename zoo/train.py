"""Trains an image classifier.

python -m zoo.train --workdir=DIR [--config=RECIPE] [--config.KEY=VALUE ...]

RECIPE is a name in zoo/configs (few_labels, which is the default; resnet20) or the path of a
Python file of your own. Every key of a recipe can be set, as in --config.norm=batch_norm; an
unknown key is answered with the list of keys. An interrupted run is resumed by the same command,
bit for bit. --config.strategy=mirrored uses several devices, multi_worker several machines.

DIR gets config.json (every key and value), metrics.jsonl (one measurement a line), tensorboard/,
checkpoints/ (the two newest) and, at the end, model.keras, which keras.saving.load_model reads
after `import keras_renorm`.
"""

from absl import flags
from ml_collections import config_dict
from rich.console import Console

from zoo.training import arguments, cli
from zoo.training.run import train

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: made, or resumed.")


def parse(argv: list[str]) -> config_dict.ConfigDict:
    """Returns the checked config."""
    config, rest = arguments.parse_arguments(argv)
    arguments.no_arguments(rest)
    arguments.required("workdir", _WORKDIR.value, "runs/quickstart")
    return config


def main(config: config_dict.ConfigDict) -> int:
    """Trains."""
    return train(config.to_dict(), _WORKDIR.value, Console())


def run() -> None:
    """Runs the program with the arguments of the command line."""
    cli.run(parse, main, __doc__)


if __name__ == "__main__":
    run()
