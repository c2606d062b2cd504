import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
SOURCES = sorted(ROOT.glob("keras_renorm/ops/native/*.cc"))


def headers():
    tensorflow = pytest.importorskip("tensorflow")
    folder = pathlib.Path(tensorflow.sysconfig.get_include())
    if not (folder / "xla/ffi/api/ffi.h").is_file():
        pytest.skip("TensorFlow ships no headers of XLA's FFI here")
    return folder


# GCC and Clang, for this processor and, where one is installed, for ARM.
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
@pytest.mark.parametrize("compiler", ["c++", "g++", "clang++", "aarch64-linux-gnu-g++"])
def test_compilers_take_the_sources_without_a_warning(compiler, source):
    if shutil.which(compiler) is None:
        pytest.skip(f"there is no {compiler}")
    x86 = platform.machine() in ("x86_64", "AMD64") and not compiler.startswith("aarch64")
    flags = ["-std=c++17", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-Wno-psabi"]
    variants = ["-DKR_X86_VARIANTS=1"] if x86 else []
    command = [compiler, *flags, *variants, "-isystem", headers(), source, "-DKR_ISA=baseline"]
    levels = ["x86-64-v3", "x86-64-v4"] if x86 and source.stem == "kernels" else []
    for more in ([], *([f"-march={level}"] for level in levels)):
        subprocess.run([*command, *more], check=True, timeout=120)


@pytest.mark.parametrize(
    ("variables", "reason"),
    [({"CXX": "false", "CC": "false"}, "returned non-zero"), ({"PIP_NO_INDEX": "1"}, "jaxlib")],
    ids=["a compiler that fails", "no headers"],
)
def test_without_a_library_the_wheel_is_for_any_platform(tmp_path, variables, reason):
    pytest.importorskip("setuptools.command.bdist_wheel")
    headers()  # or those of the first case have to be fetched
    for name in ("setup.py", "setup.cfg", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(
        ROOT / "keras_renorm", tmp_path / "keras_renorm", ignore=shutil.ignore_patterns("*.so")
    )
    program = "import sys, importlib.util as util; exec(open('setup.py').read())"
    if "PIP_NO_INDEX" in variables:
        program = program.replace("; exec", "; util.find_spec = lambda name: None; exec")
    result = subprocess.run(
        [sys.executable, "-c", program, "bdist_wheel", "--dist-dir", "."],
        cwd=tmp_path,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert [wheel.name.split("-", 2)[2] for wheel in tmp_path.glob("*.whl")] == ["py3-none-any.whl"]
    assert re.search(f"keras_renorm: no native library: .*{reason}", result.stderr)
