def test_devices_that_are_mapped(run_checks):
    flags = "--xla_force_host_platform_device_count=2"
    run_checks("collective_checks.py", KERAS_BACKEND="jax", XLA_FLAGS=flags)
