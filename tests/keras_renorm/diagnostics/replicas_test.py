"""The gauges under tf.distribute, in a process of its own."""


def test_gauges_on_a_model_of_two_replicas(run_checks):
    run_checks("replica_checks.py")
