import importlib.util

import pytest

from keras_renorm.ops.native import loader


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs PyTorch")
@pytest.mark.skipif(not loader.library_path().is_file(), reason="the native library is not built")
def test_under_pytorch(run_checks):
    run_checks("derivatives_checks.py", KERAS_BACKEND="torch")
