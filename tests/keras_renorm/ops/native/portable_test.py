import re
import shutil
import subprocess

import pytest

from keras_renorm.ops.native import loader

# From manylinux_2_28: https://github.com/pypa/auditwheel, policy/manylinux-policy.json.
NEWEST = {"GLIBC": (2, 28), "GLIBCXX": (3, 4, 24), "CXXABI": (1, 3, 11), "GCC": (8, 1, 0)}


@pytest.mark.skipif(not loader.library_path().is_file(), reason="the native library is not built")
def test_the_library_needs_nothing_newer_than_glibc_2_28():
    if shutil.which("objdump") is None:
        pytest.skip("there is no objdump")
    command = ["objdump", "-T", loader.library_path()]
    symbols = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    found = re.findall(r"\*UND\*.*\((\w+)_([\d.]+)\) (\w+)", symbols)
    assert found
    for name, version, symbol in found:
        assert tuple(map(int, version.split("."))) <= NEWEST[name], symbol
