import json
import re

import pytest

from zoo.errors import UserError
from zoo.training.distribution.clusters import Cluster, read_cluster

HOSTS = ["host0:2222", "host1:2223"]


def tf_config(cluster, kind="worker", index=1):
    return json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})


def test_a_process_is_alone_unless_it_asks_for_others(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "nonsense")
    for strategy in ("none", "mirrored"):
        cluster = read_cluster(strategy)
        assert len(cluster) == 1
        assert cluster.is_chief


def test_workers_are_those_of_tf_config(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", tf_config({"worker": HOSTS, "ps": ["host9:1"]}))
    cluster = read_cluster("multi_worker")
    assert (len(cluster), cluster.index, cluster.is_chief) == (2, 1, False)
    assert cluster.describe(0) == "worker 0 (host0:2222)"


@pytest.mark.parametrize(("kind", "index", "number"), [("chief", 0, 0), ("worker", 1, 2)])
def test_a_chief_comes_before_the_workers(monkeypatch, kind, index, number):
    cluster = {"worker": HOSTS, "chief": ["chief:1"]}
    monkeypatch.setenv("TF_CONFIG", tf_config(cluster, kind, index))
    found = read_cluster("multi_worker")
    assert found.index == number
    assert found.describe(0) == "worker 0 (chief:1)"
    assert found.describe(2) == "worker 2 (host1:2223)"


def test_without_tf_config_the_variable_is_explained(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(
        UserError,
        match=r"^--config\.strategy=multi_worker needs the environment variable TF_CONFIG, which "
        r'says where the workers are: TF_CONFIG=\'\{"cluster": .*launch_local_cluster\.py sets it',
    ):
        read_cluster("multi_worker")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "Expecting property name"),
        ("[]", "list indices must be integers"),
        ("{}", "'cluster' is missing"),
        (json.dumps({"cluster": {"worker": HOSTS}}), "'task' is missing"),
        (tf_config({"worker": "host0:2222"}), "worker must be a list of addresses"),
        (tf_config({"worker": ["host0"]}), "'host0' is not HOST:PORT"),
        (tf_config({"worker": ["host0:65536"]}), "'host0:65536' is not HOST:PORT"),
        (tf_config({"worker": [7]}), "7 is not HOST:PORT"),
        (tf_config({"worker": [HOSTS[0]] * 2}), "two workers have the same address"),
        (tf_config({"ps": HOSTS}), "its cluster has no worker"),
        (
            tf_config({"worker": HOSTS}, index=2),
            "its cluster has no /job:worker/task:2, only /job:worker/task:0, /job:worker/task:1",
        ),
        (tf_config({"worker": HOSTS}, kind="ps"), "its cluster has no /job:ps/task:1"),
        (tf_config({"worker": HOSTS}, index="one"), "invalid literal for int"),
    ],
)
def test_a_malformed_tf_config_is_answered_with_the_reason(monkeypatch, text, reason):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(UserError) as raised:
        read_cluster("multi_worker")
    message = str(raised.value)
    assert message.startswith(f"TF_CONFIG is malformed ({reason}")
    assert f"received {text!r}. It must look like {{" in message


# What TensorFlow 2.21 says on workers 0 and 2 of three when worker 1 is killed or frozen, and on
# worker 2 when worker 0 is frozen; shortened.
KILLED = (
    "Collective ops is aborted by: recvmsg:Connection reset by peer\n"
    "Additional GRPC error information from remote target /job:worker/replica:0/task:1 while "
    "calling /tensorflow.WorkerService/RecvBuf:\nThe error could be from a previous operation."
)
PASSED_ON = KILLED + "\nAdditional GRPC error information from remote target /job:worker/task:2"
FROZEN = (
    "Collective ops is aborted by: Error reported from /job:worker/task:1: The following tasks are "
    "unhealthy (stopped sending heartbeats):\n/job:worker/replica:0/task:1"
)
CHIEF_FROZEN = (
    "Collective ops is aborted by: Deadline Exceeded\n\nRPC: /tensorflow.CoordinationService/"
    "Heartbeat\nAdditional GRPC error information from remote target /job:worker/replica:0/task:1"
)


@pytest.mark.parametrize(
    ("message", "number"),
    [(KILLED, 1), (PASSED_ON, 1), (FROZEN, 1), (CHIEF_FROZEN, 0), ("no name", None)],
)
def test_the_culprit_is_the_worker_that_was_lost(message, number):
    names = {f"/job:worker/task:{i}": f"host{i}:1" for i in range(3)}
    assert Cluster(names, 2).culprit(message) == number


def test_a_worker_outside_the_cluster_is_no_culprit():
    assert Cluster({"/job:worker/task:0": "host0:1"}, 0).culprit(KILLED) is None


def test_an_address_is_taken_apart():
    cluster = Cluster({"a": "host0:2222", "b": "[::1]:7"}, 0)
    assert cluster.host_and_port(0) == ("host0", 2222)
    assert cluster.host_and_port(1) == ("::1", 7)


def test_the_example_in_the_messages_is_a_tf_config(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(UserError) as raised:
        read_cluster("multi_worker")
    example = re.search(r"TF_CONFIG='(.*?)'", str(raised.value))[1]
    monkeypatch.setenv("TF_CONFIG", example)
    assert len(read_cluster("multi_worker")) == 2
