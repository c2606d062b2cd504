"""Each example runs, shortened, in a process of its own."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"
ARGUMENTS = {
    "crossq_critic": ["--steps=20", "--batch_size=16"],
    "fine_tune_at_batch_2": ["--images=8"],
    "gan": ["--steps=20"],
    "jax_training_step": ["--steps=20"],
    "metric_learning": ["--steps=10"],
    "mirrored_fit": ["--images=32"],
    "torch_data_parallel": ["--steps=3"],
    "unet_at_batch_1": ["--steps=8"],
}


def test_every_example_is_run():
    assert sorted(ARGUMENTS) == sorted(path.stem for path in EXAMPLES.glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ARGUMENTS)
def test_it_runs(name, tmp_path):
    if name.startswith("torch") and importlib.util.find_spec("torch") is None:
        pytest.skip("PyTorch is not installed")
    environment = {key: value for key, value in os.environ.items() if key != "KERAS_BACKEND"}
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py"), *ARGUMENTS[name]],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda p: p.stem)
def test_it_is_short(path):
    assert 40 <= len(path.read_text().splitlines()) <= 120
