"""The documentation: its code runs as it stands, and names everything public."""

import pathlib
import re
import subprocess
import sys

import pytest

import keras_renorm

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def code_of(page):
    """The Python blocks of a page, one after the other."""
    return "\n".join(
        re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if code_of(page)], ids=lambda p: str(p.relative_to(ROOT))
)
def test_code_blocks_run(page, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", code_of(page)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target or target.startswith("#"):
            continue
        assert (page.parent / target.partition("#")[0]).exists(), target


MODULES = sorted(set(keras_renorm.__all__) - {"__version__", "schedules"})


@pytest.mark.parametrize("module", MODULES)
def test_everything_public_is_in_the_reference(module):
    text = (ROOT / "docs" / "reference" / f"{module}.md").read_text()
    for name in getattr(keras_renorm, module).__all__:
        assert re.search(rf"^\.\. auto\w+:: keras_renorm\.{module}\.{name}$", text, re.MULTILINE), (
            name
        )


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
