"""Waits for the other workers, and names those that do not come."""

import socket
import time

from zoo.errors import UserError
from zoo.training.distribution.clusters import Cluster

_PAUSE_SECONDS = 0.2
_PROBE_SECONDS = 2.0


def await_others(cluster: Cluster, seconds: float) -> None:
    """Returns when every worker listens at its address: here, or already as TensorFlow's server.

    TensorFlow itself waits for an hour, in which neither Ctrl-C nor a Python thread gets a turn. It
    does not say for whom it waited.

    Args:
        cluster: The workers.
        seconds: How long to wait.

    Raises:
        UserError: When a worker is missing by then, or this one's port is taken.
    """
    deadline = time.monotonic() + seconds
    missing = [index for index in range(len(cluster)) if index != cluster.index]
    with _listening(cluster):
        while missing := [i for i in missing if not _listens(*cluster.host_and_port(i))]:
            if time.monotonic() > deadline:
                names = ", ".join(map(cluster.describe, missing))
                raise UserError(
                    f"{names} did not come within {seconds:.0f} s. Start every worker with the "
                    "same command and its own TF_CONFIG, and see that the ports are open."
                )
            time.sleep(_PAUSE_SECONDS)


def _listening(cluster: Cluster) -> socket.socket:
    """Returns a socket at this worker's port. Each other worker connects to it at most once."""
    _, port = cluster.host_and_port(cluster.index)
    try:
        return socket.create_server(("", port), backlog=len(cluster))
    except OSError as error:
        raise UserError(
            f"{cluster.describe(cluster.index)} cannot use its port: {error}. Give it a free one "
            "in the TF_CONFIG of every worker."
        ) from error


def _listens(host: str, port: int) -> bool:
    """Whether a connection is accepted within 2 s."""
    try:
        socket.create_connection((host, port), timeout=_PROBE_SECONDS).close()
    except OSError:
        return False
    return True
