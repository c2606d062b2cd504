import jax
import jax.numpy as jnp
import numpy as np
import pytest

from keras_renorm.ops.backends.jax import calls
from keras_renorm.ops.backends.jax.backend import BACKEND
from keras_renorm.ops.maths.operands import Settings
from keras_renorm.ops.native import loader


@pytest.mark.skipif(not loader.library_path().is_file(), reason="the native library is not built")
def test_it_takes_the_library():
    assert BACKEND.native_problem() is None
    assert BACKEND.step_calls(jnp.zeros((4, 3))) is calls


def test_what_it_has_not():
    x = jnp.zeros((4, 3))
    assert BACKEND.fused is None
    assert BACKEND.native_passes(x) is None
    assert BACKEND.inference_passes(x, portable=False, demanded=True) is None
    assert not BACKEND.prefers_plain_passes
    assert BACKEND.elsewhere == "composite"
    assert BACKEND.synchronizes  # its minibatch is the global one


def test_other_platforms_and_several_devices_are_elsewhere(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    for count, reason in ((1, None), (8, "JAX computes on 8 devices")):
        monkeypatch.setattr(jax, "device_count", lambda count=count: count)
        assert BACKEND.off_cpu() == reason
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert BACKEND.off_cpu() == "JAX computes on gpu"


def test_what_is_traced():
    found = []
    x = jnp.zeros(3)
    jax.jit(lambda inner: found.append(BACKEND.is_traced(inner)) or inner)(x)
    assert found == [True]
    assert not BACKEND.is_traced(x)


def test_one_pass_is_compiled():
    def function(x, settings):
        traced.append((BACKEND.is_traced(x), settings))
        return 2 * x

    traced = []
    one = BACKEND.in_one_pass(function)
    assert [float(one(jnp.float32(value), settings=Settings(0))) for value in (1, 2)] == [2, 4]
    assert traced == [(True, Settings(0))]
    assert BACKEND.in_one_pass(function) is one


def test_a_product_is_that_of_jax_with_its_derivatives():
    x = jnp.arange(-11.0, 13.0).reshape(4, 2, 3)
    factor = jnp.asarray([[0.5, jnp.inf, jnp.nan], [-3.0, -jnp.inf, -0.0]])[None]
    np.testing.assert_array_equal(BACKEND.product(x, factor), x * factor)
    finite = jnp.asarray([2.0, -3.0, 0.0])

    def both(derive):
        for found, expected in zip(*map(derive, (BACKEND.product, jnp.multiply)), strict=True):
            np.testing.assert_array_equal(found, expected)

    both(lambda product: jax.vjp(product, x, finite)[1](x**2))
    both(lambda product: jax.jvp(product, (x, finite), (x**2, finite + 1)))
    both(lambda product: [jax.vmap(product, (0, None))(x, finite)])
    both(lambda product: jax.hessian(lambda f: (product(x, f) ** 3).sum())(finite))
