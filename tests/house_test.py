"""The rules of the house that ruff does not know: see CONTRIBUTING.md."""

import ast
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
SOURCES = sorted(
    path for package in ("keras_renorm", "zoo") for path in (ROOT / package).rglob("*.py")
)
# Imports run one way: a module may import from its own room and from those after it.
ROOMS = [
    "zoo",
    "keras_renorm.convert",
    "keras_renorm.callbacks",
    "keras_renorm.diagnostics",
    "keras_renorm.statistics",
    "keras_renorm.layers",
    "keras_renorm.schedules",
    "keras_renorm.ops",
    "keras_renorm.typing",
]
# The one module that may look inside TensorFlow.
PRIVATE = ROOT / "keras_renorm" / "ops" / "backends" / "tensorflow" / "runtime.py"
# Heavy, and not needed for most uses: imported inside the functions that use them.
LATE = {"matplotlib", "tensorflow_datasets"}
# What `keras_renorm` may import; the standard library aside. JAX and PyTorch only where they are
# the backend, matplotlib only to plot.
NEEDS = {"jax", "keras", "keras_renorm", "matplotlib", "numpy", "tensorflow", "torch"}


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(module):
    found = [i for i, name in enumerate(ROOMS) if f"{module}.".startswith(f"{name}.")]
    return found[-1] if found else None


def imports(tree, *, top_level_only=False):
    nodes = tree.body if top_level_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_imports_run_one_way(path):
    here = room(module_name(path))
    for imported in imports(ast.parse(path.read_text())):
        there = room(imported)
        assert here is None or there is None or there >= here, f"{path} imports {imported}"


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_heavy_imports_are_late_and_private_ones_absent(path):
    tree = ast.parse(path.read_text())
    early = {name.split(".")[0] for name in imports(tree, top_level_only=True)}
    assert not early & LATE
    for name in imports(tree):
        private = name.startswith(("keras.src", "tensorflow.python", "tensorflow.compiler"))
        assert not private or path == PRIVATE


@pytest.mark.parametrize(
    "path", [p for p in SOURCES if p.is_relative_to(ROOT / "keras_renorm")], ids=module_name
)
def test_the_library_needs_tensorflow_and_keras_only(path):
    packages = {name.split(".")[0] for name in imports(ast.parse(path.read_text()))}
    assert packages <= NEEDS | set(sys.stdlib_module_names)


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*_test.py")), ids=lambda p: p.stem)
def test_tests_mirror_the_sources(path):
    relative = path.relative_to(ROOT / "tests") if (ROOT / "tests") in path.parents else None
    elsewhere = {
        "house_test.py",
        "replicas_test.py",
        "keras_conformance_test.py",
        "backends_test.py",
        "multi_worker_test.py",
        "data_parallel_test.py",
    }
    if relative is None or path.name in elsewhere:
        return
    source = ROOT / relative.with_name(path.name.removesuffix("_test.py"))
    forms = (source, source.with_suffix(".py"), source.with_suffix(".h"))
    assert any(form.exists() for form in forms), f"nothing at {source}"
