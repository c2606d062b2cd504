"""The rules of the house that ruff does not know: see CONTRIBUTING.md."""

import ast
import functools
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
    "keras_renorm.models",
    "keras_renorm.layers",
    "keras_renorm.schedules",
    "keras_renorm.ops",
    "keras_renorm.ops.steps",
    "keras_renorm.ops.backends",
    "keras_renorm.ops.native",
    "keras_renorm.ops.maths",
    "keras_renorm.ops.arguments",
    "keras_renorm.ops.reference",
    "keras_renorm.keras_internals",
    "keras_renorm.callers",
    "keras_renorm.typing",
]
BACKENDS = ROOT / "keras_renorm" / "ops" / "backends"
# The one module that may look inside TensorFlow, and the one that may look inside Keras.
PRIVATE = BACKENDS / "tensorflow" / "runtime.py"
INTERNALS = ROOT / "keras_renorm" / "keras_internals.py"
LIBRARY = [path for path in SOURCES if path.is_relative_to(ROOT / "keras_renorm")]
# Heavy, and not needed for most uses: imported inside the functions that use them.
LATE = {"matplotlib", "tensorflow_datasets"}
# What `keras_renorm` may import beside the standard library: JAX and PyTorch only where they are
# the backend, matplotlib only to plot.
NEEDS = {"jax", "keras", "keras_renorm", "matplotlib", "ml_dtypes", "numpy", "tensorflow", "torch"}


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
        assert not private or path in (PRIVATE, INTERNALS)


@pytest.mark.parametrize("path", LIBRARY, ids=module_name)
def test_the_library_needs_tensorflow_and_keras_only(path):
    packages = {name.split(".")[0] for name in imports(ast.parse(path.read_text()))}
    assert packages <= NEEDS | set(sys.stdlib_module_names)


@pytest.mark.parametrize("path", LIBRARY, ids=module_name)
def test_the_backend_is_asked_for_in_one_place(path):
    """Others call the methods of `keras_renorm.ops.backends.current()`."""
    if path.is_relative_to(BACKENDS) or path == INTERNALS:
        return
    tree = ast.parse(path.read_text())
    asked = [node for node in ast.walk(tree) if ast.unparse(node) == "keras.backend.backend"]
    assert not asked
    named = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare) and "backends.current().name" in ast.unparse(node)
    ]
    assert not named


@pytest.mark.parametrize("path", LIBRARY, ids=module_name)
def test_warnings_are_given_at_the_users_line(path):
    if path.name != "callers.py":
        packages = {name.split(".")[0] for name in imports(ast.parse(path.read_text()))}
        assert "warnings" not in packages


@functools.cache
def own_private_names():
    """Names that start with an underscore and are defined, or assigned, in the package."""
    names = {"_asdict", "_fields", "_make", "_replace"}  # of named tuples
    for path in set(LIBRARY) - {INTERNALS}:  # this one assigns Keras's
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
                names.add(node.id if isinstance(node, ast.Name) else node.attr)
    return names


@pytest.mark.parametrize("path", LIBRARY, ids=module_name)
def test_private_names_of_keras_stand_in_one_module(path):
    if path == INTERNALS:
        return
    names = {n.attr for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Attribute)}
    private = {name for name in names if name.startswith("_") and not name.startswith("__")}
    assert private <= own_private_names()


# Several backends, replicas or programs, or the whole house.
ACROSS = {
    "house_test.py",
    "doctests_test.py",
    "sanitize_test.py",
    "replicas_test.py",
    "keras_conformance_test.py",
    "backends_test.py",
    "multi_worker_test.py",
    "export_test.py",
    "mistakes_test.py",
}


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("*_test.py")), ids=lambda p: p.stem)
def test_tests_mirror_the_sources(path):
    relative = path.relative_to(ROOT / "tests")
    if path.name in ACROSS or relative.parts[0] == "goldens":
        return
    source = ROOT / relative.with_name(path.name.removesuffix("_test.py"))
    forms = (source, source.with_suffix(".py"), source.with_suffix(".h"), source.with_suffix(".cc"))
    assert any(form.exists() for form in forms), f"nothing at {source}"


# Names, types and numbers alone: no function whose result could be held against anything.
WITHOUT_BEHAVIOUR = {
    "keras_renorm/ops/backends/kernels.py",
    "keras_renorm/ops/maths/operands.py",
    "keras_renorm/typing.py",
    "keras_renorm/version.py",
}


@pytest.mark.parametrize("path", [p for p in SOURCES if p.name != "__init__.py"], ids=module_name)
def test_sources_have_tests(path):
    relative = path.relative_to(ROOT)
    if relative.as_posix() in WITHOUT_BEHAVIOUR or relative.parts[1] in ("configs", "experiments"):
        return
    tests = ROOT / "tests" / relative.parent
    # Checks are tests in a process of their own.
    forms = [tests / f"{path.stem}_{kind}.py" for kind in ("test", "checks")]
    assert any(form.exists() for form in forms), f"nothing at {forms[0]} or {forms[1]}"
