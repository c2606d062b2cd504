"""Every case in processes of their own: other backends, no library, two replicas, saved files."""

import importlib.util
import os
import pathlib
import shutil

import pytest

import keras_renorm
from goldens import models, write_checkpoints

PACKAGE = pathlib.Path(keras_renorm.__file__).parent
CHECKPOINTS = pathlib.Path(__file__).with_name("checkpoints")
BACKENDS = ["jax"] + ["torch"] * (importlib.util.find_spec("torch") is not None)


@pytest.mark.slow
def test_without_the_library(run_checks, tmp_path):
    """A copy of the package in which it is not there."""
    copy = tmp_path / "keras_renorm"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    paths = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {"PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"}
    run_checks("case_checks.py", GOLDENS_EXPECT=f"{copy} fused", **environment)


@pytest.mark.parametrize("backend", BACKENDS)
def test_backend(run_checks, backend):
    environment = {
        "KERAS_BACKEND": backend,
        "JAX_PLATFORMS": "cpu",
        "GOLDENS_EXPECT": f"{PACKAGE} {keras_renorm.ops.lowering().name}",
        "GOLDENS_FILES": str(CHECKPOINTS),
    }
    run_checks("case_checks.py", "structure_checks.py", "file_checks.py", **environment)


@pytest.mark.slow
def test_replicas(run_checks):
    run_checks("replica_checks.py")


def test_files(run_checks, tmp_path):
    """Those of released versions, and such as were written now."""
    for name in models.MODELS:
        write_checkpoints.write(tmp_path, name)
    run_checks("file_checks.py", GOLDENS_FILES=os.pathsep.join([str(CHECKPOINTS), str(tmp_path)]))
