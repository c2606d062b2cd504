"""The layers under JAX's keras.distribution.DataParallel, in a process with two CPU devices."""


def test_data_parallel(run_checks):
    flags = "--xla_force_host_platform_device_count=2"
    run_checks("data_parallel_checks.py", KERAS_BACKEND="jax", XLA_FLAGS=flags)
