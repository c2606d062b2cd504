"""From a config to the `tf.distribute` strategy that a run uses."""

import functools
import math
import signal
from typing import Any

import tensorflow as tf

from zoo.errors import UserError
from zoo.training import builders
from zoo.training.config import check_parts
from zoo.training.distribution.clusters import Cluster
from zoo.training.distribution.rendezvous import await_others

#: Seconds that a worker waits for the others to start.
CONNECT_SECONDS = 300.0


def make_strategy(
    config: builders.Config, cluster: Cluster, connect_seconds: float = CONNECT_SECONDS
) -> tf.distribute.Strategy:
    """Returns the strategy. Call it before anything makes TensorFlow look at its devices.

    Args:
        config: Checked.
        cluster: The workers; used by "multi_worker" only.
        connect_seconds: How long to wait for the other workers.

    Returns:
        TensorFlow's default strategy for "none", so that every run has one.

    Raises:
        UserError: When there are too few devices, too few examples for them, or another worker
            does not come.
    """
    if config["strategy"] == "mirrored":
        return _mirrored(config["num_replicas"])
    if config["strategy"] == "none":
        return tf.distribute.get_strategy()
    strategy = _connected(cluster, connect_seconds)
    check_parts(config, strategy.num_replicas_in_sync)
    return strategy


@functools.cache
def _mirrored(count: int) -> tf.distribute.Strategy:
    """Returns the strategy of `count` devices of this machine.

    All trainings in a process share it: the collectives of a second strategy would have the keys of
    the first one's, and TensorFlow cancels them.
    """
    return tf.distribute.MirroredStrategy(_devices(count))


def _devices(count: int) -> list[str]:
    """Returns the names of `count` GPUs, or of logical CPU devices where there is no GPU."""
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        _make_logical_cpus(count)
    elif len(gpus) < count:
        raise UserError(
            f"--config.num_replicas={count}: this machine has {len(gpus)} GPU(s). Give at most as "
            "many, or hide them with CUDA_VISIBLE_DEVICES=-1 to train on logical CPU devices."
        )
    return [f"{'GPU' if gpus else 'CPU'}:{number}" for number in range(count)]


def _make_logical_cpus(count: int) -> None:
    """Divides the CPU into `count` devices, unless it is so divided already."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    try:
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * count
        )
    except RuntimeError as error:
        there = len(tf.config.list_logical_devices("CPU"))
        if there != count:
            raise UserError(
                f"--config.num_replicas={count}: TensorFlow runs already, with {there} logical CPU "
                "device(s), and cannot change that. Train in a process of its own."
            ) from error


def _connected(cluster: Cluster, seconds: float) -> tf.distribute.Strategy:
    """Returns the strategy of several workers once all of them are there."""
    await_others(cluster, seconds)
    # All have come. If one dies now, TensorFlow waits for it with Python locked out, and only the
    # kernel can end this process.
    signal.alarm(math.ceil(seconds))
    try:
        return tf.distribute.MultiWorkerMirroredStrategy(communication_options=_communication())
    except tf.errors.OpError as error:
        raise UserError(
            f"{cluster.describe(cluster.index)} cannot join the others: {error.message}"
        ) from error
    finally:
        signal.alarm(0)


def _communication() -> Any:
    """NCCL where there are GPUs, else a ring: both give the same bits on every worker."""
    kinds = tf.distribute.experimental.CommunicationImplementation
    kind = kinds.AUTO if tf.config.list_physical_devices("GPU") else kinds.RING
    return tf.distribute.experimental.CommunicationOptions(implementation=kind)
