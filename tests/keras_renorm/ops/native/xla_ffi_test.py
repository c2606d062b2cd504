import importlib.util
import pathlib
import shutil
import subprocess

import pytest

from keras_renorm.ops import native

CHECKS = pathlib.Path(__file__).with_suffix(".cc")
SOURCES = pathlib.Path(native.__file__).parent


# `tools/check_versions.py` shows the headers of all their versions.
@pytest.mark.parametrize("package", ["jaxlib", "tensorflow"])
def test_structs_are_as_in_xlas_headers(package):
    compiler, spec = shutil.which("c++"), importlib.util.find_spec(package)
    folder = pathlib.Path(spec.origin).with_name("include") if spec else None
    if compiler is None or folder is None or not (folder / "xla/ffi/api/c_api.h").is_file():
        pytest.skip("it takes a compiler, and a package with the headers")
    command = [compiler, "-std=c++17", "-fsyntax-only", "-Wall", "-Werror"]
    subprocess.run([*command, "-isystem", folder, "-I", SOURCES, CHECKS], check=True, timeout=60)
