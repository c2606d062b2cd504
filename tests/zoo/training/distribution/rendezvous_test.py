import contextlib
import re
import socket
import threading
import time

import pytest

from zoo.errors import UserError
from zoo.training.distribution.clusters import Cluster
from zoo.training.distribution.rendezvous import await_others


@pytest.fixture
def ports():
    """Three ports on which nobody listens."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(3)]
        for free in sockets:
            free.bind(("127.0.0.1", 0))
        return [free.getsockname()[1] for free in sockets]


def cluster(ports, index):
    return Cluster({f"/job:worker/task:{port}": f"127.0.0.1:{port}" for port in ports}, index)


def test_workers_that_come_one_after_the_other_meet(ports):
    met = []

    def come(index):
        time.sleep(0.3 * index)
        await_others(cluster(ports, index), 20.0)
        # From here on TensorFlow listens.
        with socket.create_server(("127.0.0.1", ports[index])):
            met.append((index, time.monotonic()))
            everyone.wait(20)

    everyone = threading.Barrier(3)
    begin = time.monotonic()
    threads = [threading.Thread(target=come, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert {index for index, _ in met} == {0, 1, 2}
    # Nobody went on before the last one came.
    assert min(when for _, when in met) - begin >= 0.6


def test_those_that_do_not_come_are_named(ports):
    with socket.create_server(("127.0.0.1", ports[1])):
        message = (
            f"worker 2 (127.0.0.1:{ports[2]}) did not come within 1 s. Start every worker with the "
            "same command and its own TF_CONFIG, and see that the ports are open."
        )
        with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
            await_others(cluster(ports, 0), 1.0)


def test_a_port_that_is_taken_is_named(ports):
    with socket.create_server(("", ports[0])):
        message = rf"^worker 0 \(127\.0\.0\.1:{ports[0]}\) cannot use its port: .*in use.* Give it"
        with pytest.raises(UserError, match=message):
            await_others(cluster(ports, 0), 1.0)
