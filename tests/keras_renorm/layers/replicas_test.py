"""The layers under tf.distribute, in a process for each number of replicas, and in processes."""

import importlib.util

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_replicas(run_checks, replicas):
    # What depends on the number of replicas, and on an empty one in the middle.
    chosen = ["-k", "five_steps or optimizer or own or saved"] if replicas == 3 else []
    run_checks("replica_checks.py", *chosen, LOGICAL_CPUS=str(replicas))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs PyTorch")
def test_processes_of_pytorch(run_checks):
    run_checks("process_checks.py", KERAS_BACKEND="torch")
