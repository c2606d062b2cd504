"""Forks programs from a process that has imported TensorFlow, as `python warm_programs.py SOCKET`.

The import takes four seconds of every program. A program that is forked is a process of its own:
it has its number, signals, folder and environment, starts TensorFlow's runtime itself, and ends as
Python ends. What a process reads when it starts, or inherits, is this one's: the seed of hashes,
the encoding of the outputs, the level of TensorFlow's log, the user, and limits.

A request is a JSON object with three open files: stdout, stderr and one for a report, which gets
the number of the process, and its exit status when it has ended, a line each.
"""

import gc
import importlib
import json
import os
import runpy
import select
import socket
import sys

#: What a training imports.
MODULES = (
    *("tensorflow", "keras", "h5py", "ml_collections.config_flags", "PIL.Image", "rich.progress"),
    *("tensorboard.summary", "zoo.trained.evaluating", "zoo.training.loop", "zoo.training.setup"),
)


def load():
    sys.path[0] = ""  # not this folder, where data and models are packages, too
    app = importlib.import_module("absl.app")
    later, app.call_after_init = app.call_after_init, lambda callback: None
    # TensorFlow has absl look for devices when a program starts. In a program that loads it, absl
    # has done that already.
    for name in MODULES:
        importlib.import_module(name)
    app.call_after_init = later
    # Threads do not survive a fork, and what they hold stays locked.
    assert len(os.listdir("/proc/self/task")) == 1
    gc.freeze()


def serve(connection):
    """Forks what is asked for until the tests end. In a program's process, returns its message."""
    children = {}
    while True:
        for ready in select.select([connection, *children], [], [])[0]:
            if ready is not connection:
                pid, report = children.pop(ready)
                status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                os.write(report, f"{status}\n".encode())
                os.close(report)
                os.close(ready)
                continue
            message, files, _, _ = socket.recv_fds(connection, 2**20, 3)
            if not message:
                sys.exit()
            pid = os.fork()
            if pid == 0:
                for descriptor, (_, report) in children.items():
                    os.close(descriptor)
                    os.close(report)
                return message, files
            *outputs, report = files
            for descriptor in outputs:
                os.close(descriptor)
            os.write(report, f"{pid}\n".encode())
            children[os.pidfd_open(pid)] = pid, report


def become(message, files):
    """Does what was asked for, in the place of this program."""
    for number, descriptor in enumerate(files[:2], start=1):
        os.dup2(descriptor, number)
    for descriptor in files:
        os.close(descriptor)
    request = json.loads(message)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    if "module" in request:
        sys.argv = ["", *request["arguments"]]
        runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
    else:
        sys.argv = ["-c"]
        exec(compile(request["code"], "<string>", "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    load()
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        asked = serve(connection)
    become(*asked)
