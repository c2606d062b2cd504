"""That a backend with plain operations only is enough, and that the others keep its promises."""

import inspect
import warnings

import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("gradients by tapes", allow_module_level=True)

import tensorflow as tf

from keras_renorm import ops
from keras_renorm.layers import BatchRenormalization
from keras_renorm.ops import backends
from keras_renorm.ops.backends import kernels
from keras_renorm.ops.backends.jax import calls as jax_calls
from keras_renorm.ops.backends.jax.backend import BACKEND as JAX
from keras_renorm.ops.backends.jax.collective import MappedDevices
from keras_renorm.ops.backends.tensorflow import calls
from keras_renorm.ops.backends.tensorflow.backend import BACKEND as TENSORFLOW
from keras_renorm.ops.backends.tensorflow.collective import StrategyReplicas
from keras_renorm.ops.maths import passes
from keras_renorm.ops.steps import lowerings

FOURTH = backends.Backend("fourth")
KEPT = [
    *((backends.Backend, backend) for backend in (TENSORFLOW, JAX)),
    *((kernels.StepCalls, module) for module in (calls, jax_calls)),
    *((kernels.InferencePasses, module) for module in (calls, passes)),
    *((kernels.Passes, module) for module in (calls, passes)),
    (kernels.FusedKernel, TENSORFLOW.fused),
    (kernels.FusedInference, TENSORFLOW.fused_inference),
    *((ops.Replicas, replicas) for replicas in (StrategyReplicas, MappedDevices)),
]


@pytest.fixture
def fourth(monkeypatch):
    """A process on a backend of another name, which computes by TensorFlow's operations."""
    monkeypatch.delenv(lowerings.VARIABLE, raising=False)
    monkeypatch.setattr(backends, "current", lambda: FOURTH)


OPTIONS = {
    "whole": {},
    "ReLU": {"relu": True},
    "masked": {"mask": True},
    "ghosts": {"virtual_batch_size": 4, "mask": True},
    "another axis": {"axis": 1},
    "synchronized": {"synchronized": True},
}


@pytest.mark.usefixtures("fourth")
@pytest.mark.parametrize("name", OPTIONS)
def test_a_fourth_backend_trains(rng, float64, name):
    options = {"axis": 2, "mask": None, **OPTIONS[name]}
    x, dy = (tf.constant(a, tf.float32) for a in rng.normal(1.0, 2.0, (2, 6, 5, 3)))
    channels = x.shape[options["axis"]]
    gamma, beta, mean, variance = (
        tf.constant(v, tf.float32) for v in rng.uniform(0.5, 2.0, (4, channels))
    )
    if options["mask"]:
        options["mask"] = mask = rng.random((6, 5, 1)) > 0.3
        x = tf.where(mask, x, np.nan)
    with tf.GradientTape() as tape:
        tape.watch((x, gamma, beta))
        given = mean, variance, gamma, beta
        y, moving = ops.training_step(x, *given, momentum=0.9, r_max=1.5, d_max=0.5, **options)
    gradients = tape.gradient(y, (x, gamma, beta), dy)
    desired = float64(
        *(x, dy, (gamma, beta, mean, variance), (1.5, 0.5)),
        axis=options["axis"],
        relu=options.get("relu", False),
        weights=options["mask"],
        ghost_size=options.get("virtual_batch_size"),
    )
    valid = True if options["mask"] is None else np.broadcast_to(options["mask"], x.shape)
    near = {"rtol": 0, "atol": 5e-5}
    np.testing.assert_allclose(np.where(valid, y, 0), np.where(valid, desired["y"], 0), **near)
    for actual, key in zip(gradients, ("dx", "dgamma", "dbeta"), strict=True):
        np.testing.assert_allclose(actual, desired[key], **near)
    share = desired["count"] / desired["count"].sum(0)
    moved = 0.9 * mean + 0.1 * (share * desired["mean"]).sum(0)
    np.testing.assert_allclose(moving.mean, moved, **near)


@pytest.mark.usefixtures("fourth")
@pytest.mark.parametrize("portable", [True, False])
@pytest.mark.parametrize("relu", [True, False])
def test_a_fourth_backend_infers(rng, relu, portable):
    x = tf.constant(rng.normal(1.0, 2.0, (6, 2, 2, 3)), tf.float32)
    mean, variance, gamma, beta = rng.uniform(0.5, 2.0, (4, 3))
    y = ops.inference_step(x, mean, variance, gamma, beta, relu=relu, portable=portable)
    desired = (x - mean) * gamma / np.sqrt(variance + 1e-3) + beta
    np.testing.assert_allclose(y, np.maximum(desired, 0) if relu else desired, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("fourth")
def test_a_fourth_backend_fits(rng):
    x, y = rng.normal(size=(20, 3)).astype("float32"), rng.normal(size=(20, 2))
    model = keras.Sequential([keras.Input((3,)), BatchRenormalization(), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    losses = model.fit(x, y, batch_size=8, epochs=2, verbose=0).history["loss"]
    assert losses[1] < losses[0]


@pytest.mark.usefixtures("fourth")
def test_a_fourth_backend_says_why_it_is_composite(monkeypatch):
    problem = "the native library does not serve the fourth backend"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ops.lowering() == ("composite", problem)
    monkeypatch.setenv(lowerings.VARIABLE, "fused")
    assert ops.lowering() == (
        "composite",
        "KERAS_RENORM_LOWERING=fused, which fourth does not have",
    )
    monkeypatch.setenv(lowerings.VARIABLE, "native")
    with pytest.raises(RuntimeError, match=f"^KERAS_RENORM_LOWERING=native, but {problem}\\.$"):
        ops.lowering()


def test_what_a_plain_backend_lacks():
    x = tf.zeros((4, 3))
    assert FOURTH.step_calls(x) is None
    assert FOURTH.inference_passes(x, portable=False, demanded=True) is None
    assert FOURTH.native_passes(x) is FOURTH.fused is FOURTH.fused_inference is None
    assert FOURTH.replicas() is None
    assert FOURTH.own_operations_only() is None
    assert not FOURTH.synchronizes
    assert FOURTH.off_cpu() == FOURTH.native_problem()
    assert FOURTH.of_this_graph([x]) == (x,)
    assert FOURTH.pinned(x) is x
    np.testing.assert_array_equal(FOURTH.product(x + 2, tf.range(3.0)), [[0, 2, 4]] * 4)
    assert FOURTH.in_one_pass(tf.abs) is tf.abs
    assert FOURTH.is_traced(keras.Input((3,)))
    assert not FOURTH.is_traced(x)
    with FOURTH.without_gradients(), FOURTH.generators_kept():
        pass


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


def test_titles():
    assert [backend.title for backend in (FOURTH, TENSORFLOW, JAX)] == [
        "fourth",
        "TensorFlow",
        "JAX",
    ]
