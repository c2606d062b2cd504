"""Training by worker processes on loopback against training by a single one."""

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

WORKER = pathlib.Path(__file__).with_name("multi_worker.py")


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for free in sockets:
            free.bind(("127.0.0.1", 0))
        return [free.getsockname()[1] for free in sockets]


def train(folder, sizes):
    """The weights that each of the workers ends with; `sizes` are their parts of the batch."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(len(sizes))]
    logs = [folder / f"worker-{index}.log" for index in range(len(sizes))]
    with contextlib.ExitStack() as stack:
        workers = []
        for index, log in enumerate(logs):
            task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            several = {"TF_CONFIG": json.dumps(task)} if len(sizes) > 1 else {}
            worker = subprocess.Popen(
                [sys.executable, str(WORKER), str(folder), str(index), json.dumps(sizes)],
                # oneDNN's convolution gives an empty batch the shape of its input (TF 2.21).
                env=os.environ | {"TF_ENABLE_ONEDNN_OPTS": "0"} | several,
                stdout=stack.enter_context(log.open("w")),
                stderr=subprocess.STDOUT,
                cwd=WORKER.parents[3],
            )
            stack.callback(worker.wait)
            stack.callback(worker.kill)
            workers.append(worker)
        for worker in workers:
            worker.wait(timeout=150)
    output = "\n".join(log.read_text() for log in logs)
    assert [worker.returncode for worker in workers] == [0] * len(sizes), output
    return [dict(np.load(folder / f"{index}.npz")) for index in range(len(sizes))]


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    return train(tmp_path_factory.mktemp("single"), [8])[0]


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [[5, 3], [7, 0, 1]], ids=str)
def test_workers_end_with_the_weights_of_a_single_process(tmp_path, single, sizes):
    workers = train(tmp_path, sizes)
    for worker in workers:  # for a layer that is not synchronized; worker i saw only i + 1
        mean = np.arange(1, len(sizes) + 1).mean()
        np.testing.assert_allclose(worker.pop("read outside"), mean, rtol=1e-6)
        np.testing.assert_allclose(worker.pop("used inside"), mean, rtol=1e-6)
    assert len(single) == 14 + 2
    for name in workers[0]:
        desired = single[name]
        assert len({worker[name].tobytes() for worker in workers}) == 1, name
        np.testing.assert_allclose(workers[0][name], desired, rtol=1e-5, atol=1e-5)
