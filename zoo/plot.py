"""Draws test accuracy and loss against steps.

python -m zoo.plot WORKDIR ... [--output=FILE.png] [--overwrite]

Each WORKDIR is a working directory of zoo.train, finished or not. With several of them the legend
names what differs between their configs. The suffix of FILE chooses the format (png, pdf, svg).
"""

from pathlib import Path

from absl import flags

from zoo.training import arguments, cli
from zoo.training.errors import UserError

_OUTPUT = flags.DEFINE_string("output", "curves.png", "The picture's file.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Whether to replace a file that exists.")


def parse(argv: list[str]) -> list[str]:
    """Returns the working directories."""
    _, *workdirs = arguments.parse_flags(argv)
    if not workdirs:
        raise UserError("Say which runs to draw, as in: python -m zoo.plot runs/quickstart.")
    return workdirs


def main(workdirs: list[str]) -> int:
    """Draws."""
    from zoo.training.plotting import plot_workdirs

    plot_workdirs(workdirs, Path(_OUTPUT.value), overwrite=_OVERWRITE.value)
    print(f"wrote {_OUTPUT.value}")
    return 0


def run() -> None:
    """Runs the program with the arguments of the command line."""
    cli.run(parse, main, __doc__)


if __name__ == "__main__":
    run()
