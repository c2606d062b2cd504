"""Sums and moments over replicas, in a process for each number of them."""

import pytest


@pytest.mark.parametrize("replicas", [2, 3])
def test_replicas(run_checks, replicas):
    run_checks("replicas_checks.py", LOGICAL_CPUS=str(replicas))
