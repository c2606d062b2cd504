import pathlib

import jax
import keras
import numpy as np
import pytest

from keras_renorm.ops.backends.jax import calls as jax_calls
from keras_renorm.ops.maths.operands import Arguments, Constants, Settings
from keras_renorm.ops.native import loader

if not loader.library_path().is_file():
    pytest.skip("the native library is not built", allow_module_level=True)
if jax.default_backend() != "cpu":
    pytest.skip("the native library serves the CPU", allow_module_level=True)

TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-2, "float16": 2e-3}


@pytest.mark.parametrize("dtype", sorted(TOLERANCE))
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("ghost_size", [None, 4])
@pytest.mark.parametrize(("shape", "axis"), [((8, 6, 5, 20), 3), ((6, 3, 50), 1)])
def test_agrees_with_float64(float64, rng, shape, axis, ghost_size, masked, relu, dtype):
    x, dy = (jax.numpy.asarray(a, dtype) for a in rng.normal(size=(2, *shape)))
    channels = shape[axis]
    vectors = [rng.normal(size=channels).astype("float32") for _ in range(3)]
    vectors.append(rng.uniform(0.5, 2, channels).astype("float32"))
    weights = rng.random((shape[0], *(1 for _ in shape[1:]))) < 0.7 if masked else None
    limits = (np.float32(3), np.float32(5))
    settings = {"axis": axis, "relu": relu, "ghost_size": ghost_size}

    @jax.jit
    def run(x, dy):
        mask = None if weights is None else jax.numpy.asarray(weights)
        arguments, constants = Arguments(x, *vectors[:2]), Constants(*vectors[2:], *limits, mask)
        y, saved, *_ = jax_calls.forward(arguments, constants, Settings(**settings, epsilon=1e-3))
        return y, saved, *jax_calls.backward(dy, x, saved, mask, Settings(**settings))

    y, saved, dx, dgamma, dbeta = run(x, dy)
    expected = float64(x, dy, vectors, limits, weights=weights, **settings)
    near = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
    assert y.dtype == dx.dtype == x.dtype
    np.testing.assert_allclose(np.float64(y), expected["y"], **near)
    np.testing.assert_allclose(np.float64(dx), expected["dx"], **near)
    np.testing.assert_allclose(saved[2], expected["variance"], rtol=1e-5)
    np.testing.assert_allclose(dgamma, expected["dgamma"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(dbeta, expected["dbeta"], rtol=1e-4, atol=1e-4)


def test_the_same_bits_as_from_tensorflow(rng):
    if keras.backend.backend() != "tensorflow":
        pytest.skip("needs TensorFlow's calls")
    import tensorflow as tf

    from keras_renorm.ops.backends.tensorflow import calls as tensorflow_calls

    x = rng.normal(size=(64, 300)).astype("float32")
    one, zero = np.ones(300, "float32"), np.zeros(300, "float32")
    operands = (x, one, zero), (zero, one, np.float32(3), np.float32(5))
    settings = Settings(1, 1e-3, ghost_size=24, momentum=0.9)

    def forward(calls, convert):
        arguments, constants = (tuple(map(convert, values)) for values in operands)
        return calls.forward(Arguments(*arguments), Constants(*constants), settings)

    ours = forward(jax_calls, jax.numpy.asarray)
    theirs = forward(tensorflow_calls, tf.constant)
    for one_of_ours, one_of_theirs in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one_of_ours, one_of_theirs)


def test_the_interface_to_xla_is_looked_up_before_a_handler_is_queued(monkeypatch):
    """JAX would have no CPU any more once XLA refuses it."""
    register = jax_calls.register.__wrapped__
    monkeypatch.setattr(jax.ffi, "register_ffi_target", lambda *_, **__: pytest.fail("queued"))
    monkeypatch.setattr(jax_calls, "_ffi_version", lambda: 0)
    with pytest.raises(loader.NativeLibraryError, match=r"JAX \d.* has version 0\.0 of XLA's"):
        register()


def test_a_jax_without_the_interface_is_older(monkeypatch):
    assert jax_calls._ffi_version() >= 1
    monkeypatch.delattr(jax, "ffi")
    assert jax_calls._ffi_version() == -1


@pytest.mark.skipif(
    not pathlib.Path("/sys/kernel/mm/transparent_hugepage").is_dir(),
    reason="this system has no large pages to ask for",
)
def test_large_results_ask_for_large_pages():
    shape = (2, 1 << 20, 8)  # 64 MB, which malloc takes from the system anew
    one, zero = np.ones(8, "float32"), np.zeros(8, "float32")

    @jax.jit
    def normalize(x):
        constants = Constants(zero, one, np.float32(3), np.float32(5))
        return jax_calls.forward(Arguments(x, one, zero), constants, Settings(2, 1e-3)).y

    y = jax.block_until_ready(normalize(jax.numpy.zeros(shape)))
    assert "hg" in flags_of_memory(y.unsafe_buffer_pointer() + y.nbytes // 2)


def flags_of_memory(address):
    """The kernel's flags of the mapping that holds an address."""
    inside = False
    for line in pathlib.Path("/proc/self/smaps").read_text().splitlines():
        key, *values = line.split()
        if not key.endswith(":"):
            first, end = (int(part, 16) for part in key.split("-"))
            inside = first <= address < end
        elif inside and key == "VmFlags:":
            return values
    raise AssertionError(f"no mapping holds {address:#x}")


@pytest.mark.parametrize("header", [None, "", "#define XLA_FFI_API_MAJOR 0"])
def test_without_a_version_in_the_header_the_library_is_not_taken(tmp_path, monkeypatch, header):
    if header is not None:
        path = tmp_path / "xla" / "ffi" / "api" / "c_api.h"
        path.parent.mkdir(parents=True)
        path.write_text(header)
    monkeypatch.setattr(jax.ffi, "include_dir", lambda: str(tmp_path))
    with pytest.raises(loader.NativeLibraryError, match=r"^JAX \d.* has an old or unknown version"):
        jax_calls.register.__wrapped__()
