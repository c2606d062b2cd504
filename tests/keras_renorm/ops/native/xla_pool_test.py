import pathlib
import shutil
import subprocess

import pytest

SOURCES = pathlib.Path(__file__).parents[4] / "keras_renorm/ops/native"


def test_a_call_does_without_helpers_that_xla_does_not_take(tmp_path):
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    program = tmp_path / "xla_pool_test"
    test = pathlib.Path(__file__).with_suffix(".cc")
    flags = ["-std=c++17", "-O2", "-pthread", "-I", SOURCES]
    subprocess.run([compiler, *flags, test, "-o", program], check=True, timeout=120)
    subprocess.run([program], check=True, timeout=60)
