"""Population statistics under tf.distribute, in a process for each number of replicas."""

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [2, 3])
def test_replicas(run_checks, replicas):
    # What depends on the number of replicas: parts without examples.
    chosen = ["-k", "moments and 1"] if replicas == 3 else []
    run_checks("replica_checks.py", *chosen, LOGICAL_CPUS=str(replicas))
