import os
import pathlib
import platform
import re
import runpy
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
SOURCES = sorted(ROOT.glob("keras_renorm/ops/native/*.cc"))


# GCC and Clang, for this processor and, where one is installed, for ARM.
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
@pytest.mark.parametrize("compiler", ["c++", "g++", "clang++", "aarch64-linux-gnu-g++"])
def test_compilers_take_the_sources_without_a_warning(compiler, source):
    if shutil.which(compiler) is None:
        pytest.skip(f"there is no {compiler}")
    x86 = platform.machine() in ("x86_64", "AMD64") and not compiler.startswith("aarch64")
    flags = ["-std=c++17", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-Wno-psabi"]
    variants = ["-DKR_X86_VARIANTS=1"] if x86 else []
    command = [compiler, *flags, *variants, source, "-DKR_ISA=baseline"]
    levels = ["x86-64-v3", "x86-64-v4"] if x86 and source.stem == "kernels" else []
    for more in ([], *([f"-march={level}"] for level in levels)):
        subprocess.run([*command, *more], check=True, timeout=120)


@pytest.fixture
def build_without_compiler(tmp_path):
    """Runs setup.py in a copy of the sources whose compiler fails, and returns what it told."""
    for name in ("setup.py", "setup.cfg", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(
        ROOT / "keras_renorm", tmp_path / "keras_renorm", ignore=shutil.ignore_patterns("*.so")
    )

    def build(*arguments):
        result = subprocess.run(
            [sys.executable, "setup.py", *arguments],
            cwd=tmp_path,
            env={**os.environ, "CXX": "false", "CC": "false"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert result.returncode == 0, result.stderr
        return result.stderr

    return build


def test_without_a_library_the_wheel_is_for_any_platform(tmp_path, build_without_compiler):
    pytest.importorskip("setuptools.command.bdist_wheel")
    told = build_without_compiler("bdist_wheel", "--dist-dir", ".")
    assert [wheel.name.split("-", 2)[2] for wheel in tmp_path.glob("*.whl")] == ["py3-none-any.whl"]
    assert re.search("keras_renorm: no native library: .*returned non-zero", told)


@pytest.mark.parametrize("place", ["--inplace", "elsewhere"])
def test_a_build_that_fails_leaves_no_library_of_before(tmp_path, build_without_compiler, place):
    library = tmp_path / "keras_renorm/ops/native/libkeras_renorm.so"
    library.write_text("of a build before")
    build_without_compiler("build_ext", *[place] * (place == "--inplace"))
    assert library.exists() == (place == "elsewhere")


@pytest.mark.parametrize(
    ("cc", "cxx", "there", "named"),
    [
        ("gcc -pthread", "g++", ("gcc", "g++"), None),
        ("clang", "clang++", ("gcc", "g++"), "/bin/g++"),
        ("clang", "g++", ("g++", "c++"), "g++"),
        ("gcc", "clang++-17 -pthread", ("c++", "clang++-17"), "clang++-17 -pthread"),
        (" ", "g++", ("c++",), "/bin/c++"),
        ("gcc", "g++", ("gcc",), ""),
    ],
)
def test_a_compiler_that_is_there_is_used(monkeypatch, cc, cxx, there, named):
    """In place of the one that Python was built with."""
    monkeypatch.setattr("setuptools.setup", lambda **options: None)
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}" if name in there else None)
    monkeypatch.setenv("CC", cc)
    monkeypatch.setenv("CXX", cxx)
    found = runpy.run_path(str(ROOT / "setup.py"))["can_build"]
    assert found == (named != "")
    expected = (named, named) if named else (cc, cxx)
    assert (os.environ["CC"], os.environ["CXX"]) == expected
