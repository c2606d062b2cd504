"""Which lowering is in use under PyTorch; `backends_test.py` runs this under it."""

import warnings

import keras
import numpy as np
import pytest
import torch

from keras_renorm import ops
from keras_renorm.layers import BatchNormalization
from keras_renorm.ops.steps.lowerings import VARIABLE, lowering

SETTINGS = {"axis": 1, "epsilon": 1e-3}


@pytest.fixture(autouse=True)
def unforced(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)


def normalize(x):
    return ops.batch_renormalization(x, torch.zeros(3), torch.ones(3))[0]


def test_native_on_the_cpu(chosen):
    name, reason = lowering()
    assert name == "native"
    assert reason.endswith("kernels of libkeras_renorm.so")
    x = torch.zeros(4, 3)
    for weighted in (False, True):
        for ghosts in (False, True):
            assert chosen(x, weighted=weighted, ghosts=ghosts, **SETTINGS) == "native"


def test_other_devices_take_the_fused_kernel(chosen):
    x = torch.zeros(4, 3, device="meta")
    assert chosen(x, weighted=False, **SETTINGS) == "fused"
    assert chosen(x, weighted=True, **SETTINGS) == "composite"
    with keras.device("meta"):
        assert lowering() == ("fused", "PyTorch computes on meta")


def test_where_pytorch_compiles():
    torch.compiler.reset()
    compiled = torch.compile(normalize, backend="aot_eager", fullgraph=True)
    x = torch.randn(8, 3)
    torch.testing.assert_close(compiled(x), normalize(x))


def test_inference_is_native_where_it_is_worth_a_call(monkeypatch, chosen_for_inference):
    small, large = torch.zeros(4, 3), torch.zeros(1 << 18, 3)
    for portable in (False, True):
        options = {"portable": portable, **SETTINGS}
        assert chosen_for_inference(small, **options) == "composite"
        assert chosen_for_inference(large, **options) == "native"
        assert chosen_for_inference(large.to("meta"), **options) == "composite"
    monkeypatch.setenv(VARIABLE, "native")
    assert chosen_for_inference(small, portable=True, **SETTINGS) == "native"
    monkeypatch.setenv(VARIABLE, "composite")
    assert chosen_for_inference(large, portable=True, **SETTINGS) == "composite"


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace.* is (deprecated|not supported)")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_what_is_exported_needs_no_library(monkeypatch):
    monkeypatch.setenv(VARIABLE, "native")
    model = keras.Sequential([keras.Input((8, 8, 3)), BatchNormalization(activation="relu")])
    model.eval()
    x = torch.randn(2, 8, 8, 3)
    exported = torch.export.export(model, (x,))
    traced = torch.jit.trace(model, (x,))
    expected = model.predict(np.asarray(x), verbose=0)
    for graph, function in (
        (str(exported.graph), exported.module()),
        (str(traced.inlined_graph), traced),
    ):
        assert "keras_renorm::" not in graph
        assert "keras_renorm.forward" not in graph
        np.testing.assert_allclose(function(x).detach(), expected, atol=1e-6)


def test_a_missing_library_is_reported_once(no_library, chosen_for_inference):
    with pytest.warns(RuntimeWarning, match=r"without its native library.*: the library is not"):
        assert lowering().name == "fused"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert lowering().name == "fused"
        assert chosen_for_inference(torch.zeros(1 << 18, 3), portable=True, **SETTINGS) == (
            "composite"
        )


def test_native_demanded_in_vain(monkeypatch, no_library):
    monkeypatch.setenv(VARIABLE, "native")
    with pytest.raises(RuntimeError, match=r"KERAS_RENORM_LOWERING=native, but the library is not"):
        lowering()


def test_a_missing_library_is_not_missed_on_other_devices(no_library):
    with warnings.catch_warnings(), keras.device("meta"):
        warnings.simplefilter("error")
        assert lowering().name == "fused"
