"""A strict world: warnings are errors (setup.cfg), two logical CPU devices, fixed seeds."""

import os
import pathlib
import random
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import pytest

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf
    from tensorflow.python.eager import context as tensorflow_context

    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * int(os.environ.get("LOGICAL_CPUS", "2")),
    )


@pytest.fixture(autouse=True)
def seeds():
    random.seed(0)
    np.random.seed(0)
    if keras.backend.backend() == "torch":
        sys.modules["torch"].manual_seed(0)
    elif keras.backend.backend() == "tensorflow":
        # `tf.random.set_seed` also empties the cache of kernels, a quarter of the tests' time. So
        # eager draws of `tf.random` go on from test to test: use `rng`.
        context = tensorflow_context.context()
        context._seed, context._rng = 0, random.Random(0)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def run_checks(request):
    """Runs files of checks, named from where the test is, by pytest in a process of their own."""

    def run(*names_and_options, **environment):
        checks = [
            str(request.path.parent / word) if word.endswith(".py") else word
            for word in names_and_options
        ]
        result = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-n0",
                "-m",
                "",
                "-p",
                "no:cacheprovider",
                *checks,
            ],
            # PyTorch would start processes that compile, each of which imports it.
            env=os.environ | {"TORCHINDUCTOR_COMPILE_THREADS": "1"} | environment,
            cwd=pathlib.Path(__file__).parents[1],
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        assert result.returncode == 0, result.stdout + result.stderr
        assert " passed" in result.stdout
        assert "skipped" not in result.stdout
        return result.stdout

    return run
