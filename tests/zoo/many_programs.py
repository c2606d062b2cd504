"""Runs programs one after the other in this process, as `python many_programs.py CALLS.json`.

A process for each would load TensorFlow each time. Prints a JSON list: for each call the exit
status, what it printed, and the files that it left, or took away, in its folder.
"""

import contextlib
import importlib
import io
import json
import pathlib
import sys
import traceback

from absl import app, flags


def answer(module, arguments):
    """Returns the exit status of a program and what it printed."""
    before, out, err = set(flags.FLAGS), io.StringIO(), io.StringIO()
    sys.argv = [module, *arguments]
    status = "it returned"
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            importlib.import_module(module).run()
        except SystemExit as end:
            status = end.code
        except BaseException:
            traceback.print_exc()
    for name in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, name)
    return {"status": status, "out": out.getvalue(), "err": err.getvalue()}


def files():
    """Every path below the folder, with what changes when it is written."""
    found = {}
    for path in pathlib.Path().rglob("*"):
        status = path.lstat()
        found[str(path)] = [status.st_mtime_ns, status.st_size, status.st_mode]
    return found


def main(path):
    app.define_help_flags()  # absl's own flags, which stay
    answers = []
    before = files()
    for module, arguments in json.loads(pathlib.Path(path).read_text()):
        done, after = answer(module, arguments), files()
        touched = [name for name in {*before, *after} if before.get(name) != after.get(name)]
        answers.append(done | {"touched": sorted(touched)})
        before = after
    print(json.dumps(answers))


if __name__ == "__main__":
    main(sys.argv[1])
