"""Writes docs/evidence.md, its pictures, and the table in README.md, from docs/evidence/*.json.

python tools/write_evidence.py [DIR]

DIR is the --workdir of `zoo.reproduce`: the results of its experiments at the default scale are
copied into docs/evidence first.
"""

import json
import pathlib
import shutil
import sys
from typing import Any

from zoo.evidence import page, picture, reproduce
from zoo.training.storage import files

DOCS = pathlib.Path(__file__).parents[1] / "docs"

#: Lines of README's table: the minibatches, the experiment, Batch Renorm's arm and Batch Norm's.
HEADLINE = (
    ("two labels each", "non_iid", "Batch Renorm, two labels", "Batch Norm, two labels"),
    ("i.i.d.", "non_iid", "Batch Renorm, i.i.d.", "Batch Norm, i.i.d."),
    ("two labels a worker", "leakage", "Batch Renorm, two labels each", "two labels each"),
    ("i.i.d., moments over 2", "microbatch", "Batch Renorm, 2 images", "Batch Norm, 2 images"),
    ("i.i.d., moments over 4", "microbatch", "Batch Renorm, 4 images", "Batch Norm, 4 images"),
)
_BEGIN, _END = "<!-- headline -->\n", "<!-- end of headline -->"


def take(folder: pathlib.Path) -> None:
    """Copies what was found at the default scale."""
    for results in sorted(folder.glob("*/default/results.json")):
        name = results.parts[-3]
        shutil.copy(results, DOCS / "evidence" / f"{name}.json")


def text() -> str:
    """Returns the page of the results that are there, in the order of their names."""
    documents = [_document(name) for name in _names()]
    sections = [page.section(reproduce.load(found["name"]), found) for found in documents]
    return page.page(sections, documents)


def draw() -> None:
    """Draws the pictures of the results that are there."""
    for name in _names():
        path = DOCS / "evidence" / f"{name}.png"
        picture.draw(reproduce.load(name), _document(name), path)


def _names() -> list[str]:
    return sorted(path.stem for path in (DOCS / "evidence").glob("*.json"))


def headline(readme: str) -> str:
    """Returns README with its table made anew."""
    before, _, rest = readme.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    rows = ["| minibatches | Batch Renorm | Batch Norm |", "|---|---|---|"]
    for title, name, *arms in HEADLINE:
        numbers = _document(name)["arms"]
        cells = (f"{page.cell(numbers[arm], 'accuracy')} %" for arm in arms)
        rows.append(f"| {title} | {' | '.join(cells)} |")
    return f"{before}{_BEGIN}{chr(10).join(rows)}\n{end}{after}"


def _document(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DOCS / "evidence" / f"{name}.json").read_text("utf-8"))
    return found


def main() -> None:
    """Writes the page, the pictures and the table."""
    for folder in sys.argv[1:]:
        take(pathlib.Path(folder))
    draw()
    files.write_text(DOCS / "evidence.md", text())
    readme = DOCS.parent / "README.md"
    files.write_text(readme, headline(readme.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
