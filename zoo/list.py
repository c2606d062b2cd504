"""Lists the models and the checkpoints that are known by name.

python -m zoo.list [PATTERN]

PATTERN is a shell pattern such as 'resnet50*'. A wide terminal shows more about each.
"""

from zoo.errors import UserError
from zoo.training.cli import program


def parse(argv: list[str]) -> str:
    """Returns the pattern."""
    from zoo.training.cli import arguments

    _, *patterns = arguments.parse_flags(argv)
    if len(patterns) > 1:
        raise UserError(
            f"Give one pattern, received {len(patterns)}: {' '.join(patterns)}. A shell fills in "
            "names of files for a * unless it is quoted, as in: python -m zoo.list 'resnet50*'."
        )
    return patterns[0] if patterns else "*"


def main(pattern: str) -> int:
    """Lists."""
    from rich.console import Console

    from zoo.weights.table import print_tables

    print_tables(Console(), pattern)
    return 0


def run() -> None:
    """Runs the program with the arguments of the command line."""
    program.run(parse, main, __doc__)


if __name__ == "__main__":
    run()
