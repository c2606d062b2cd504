"""How every program starts and ends: flags in, one line on stderr for a user's mistake.

This module, and what a program imports at its top, are imported before anything catches a Ctrl-C:
so absl, which takes 0.1 s, is imported in functions.
"""

import errno
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from zoo.errors import UserError, WorkerLostError, reason
from zoo.training.cli import output
from zoo.training.cli.signals import Stopped

NEEDS = frozenset(
    (
        *("absl", "h5py", "importlib_resources", "keras", "matplotlib", "ml_collections", "numpy"),
        *("PIL", "requests", "rich", "tensorboard", "tensorflow", "tensorflow_datasets"),
    )
)
"""What the programs import that the extra `zoo` installs."""

_OF_FILES = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE)
"""What TensorFlow reports by the same error as exhausted memory."""

MISTAKE = 2  # As shells report a wrong use. A defect keeps its traceback, and exits with 1.
INTERRUPTED = 130  # What shells report for a program that Ctrl-C ended: 128 + SIGINT.


def _ended(action: Callable[[], Any]) -> Any:
    """Runs `action`; a user's mistake becomes one line on stderr and exit status 2.

    So does what the operating system refuses, such as writing to a full disk or more memory, and a
    package of the extra `zoo` that is missing.
    """
    try:
        return action()
    except WorkerLostError as error:
        end_at_once(str(error))
    except UserError as error:
        _complain(str(error))
        sys.exit(MISTAKE)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in NEEDS:
            raise
        _complain(
            f"{error.name} is not installed, which the programs need. Install all of them by "
            "pip install 'keras-renorm[zoo]', or '.[zoo]' in a clone."
        )
        sys.exit(MISTAKE)
    except OSError as error:
        where = "" if error.filename is None else f": {os.fsdecode(error.filename)}"
        _complain(f"{error.strerror or error}{where}")
        sys.exit(MISTAKE)
    except KeyboardInterrupt as error:
        status = 128 + error.number if isinstance(error, Stopped) else INTERRUPTED
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        print("error: interrupted.", file=sys.stderr, flush=True)
        # Another one while Python shuts down would print a traceback.
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(status))
        sys.exit(status)
    except Exception as error:
        message = _exhausted(error)
        if message is None:
            raise
        _complain(message)
        sys.exit(MISTAKE)


def _exhausted(error: Exception) -> str | None:
    """Returns what to say of memory or a disk that has run out; None for any other error."""
    kinds: tuple[type[Exception], ...] = (MemoryError,)
    if tensorflow := sys.modules.get("tensorflow"):  # what is not imported raised nothing
        kinds += (tensorflow.errors.ResourceExhaustedError,)
    if not isinstance(error, kinds):
        return None
    said = reason(str(error)) or type(error).__name__
    if any(os.strerror(number) in said for number in _OF_FILES):
        return said
    return (
        f"out of memory ({said}). Choose a smaller batch size. zoo.train also computes the "
        "gradient of a part of the batch at a time: --config.accumulate=2."
    )


def _complain(message: str) -> None:
    """Prints a message as one line on stderr."""
    print("error:", " ".join(message.split()), file=sys.stderr, flush=True)


def end_at_once(message: str) -> NoReturn:
    """Prints an error and ends the process with status 1, without Python's usual cleaning up.

    For a worker that has lost another one: TensorFlow's shutdown took 5 s to give up on a worker
    that was killed, and did not end while one was frozen.
    """
    _complain(message)
    if sys.stdout is not None:  # None if the program was started without one
        sys.stdout.flush()
    os._exit(1)


def run(
    parse: Callable[[list[str]], Any],
    main: Callable[[Any], int],
    usage: str,
    more: Callable[[], str] = lambda: "",
) -> NoReturn:
    """Runs a program under absl and exits.

    Args:
        parse: Defines the program's flags, unless they are defined, and turns `sys.argv` into what
            `main` takes; raises `UserError`.
        main: The program; returns the exit status and raises `UserError`.
        usage: What `--help` shows above the flags.
        more: Returns what `--help` shows after that. It may import: errors are caught.
    """
    _ended(lambda: _run(parse, main, usage + more()))
    raise AssertionError("absl's app.run does not return")


def _run(parse: Callable[[list[str]], Any], main: Callable[[Any], int], usage: str) -> None:
    """Runs a program under absl, which sees no exception that `_ended` handles."""
    from absl import app

    output.install()
    # absl prints this module's docstring, which a console script does not have.
    sys.modules["__main__"].__doc__ = usage
    app.run(
        lambda parsed: _ended(lambda: main(parsed)),
        flags_parser=lambda argv: _ended(lambda: _parsed(parse, argv)),
    )


def _parsed(parse: Callable[[list[str]], Any], argv: list[str]) -> Any:
    """Parses the command line; the log of other libraries is shown only with --verbosity."""
    from absl import flags
    from absl.logging import ERROR

    parsed = parse(argv)
    if flags.FLAGS["verbosity"].using_default_value:
        flags.FLAGS.verbosity = ERROR
    own, handler = logging.getLogger("zoo"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("warning: %(message)s"))
    own.addHandler(handler)
    own.setLevel(logging.WARNING)  # absl raises the level of all others
    own.propagate = False
    return parsed
