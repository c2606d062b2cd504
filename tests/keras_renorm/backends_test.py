"""Keras's backends, each in one process for all checks that can share its environment.

The other tests run under TensorFlow. Of the files here, `-m slow` runs what is marked slow in them.
"""

import dataclasses
import importlib.util
import pathlib

import jax
import pytest

from keras_renorm.ops.native import loader

TWO_DEVICES = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
EVERYWHERE = ["callbacks/counting", "layers/averaging", "layers/backend", "ops/maths/sums"]
ELSEWHERE = [*EVERYWHERE, "convert/backend", "diagnostics/backend", "statistics/backend"]
ELSEWHERE += ["layers/domain_backend"]


@dataclasses.dataclass
class Environment:
    """A backend, variables beside it, what is always checked, and what needs the native library."""

    backend: str
    checks: list[str]
    variables: dict[str, str] = dataclasses.field(default_factory=dict)
    library: list[str] = dataclasses.field(default_factory=list)

    def arguments(self):
        built = loader.library_path().is_file()
        return [f"{name}_checks.py" for name in [*self.checks, *(self.library if built else [])]]


TORCH = "ops/backends/torch"
ENVIRONMENTS = {
    "tensorflow": Environment("tensorflow", [*EVERYWHERE, "layers/float64"]),
    "jax": Environment("jax", ELSEWHERE),
    "jax, float64": Environment(
        "jax",
        ["layers/float64"],
        {"JAX_ENABLE_X64": "1"},
        ["ops/backends/jax/derivatives"] * (jax.default_backend() == "cpu"),
    ),
    "jax, two devices": Environment(
        "jax", ["ops/backends/jax/collective", "layers/data_parallel"], TWO_DEVICES
    ),
    "torch": Environment(
        "torch",
        # The first wants to be the first that compiles.
        [f"{TORCH}/pinning", *ELSEWHERE, "layers/float64", f"{TORCH}/collective", f"{TORCH}/fused"],
        library=[
            *(f"{TORCH}/{name}" for name in ("backend", "calls", "derivatives", "operators")),
            "ops/steps/lowerings",
        ],
    ),
}
# The tests do not install PyTorch, but test it where it is there.
NAMES = [n for n in ENVIRONMENTS if n != "torch" or importlib.util.find_spec("torch") is not None]


def run(run_checks, name, marker):
    environment = ENVIRONMENTS[name]
    variables = {"KERAS_BACKEND": environment.backend} | environment.variables
    run_checks(*environment.arguments(), "-m", marker, **variables)


@pytest.mark.parametrize("name", NAMES)
def test_quickly(run_checks, name):
    run(run_checks, name, "not slow")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_slowly(run_checks, name):
    if name == "jax, float64" and len(ENVIRONMENTS[name].arguments()) == 1:
        pytest.skip("derivatives need the native library, on the CPU")
    run(run_checks, name, "slow")


def test_all_checks_run():
    """Files beside a test of the same name are run by that test."""
    folder = pathlib.Path(__file__).parent
    listed = {
        f"{name}_checks.py"
        for environment in ENVIRONMENTS.values()
        for name in [*environment.checks, *environment.library]
    }
    # JAX's derivatives are not listed on an accelerator.
    listed.add("ops/backends/jax/derivatives_checks.py")
    elsewhere = {"replica_checks.py", "replicas_checks.py", "shuffle_checks.py"}
    elsewhere |= {"domain_replica_checks.py", "process_checks.py"}
    for path in folder.rglob("*_checks.py"):
        assert path.name in elsewhere or path.relative_to(folder).as_posix() in listed
