"""Which workers there are: TF_CONFIG, checked, without TensorFlow."""

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from typing import Any

from zoo.errors import UserError

_EXAMPLE = (
    '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}'
)
# The jobs that train, in the order in which TensorFlow numbers their workers.
_JOBS = ("chief", "worker")
_HEARTBEAT = "CoordinationService/Heartbeat"


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The workers of a run: processes that train one model together.

    Attributes:
        addresses: Host and port of every worker, by TensorFlow's name of it, such as
            "/job:worker/task:1". Worker 0 is the chief, which alone writes files.
        index: Number of this process among them.
    """

    addresses: Mapping[str, str] = dataclasses.field(default_factory=lambda: {"": ""})
    index: int = 0

    def __len__(self) -> int:
        return len(self.addresses)

    @property
    def is_chief(self) -> bool:
        """Whether this worker writes the files."""
        return self.index == 0

    def describe(self, index: int) -> str:
        """Returns the name of a worker for messages, such as `worker 1 (host1:2222)`."""
        return f"worker {index} ({list(self.addresses.values())[index]})"

    def culprit(self, message: str) -> int | None:
        """Returns the number of the worker that a TensorFlow error is about.

        Args:
            message: The message of an error in a collective. It names the lost worker first: the
                others only passed the error on. When the chief is frozen, it names no worker, but
                the call that the chief did not answer.
        """
        if _HEARTBEAT in message:
            return 0
        found = re.search(r"(/job:\w+)(?:/replica:0)?(/task:\d+)", message)
        names = list(self.addresses)
        return names.index(found[1] + found[2]) if found and found[1] + found[2] in names else None

    def host_and_port(self, index: int) -> tuple[str, int]:
        """Returns the address of a worker, as the functions of `socket` take it."""
        host, _, port = list(self.addresses.values())[index].rpartition(":")
        return host.strip("[]"), int(port)


def read_cluster(strategy: str) -> Cluster:
    """Returns the workers of a run with the given strategy: this process alone, or TF_CONFIG's.

    Raises:
        UserError: When the strategy needs a TF_CONFIG and there is no usable one.
    """
    if strategy != "multi_worker":
        return Cluster()
    text = os.environ.get("TF_CONFIG")
    if not text:
        raise UserError(
            "--config.strategy=multi_worker needs the environment variable TF_CONFIG, which says "
            f"where the workers are: TF_CONFIG='{_EXAMPLE}'. For workers on this machine, "
            "python tools/launch_local_cluster.py sets it."
        )
    try:
        return _parse(json.loads(text))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise UserError(
            f"TF_CONFIG is malformed ({reason}), received {text!r}. It must look like {_EXAMPLE}."
        ) from error


def _parse(values: Any) -> Cluster:
    """Returns the cluster of a TF_CONFIG; every other exception than UserError means malformed."""
    jobs, task = values["cluster"], values["task"]
    if wrong := [job for job in _JOBS if not isinstance(jobs.get(job, []), list)]:
        raise ValueError(f"{wrong[0]} must be a list of addresses")
    addresses = {
        f"/job:{job}/task:{number}": _address(address)
        for job in _JOBS
        for number, address in enumerate(jobs.get(job, []))
    }
    if not addresses:
        raise ValueError("its cluster has no worker")
    if len(set(addresses.values())) < len(addresses):
        raise ValueError("two workers have the same address")
    name = f"/job:{task['type']}/task:{int(task['index'])}"
    if name not in addresses:
        raise ValueError(f"its cluster has no {name}, only {', '.join(addresses)}")
    return Cluster(addresses, list(addresses).index(name))


def _address(text: Any) -> str:
    """Returns an address, or raises a `ValueError` for what is none."""
    found = re.fullmatch(r"[^\s/]+:(\d{1,5})", text) if isinstance(text, str) else None
    if found is None or not 0 < int(found[1]) < 65536:
        raise ValueError(f"{text!r} is not HOST:PORT")
    return text
