"""Trains an image classifier.

python -m zoo.train --workdir=DIR [--config=RECIPE] [--config.KEY=VALUE ...]
python -m zoo.train --dry_run [--config=RECIPE] [--config.KEY=VALUE ...]

RECIPE is one of those below, or the path of a Python file of your own. Every key of it can be set,
as in --config.norm=batch_norm; None takes back what a recipe gives, for a key without a default.
Times (warm-up, ramps, evaluations) are steps, or with a point shares of --config.num_steps: 100,
0.05. The same command resumes an interrupted run, bit for bit. A greater --config.num_steps
lengthens a run. Keys that change no number of it (data_dir, intervals, how many checkpoints stay)
may differ. --config.strategy=mirrored uses several devices, multi_worker several machines.

DIR gets config.json (every key and value, versions, kernels, the machine, whether there are
checkpoints), data.json (classes and images), metrics.jsonl (one measurement a line), tensorboard/,
checkpoints/ (the two newest, and those that you want) and, at the end, model.keras, which
keras.saving.load_model reads after `import keras_renorm`; with --config.average_decay also
model_averaged.keras.

A folder of photographs; another optimizer, and averages; a recipe and an optimizer of your own; a
run that begins with the weights of another:

  python -m zoo.train --workdir=runs/photos --config=fine_tune --config.data_dir=photos
  python -m zoo.train --workdir=runs/a --config=resnet20 --config.optimizer=adamw
      --config.learning_rate=0.001 --config.weight_decay=0.05 --config.average_decay=0.999
  python -m zoo.train --workdir=runs/b --config=recipe.py --config.optimizer=recipe.py:make
  python -m zoo.train --workdir=runs/c --config.weights=runs/quickstart/model.keras
      --config.freeze=hidden1* --config.initial_statistics=frozen
"""

from typing import Any

from zoo.training.cli import program


def parse(argv: list[str]) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """Returns the checked config, the working directory, and options of `run.train`."""
    from absl import flags

    from zoo.training.cli import arguments

    workdir = flags.DEFINE_string("workdir", None, "Folder of the run: made, or resumed.")
    dry_run = flags.DEFINE_bool("dry_run", False, "Two steps, sizes and times; writes nothing.")
    profile = flags.DEFINE_string("profile_steps", None, "A,B: profile them, for TensorBoard.")
    config, rest = arguments.parse_arguments(argv)
    arguments.no_arguments(rest)
    options = {
        "dry_run": dry_run.value,
        "profile_steps": arguments.two_steps("profile_steps", profile.value, config.num_steps),
    }
    if dry_run.value:
        return config.to_dict(), workdir.value or "", options
    folder = arguments.required("workdir", workdir.value, "runs/quickstart")
    return config.to_dict(), folder, options


def main(parsed: tuple[dict[str, Any], str, dict[str, Any]]) -> int:
    """Trains."""
    from rich.console import Console

    from zoo.training.run import train

    config, workdir, options = parsed
    return train(config, workdir, Console(), **options)


def keys() -> str:
    """Returns the part of the help that is about recipes and the config's keys."""
    from zoo.training.cli.recipes import recipe_help
    from zoo.training.keys import key_help

    return (
        f"\nRecipes:\n\n{recipe_help()}\n\nThe keys of the config, each set by --config.KEY=VALUE, "
        f"and their values unless a recipe sets others.\n\n{key_help()}\n"
    )


def run() -> None:
    """Runs the program with the arguments of the command line."""
    program.run(parse, main, __doc__, keys)


if __name__ == "__main__":
    run()
