"""That the backends keep their promises."""

import inspect

import keras
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("gradients by tapes", allow_module_level=True)


from keras_renorm.ops.backends import interface, kernels
from keras_renorm.ops.backends.jax import calls as jax_calls
from keras_renorm.ops.backends.jax.backend import BACKEND as JAX
from keras_renorm.ops.backends.jax.collective import MappedDevices
from keras_renorm.ops.backends.plain import PlainBackend
from keras_renorm.ops.backends.tensorflow import calls, passes
from keras_renorm.ops.backends.tensorflow.backend import BACKEND as TENSORFLOW
from keras_renorm.ops.backends.tensorflow.collective import StrategyReplicas
from keras_renorm.ops.maths import passes as plain_passes

FOURTH = PlainBackend("fourth")
KEPT = [
    *((interface.Backend, backend) for backend in (FOURTH, TENSORFLOW, JAX)),
    *((kernels.StepCalls, module) for module in (calls, jax_calls)),
    *((kernels.Passes, module) for module in (plain_passes, passes)),
    (kernels.InferencePasses, passes),
    (kernels.FusedKernel, TENSORFLOW.fused),
    (kernels.FusedInference, TENSORFLOW.fused_inference),
    (interface.Collective, StrategyReplicas),
    (interface.Collective, MappedDevices),
]


@pytest.mark.parametrize(("promise", "keeper"), KEPT)
def test_promises_are_kept_by_name(promise, keeper):
    names = [name for name in vars(promise) if not name.startswith("_")]
    assert names
    for name in names:
        promised, kept = getattr(promise, name), getattr(keeper, name)
        if not isinstance(promised, property):
            expected = list(inspect.signature(promised).parameters)
            found = list(inspect.signature(kept).parameters)
            assert [n for n in found if n != "self"] == [n for n in expected if n != "self"]


def test_titles():
    assert [backend.title for backend in (FOURTH, TENSORFLOW, JAX)] == [
        "fourth",
        "TensorFlow",
        "JAX",
    ]
