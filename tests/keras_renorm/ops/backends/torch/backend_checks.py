"""PyTorch's backend; `backends_test.py` runs this under it."""

import inspect

import keras
import numpy as np
import pytest
import torch

from keras_renorm import layers
from keras_renorm.ops import Replicas
from keras_renorm.ops.backends import Backend, kernels
from keras_renorm.ops.backends.torch import calls, fused
from keras_renorm.ops.backends.torch.backend import BACKEND
from keras_renorm.ops.backends.torch.collective import Processes

KEPT = [
    (Backend, BACKEND),
    (Replicas, Processes),
    (kernels.StepCalls, calls),
    (kernels.InferencePasses, calls),
    (kernels.Passes, calls),
    (kernels.FusedKernel, fused),
]


@pytest.mark.parametrize(("promise", "keeper"), KEPT)
def test_promises_are_kept_by_name(promise, keeper):
    promised = {n: f for n, f in vars(promise).items() if inspect.isfunction(f) and n[0] != "_"}
    assert promised
    for name, function in promised.items():
        expected, found = (
            [n for n in inspect.signature(f).parameters if n != "self"]
            for f in (function, getattr(keeper, name))
        )
        assert found == expected


def test_it_synchronizes_where_there_is_a_process_group():
    assert BACKEND.synchronizes
    assert BACKEND.replicas() is None


def test_it_takes_the_library_for_its_types_on_the_cpu():
    assert BACKEND.native_problem() is None
    for given in (BACKEND.step_calls, BACKEND.native_passes):
        assert given(torch.zeros(4, 3)) is calls
        assert given(torch.zeros(4, 3, device="meta")) is None
        assert given(torch.zeros(4, 3, dtype=torch.int32)) is None


def test_other_devices_are_elsewhere():
    assert BACKEND.off_cpu() is None
    with keras.device("meta"):
        assert BACKEND.off_cpu() == "PyTorch computes on meta"
    assert BACKEND.elsewhere == "fused"


@pytest.mark.parametrize("portable", [True, False])
def test_inference_by_the_library_where_it_is_worth_a_call_or_demanded(portable):
    def passes(rows, demanded=False, **options):
        x = torch.zeros(rows, 2, **options)
        return BACKEND.inference_passes(x, portable=portable, demanded=demanded)

    assert passes(1 << 18) is calls
    assert passes((1 << 18) - 1) is None
    assert passes(1, demanded=True) is calls
    assert passes(1 << 18, demanded=True, device="meta") is None


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace.* is (deprecated|not supported)")
def test_what_compiles_and_traces_takes_no_call():
    found = []

    def function(x):
        found.append((BACKEND.is_traced(x), BACKEND.own_operations_only()))
        return 2 * x

    x = torch.zeros(3)
    function(x)
    torch.jit.trace(function, (x,), check_trace=False)
    assert found == [(False, None), (True, "PyTorch compiles or exports its own operations")]


def test_nothing_is_recorded_without_gradients():
    x = torch.zeros(3, requires_grad=True)
    with BACKEND.without_gradients():
        assert not (2 * x).requires_grad
    assert (2 * x).requires_grad


def test_the_generators_are_as_they_were():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    with BACKEND.generators_kept():
        torch.rand(5)
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)


def test_constants_are_themselves_where_nothing_compiles():
    x = torch.zeros(3)
    assert BACKEND.pinned(x) is x


def test_what_has_no_gradient_is_computed_by_numpy_unless_values_are_hidden(monkeypatch):
    def function(pair, ops=keras.ops):
        return ops.sqrt(pair[0]) + pair[1]

    pair = torch.tensor(-4.0), torch.tensor(3.0, requires_grad=True)
    found = BACKEND.at_once(function)(pair)  # without NumPy's warning of the root
    assert isinstance(found, np.float32)
    assert np.isnan(found)
    pairs = torch.tensor([4.0, 9.0]), torch.tensor([3.0, 1.0])
    mapped = torch.func.vmap(BACKEND.at_once(function))(pairs)
    torch.testing.assert_close(mapped, torch.tensor([5.0, 4.0]))
    compiled = torch.compile(BACKEND.at_once(function), backend="eager")(pairs)
    torch.testing.assert_close(torch.as_tensor(compiled), torch.tensor([5.0, 4.0]))
    monkeypatch.setattr(type(BACKEND), "off_cpu", lambda self: "a GPU")
    assert BACKEND.at_once(function) is function


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("bfloat16", 0.02), ("float16", 4e-3), ("float64", 1e-5)]
)
@pytest.mark.parametrize("ghosts", [None, 4])
def test_limits_adapt_after_a_module_is_cast(rng, dtype, tolerance, ghosts):
    """With the limits and statistics of a layer in float32, as far as the type can tell them."""
    layer, cast = (
        layers.BatchRenormalization(momentum=0.9, virtual_batch_size=ghosts) for _ in range(2)
    )
    for one in (layer, cast):
        one.build((None, 3))
    cast.to(getattr(torch, dtype))
    for step in range(12):
        x = torch.tensor(rng.normal(1 + step / 9, 2.0, (16, 3)).astype("f4"))
        layer(x, training=True)
        cast(x.to(getattr(torch, dtype)), training=True)
    assert cast.current_limits().d_max > 0.1
    np.testing.assert_allclose(cast.current_limits(), layer.current_limits(), rtol=tolerance)
    found, desired = (one.moving_mean.value.detach().double().numpy() for one in (cast, layer))
    np.testing.assert_allclose(found, desired, rtol=tolerance)


@pytest.mark.parametrize("kind", [layers.BatchNormalization, layers.BatchRenormalization])
def test_training_reads_no_number_back_from_the_device(kind):
    layer = kind()
    layer.build((None, 8))
    with keras.device("meta"):  # on which `item` is an error
        y = layer(torch.empty(4, 8, device="meta"), training=True)
    assert y.device.type == "meta"
