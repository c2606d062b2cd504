"""Writes docs/evidence.md from the results in docs/evidence.

python tools/write_evidence.py [DIR]

DIR is the --workdir of `zoo.reproduce`: the results and pictures of its experiments at the default
scale are copied into docs/evidence first.
"""

import json
import pathlib
import shutil
import sys

from zoo.evidence import page, reproduce
from zoo.training.storage import files

DOCS = pathlib.Path(__file__).parents[1] / "docs"


def take(folder: pathlib.Path) -> None:
    """Copies what was found at the default scale."""
    for results in sorted(folder.glob("*/default/results.json")):
        name = results.parts[-3]
        shutil.copy(results, DOCS / "evidence" / f"{name}.json")
        shutil.copy(results.with_name(f"{name}.png"), DOCS / "evidence")


def text() -> str:
    """Returns the page of the results that are there, in the order of their names."""
    paths = sorted((DOCS / "evidence").glob("*.json"))
    documents = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    sections = [page.section(reproduce.load(found["name"]), found) for found in documents]
    return page.page(sections, documents)


def main() -> None:
    """Writes the page."""
    for folder in sys.argv[1:]:
        take(pathlib.Path(folder))
    files.write_text(DOCS / "evidence.md", text())


if __name__ == "__main__":
    main()
