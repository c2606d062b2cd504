"""Draws test accuracy and loss against steps.

python -m zoo.plot WORKDIR ... [--output=FILE.png] [--overwrite]

Each WORKDIR is a working directory of zoo.train, finished or not. With several of them the legend
names what differs between their configs. The suffix of FILE chooses the format (png, pdf, svg).
"""

from pathlib import Path

from zoo.errors import UserError
from zoo.training.cli import program


def parse(argv: list[str]) -> tuple[list[str], str, bool]:
    """Returns the working directories, the picture's file, and whether it may be replaced."""
    from absl import flags

    from zoo.training.cli import arguments

    output = flags.DEFINE_string("output", "curves.png", "The picture's file.")
    overwrite = flags.DEFINE_bool("overwrite", False, "Whether to replace a file that exists.")
    _, *workdirs = arguments.parse_flags(argv)
    if not workdirs:
        raise UserError("Say which runs to draw, as in: python -m zoo.plot runs/quickstart.")
    return workdirs, output.value, overwrite.value


def main(parsed: tuple[list[str], str, bool]) -> int:
    """Draws."""
    from zoo.training.records.plotting import plot_workdirs

    workdirs, output, overwrite = parsed
    for path in plot_workdirs(workdirs, Path(output).expanduser(), overwrite=overwrite):
        print(f"warning: {path} is not in the picture: it holds no evaluation.")
    print(f"wrote {output}")
    return 0


def run() -> None:
    """Runs the program with the arguments of the command line."""
    program.run(parse, main, __doc__)


if __name__ == "__main__":
    run()
