"""Every case under TensorFlow, and in processes of their own what takes one.

Those run beside the tests of this process, two at a time, from the first test on.
"""

import concurrent.futures
import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys

import matplotlib
import pytest

import keras_renorm
from goldens import matrix, models, running, structure_cases, write, write_checkpoints, zoo_cases

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
PROCESSES = ["without_the_library", "fresh", "replicas", "jax", "torch"]
FUNCTIONS = {**structure_cases.CASES, **zoo_cases.CASES}.values()
matplotlib.use("agg")


def _environments(folder):
    """For each process its files of checks, and the variables that it differs in."""
    package = ROOT / "keras_renorm"
    saved = str(HERE / "checkpoints")
    lowering = keras_renorm.ops.lowering().name
    elsewhere = {"GOLDENS_EXPECT": f"{package} {lowering}", "GOLDENS_FILES": saved}
    everything = ("case_checks.py", "structure_checks.py", "file_checks.py")
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    copy = {
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONSAFEPATH": "1",
        "GOLDENS_EXPECT": f"{folder / 'keras_renorm'} fused",
    }
    return {
        "without_the_library": (("case_checks.py",), copy),
        "fresh": (("file_checks.py",), {"GOLDENS_FILES": f"{saved}{os.pathsep}{folder / 'now'}"}),
        "replicas": (("replica_checks.py",), {}),
        "jax": (everything, elsewhere | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}),
        "torch": (everything, elsewhere | {"KERAS_BACKEND": "torch"}),
    }


def _checked(names, environment):
    """Runs checks; `environment` is whole, for tests of this process change its own meanwhile."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        + [str(HERE / name) for name in names],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.fixture(scope="session", autouse=True)
def processes(request, tmp_path_factory):
    """The results, as they come, of those processes whose test is to run."""
    names = {
        item.callspec.params.get("process")
        for item in request.session.items
        if hasattr(item, "callspec")
    }
    folder = tmp_path_factory.mktemp("goldens")
    if "without_the_library" in names:
        ignored = shutil.ignore_patterns("*.so", "__pycache__")
        shutil.copytree(ROOT / "keras_renorm", folder / "keras_renorm", ignore=ignored)
    if "fresh" in names:
        (folder / "now").mkdir()
        for name in models.MODELS:
            write_checkpoints.write(folder / "now", name)
    environments = {
        name: (checks, os.environ | own) for name, (checks, own) in _environments(folder).items()
    }
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        yield {
            name: pool.submit(_checked, *environments[name]) for name in PROCESSES if name in names
        }


@pytest.mark.parametrize(("name", "mode", "dtype"), matrix.every())
def test_case(name, mode, dtype):
    running.assert_as_written(name, running.run(name, mode, dtype), running.TOLERANCES[dtype])


@pytest.mark.parametrize(("name", "mode", "dtype"), matrix.float32())
def test_composite(name, mode, dtype, monkeypatch):
    monkeypatch.setenv("KERAS_RENORM_LOWERING", "composite")
    running.assert_as_written(name, running.run(name, mode, dtype), running.TOLERANCES[dtype])


@pytest.mark.parametrize("name", write.CASES)
@pytest.mark.parametrize("lowering", ["native", "fused"])
def test_lowering(name, lowering, monkeypatch):
    monkeypatch.setenv("KERAS_RENORM_LOWERING", lowering)
    running.assert_as_written(name, running.run(name, "eager", "float32"), 2e-6)


@pytest.mark.parametrize("case", dict.fromkeys(FUNCTIONS), ids=lambda case: case.__name__)
def test_structure(case, tmp_path):
    case(tmp_path)


@pytest.mark.parametrize("name", write.CASES)
def test_what_is_written_is_what_the_equations_say(name):
    inputs, outputs = write.read(name)
    fresh = write.CASES[name].outputs(inputs)
    assert fresh.keys() == outputs.keys()
    for key, array in fresh.items():
        running.assert_close(outputs[key], array, 1e-13, key)


@pytest.mark.parametrize("process", PROCESSES)
def test_process(process, processes):
    if process == "torch" and importlib.util.find_spec("torch") is None:
        pytest.skip("PyTorch is not installed")
    result = processes[process].result()
    assert result.returncode == 0, result.stdout + result.stderr
    assert " passed" in result.stdout
    assert "skipped" not in result.stdout
