"""The layers under tf.distribute, in a process for each number of replicas."""

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_replicas(run_checks, replicas):
    # What the number of replicas, and an empty one in the middle, can make a difference to.
    chosen = ["-k", "five_steps or optimizer or own or saved"] if replicas == 3 else []
    run_checks("replica_checks.py", *chosen, LOGICAL_CPUS=str(replicas))
