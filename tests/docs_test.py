"""The documentation: its code runs as it stands, and names everything public."""

import importlib
import json
import pathlib
import re
import subprocess
import sys

import pytest

import keras_renorm

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def cells_of(notebook, kind):
    """The cells of a notebook that are "code" or "markdown"."""
    return [one for one in json.loads(notebook.read_text())["cells"] if one["cell_type"] == kind]


def text_of(page):
    """The Markdown of a page or of a notebook."""
    if page.suffix == ".md":
        return page.read_text()
    return "\n\n".join("".join(cell["source"]) for cell in cells_of(page, "markdown"))


def code_of(page):
    """The Python blocks of a page, or the cells of a notebook, one after the other."""
    if page.suffix == ".ipynb":
        return "\n".join("".join(cell["source"]) for cell in cells_of(page, "code"))
    return "\n".join(re.findall(r"^```python\n(.*?)^```", text_of(page), re.DOTALL | re.MULTILINE))


WITH_CODE = {str(page.relative_to(ROOT)): code_of(page) for page in PAGES + NOTEBOOKS}
WITH_CODE = {name: code for name, code in WITH_CODE.items() if code}

RUNNER = """
import json, pathlib, traceback

outcomes = {}
for name, code in json.loads(pathlib.Path("pages.json").read_text()).items():
    try:
        exec(compile(code, name, "exec"), {"__name__": "__main__"})
        outcomes[name] = "fine"
    except Exception:
        outcomes[name] = traceback.format_exc()
pathlib.Path("outcomes.json").write_text(json.dumps(outcomes))
"""


@pytest.fixture(scope="module")
def outcomes(request, tmp_path_factory):
    """How the code of each chosen page ends. One process runs all: an import takes seconds."""
    folder = tmp_path_factory.mktemp("pages")
    items = [item for item in request.session.items if hasattr(item, "callspec")]
    chosen = {item.callspec.params.get("name") for item in items}
    codes = {name: code for name, code in WITH_CODE.items() if name in chosen}
    (folder / "pages.json").write_text(json.dumps(codes))
    done = subprocess.run(
        [sys.executable, "-c", RUNNER],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads((folder / "outcomes.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_CODE)
def test_code_blocks_run(name, outcomes):
    assert outcomes[name] == "fine", outcomes[name]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_hold_what_a_run_shows(notebook):
    """`tools/run_notebooks.py` writes it: the site and a public host run nothing."""
    cells = cells_of(notebook, "code")
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} <= {
        "display_data",
        "execute_result",
        "stream",
    }
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 2


@pytest.mark.parametrize("page", PAGES + NOTEBOOKS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if "://" in target:
            assert re.fullmatch(r"https://[\w.-]+(/[\w.~%#?=&+-]*)*", target), target
            continue
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), target
        if anchor and linked.suffix == ".md":
            titles = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
            anchors = [re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-") for t in titles]
            assert anchor in anchors, target


MODULES = sorted(set(keras_renorm.__all__) - {"__version__", "schedules"})


@pytest.mark.parametrize("module", [*(f"keras_renorm.{name}" for name in MODULES), "zoo"])
def test_everything_public_is_in_the_reference(module):
    page = ROOT / "docs" / "reference" / f"{module.rpartition('.')[2]}.md"
    for name in importlib.import_module(module).__all__:
        found = re.search(rf"^\.\. auto\w+:: {module}\.{name}$", page.read_text(), re.MULTILINE)
        assert found, name


def test_every_schedule_is_in_the_reference():
    text = (ROOT / "docs" / "reference" / "schedules.md").read_text()
    names = [name for name in vars(keras_renorm.schedules) if not name.startswith("_")]
    for name in names:
        thing = getattr(keras_renorm.schedules, name)
        if getattr(thing, "__module__", None) == "keras_renorm.schedules":
            assert f":: keras_renorm.schedules.{name}\n" in text, name


def test_tests_that_promises_name_are_there():
    for path in re.findall(r"`(tests/[^`]+)`", (ROOT / "docs" / "promises.md").read_text()):
        assert (ROOT / path).exists(), path
