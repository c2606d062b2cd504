"""Trains with several workers on this machine, as on a cluster but over the loopback interface.

    python tools/launch_local_cluster.py -n 2 -- --workdir=runs/cluster --config.batch_size=64

starts two processes of `python -m zoo.train --config.strategy=multi_worker ARGS`, each with its own
TF_CONFIG and a free port, and shows their output with the worker's number in front. SIGINT and
SIGTERM are passed on, so that Ctrl-C saves and stops the run. When a worker fails, the others get
15 s to say so themselves, and are then stopped. The exit status is that of the first to fail.
"""

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import IO

HOST = "127.0.0.1"
# A worker notices within 10 s that another one is frozen, and at once that it has died.
GRACE_SECONDS = 15.0
KILL_SECONDS = 10.0
POLL_SECONDS = 0.05


def free_ports(count: int) -> list[int]:
    """Returns ports on which nobody listens at the moment."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for free in sockets:
            free.bind((HOST, 0))
        return [free.getsockname()[1] for free in sockets]


def start_workers(count: int, module: str, arguments: Sequence[str]) -> list[subprocess.Popen[str]]:
    """Starts the workers, each in a session of its own so that Ctrl-C reaches it once, from us."""
    addresses = [f"{HOST}:{port}" for port in free_ports(count)]
    workers = []
    for index in range(count):
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        workers.append(
            subprocess.Popen(
                [sys.executable, "-m", module, "--config.strategy=multi_worker", *arguments],
                env=os.environ | {"TF_CONFIG": json.dumps(config), "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        )
    return workers


def show(index: int, source: IO[str], target: IO[str]) -> None:
    """Copies lines with the number of the worker in front, until there are no more."""
    for line in source:
        target.write(f"[worker {index}] {line.rstrip()}\n")
        target.flush()


@contextlib.contextmanager
def shown(workers: Sequence[subprocess.Popen[str]]) -> Iterator[None]:
    """Shows the workers' output while the body runs, and to its end."""
    threads = []
    for index, worker in enumerate(workers):
        assert worker.stdout is not None
        assert worker.stderr is not None
        for source, target in ((worker.stdout, sys.stdout), (worker.stderr, sys.stderr)):
            threads.append(threading.Thread(target=show, args=(index, source, target)))
            threads[-1].start()
    try:
        yield
    finally:
        for thread in threads:
            thread.join()


def send(workers: Sequence[subprocess.Popen[str]], number: int) -> None:
    """Sends a signal to the workers that still run."""
    for worker in workers:
        if worker.poll() is None:
            worker.send_signal(number)


def wait(workers: Sequence[subprocess.Popen[str]]) -> int | None:
    """Waits until all have ended or one has failed; returns who failed."""
    while True:
        codes = [worker.poll() for worker in workers]
        # One that was killed is the cause, where others have noticed and failed since.
        failed = sorted((code, index) for index, code in enumerate(codes) if code)
        if failed:
            return failed[0][1]
        if None not in codes:
            return None
        time.sleep(POLL_SECONDS)


def stop(workers: Sequence[subprocess.Popen[str]]) -> list[int]:
    """Ends the workers; returns the numbers of those that did not end by themselves."""
    running: list[int] = []
    for number, seconds in ((signal.SIGTERM, GRACE_SECONDS), (signal.SIGKILL, KILL_SECONDS)):
        deadline = time.monotonic() + seconds
        for worker in workers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.wait(max(0.0, deadline - time.monotonic()))
        running = running or [i for i, worker in enumerate(workers) if worker.poll() is None]
        send(workers, number)
    for worker in workers:
        worker.wait()
    return running


def describe(code: int) -> str:
    """Returns in words how a process ended."""
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"failed, status {code}"


def others(stubborn: Sequence[int]) -> str:
    """Returns in words what became of the other workers."""
    numbers = ", ".join(map(str, stubborn))
    return f"worker {numbers} did not end and was stopped" if stubborn else "the others have ended"


def launch(count: int, module: str, arguments: Sequence[str]) -> int:
    """Runs the workers to their end.

    Args:
        count: Number of workers.
        module: Module that each of them runs.
        arguments: Arguments of the module.

    Returns:
        The exit status: 0 when every worker ended with 0, else that of the first to fail, in the
        manner of shells (128 + signal for one that was killed).
    """
    workers = start_workers(count, module, arguments)
    forwarded = []

    def forward(number: int, frame: FrameType | None) -> None:
        del frame
        forwarded.append(number)
        send(workers, number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, forward)
    with shown(workers):
        failed = wait(workers)
        stubborn = [] if failed is None else stop(workers)
    if failed is None:
        return 0
    code = workers[failed].returncode
    if not forwarded:
        print(f"error: worker {failed} {describe(code)}; {others(stubborn)}.", file=sys.stderr)
    return code if code > 0 else 128 - code


def main() -> int:
    """Parses the command line and launches; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", "--workers", type=int, required=True, help="number of workers")
    parser.add_argument("--module", default="zoo.train", help="what each worker runs")
    parser.add_argument("arguments", nargs="*", metavar="ARGS", help="its arguments, after --")
    options = parser.parse_args()
    if options.workers < 1:
        parser.error(f"-n must be at least 1, received {options.workers}")
    return launch(options.workers, options.module, options.arguments)


if __name__ == "__main__":
    sys.exit(main())
