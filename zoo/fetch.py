"""Downloads checkpoints into the cache, for machines and moments without network.

python -m zoo.fetch NAME ... [--zoo_url=URL-or-folder] [--cache=FOLDER]

NAME is one that zoo.list lists, or a shell pattern such as 'resnet50.*'. Prints the paths. A file
that is there already is checked again.
"""

from typing import Any

from zoo.errors import UserError
from zoo.training.cli import program
from zoo.weights import fetch, get_record, list_weights


def parse(argv: list[str]) -> tuple[list[str], dict[str, Any]]:
    """Returns the names of the checkpoints, and the options of `fetch`."""
    from absl import flags

    from zoo.training.cli import arguments

    zoo_url = flags.DEFINE_string(
        "zoo_url", None, "URL or folder with the files of the publishers."
    )
    cache = flags.DEFINE_string("cache", None, "Folder of downloads; by default $ZOO_HOME/weights.")
    _, *patterns = arguments.parse_flags(argv)
    if not patterns:
        raise UserError("Say what to download, as in: python -m zoo.fetch resnet50.keras_imagenet.")
    names = [
        name
        for pattern in patterns
        for name in (list_weights(pattern) or [get_record(pattern).name])
    ]
    return list(dict.fromkeys(names)), {"base": zoo_url.value, "cache": cache.value}


def main(parsed: tuple[list[str], dict[str, Any]]) -> int:
    """Downloads."""
    names, options = parsed
    for name in names:
        print(fetch(get_record(name), **options))
    return 0


def run() -> None:
    """Runs the program with the arguments of the command line."""
    program.run(parse, main, __doc__)


if __name__ == "__main__":
    run()
