"""Keras's backends, each in one process for all checks that can share its environment.

The other tests run under TensorFlow. Of the files here, `-m slow` runs what is marked slow in them.
"""

import dataclasses
import importlib.util

import jax
import pytest

from keras_renorm.ops.native import loader

TWO_DEVICES = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
EVERYWHERE = ["callbacks/counting", "layers/averaging", "layers/backend", "ops/maths/sums"]
ELSEWHERE = [*EVERYWHERE, "convert/backend", "diagnostics/backend", "statistics/backend"]
ELSEWHERE += ["layers/domain_backend"]


@dataclasses.dataclass
class Environment:
    """A backend, variables beside it, and what is checked with the native library and without."""

    backend: str
    checks: list[str]
    variables: dict[str, str] = dataclasses.field(default_factory=dict)
    library: list[str] = dataclasses.field(default_factory=list)

    def arguments(self):
        built = loader.library_path().is_file()
        return [f"{name}_checks.py" for name in [*(self.library if built else []), *self.checks]]


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
        [*ELSEWHERE, "layers/float64", f"{TORCH}/collective", f"{TORCH}/fused"],
        # The first wants to be the first that compiles.
        library=[
            *(f"{TORCH}/{name}" for name in ("pinning", "backend", "calls", "derivatives")),
            f"{TORCH}/operators",
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
    run(run_checks, name, "slow")
