import pathlib
import platform
import shutil
import subprocess

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
