import importlib.util

import pytest


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs PyTorch")
def test_under_pytorch(run_checks):
    run_checks("pinning_checks.py", KERAS_BACKEND="torch")
