import jax
import pytest

from keras_renorm.ops.native import loader


@pytest.mark.slow
@pytest.mark.skipif(not loader.library_path().is_file(), reason="the native library is not built")
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the native library serves the CPU")
def test_under_jax(run_checks):
    run_checks("derivatives_checks.py", KERAS_BACKEND="jax", JAX_ENABLE_X64="1")
