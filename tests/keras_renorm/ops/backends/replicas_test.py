"""Sums and moments over replicas, in a process for each number of them."""

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [2, 3])
def test_replicas(run_checks, replicas):
    # What depends on the number of replicas, and on an empty one in the middle.
    chosen = ["-k", "merged or permutation or bits"] if replicas == 3 else []
    run_checks("replicas_checks.py", *chosen, LOGICAL_CPUS=str(replicas))
