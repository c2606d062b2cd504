"""TensorFlow without the noise, and the same numbers for the same seed."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator

from zoo.errors import UserError, as_user_errors

_LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"


@contextlib.contextmanager
def _captured_stderr() -> Iterator[None]:
    """Holds back what C++ code writes to stderr; shows it after all if the body fails.

    A Ctrl-C is no failure. A process that was started without stderr has none to hold back.
    """
    if sys.stderr is None:
        yield
        return
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 2)
        try:
            yield
        except Exception:
            captured.seek(0)
            os.write(stderr, captured.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def load_tensorflow(*, quiet: bool = False) -> None:
    """Imports TensorFlow and Keras without their log lines.

    TF_CPP_MIN_LOG_LEVEL does not silence TensorFlow 2.21, which writes five lines before it has
    set up its logging, whatever the level. So stderr is held back during the import and the first
    look for devices. A user who sets the variable to less than 2 sees everything.

    Args:
        quiet: Whether to silence TensorFlow's error messages, too. When a worker is lost, the
            others log a page of them before the error arrives that we report.

    Raises:
        UserError: When Keras is set to a backend other than TensorFlow, or an environment variable
            asks for kernels that do not exist.
    """
    with contextlib.ExitStack() as stack:
        if os.environ.setdefault(_LOG_LEVEL, "3" if quiet else "2") in ("2", "3"):
            stack.enter_context(_captured_stderr())
        try:
            import keras
        except ValueError as error:  # of an unknown backend
            raise UserError(f"{error}. Run it with KERAS_BACKEND=tensorflow.") from error
        import tensorflow as tf

        tf.config.list_physical_devices()
    if keras.backend.backend() != "tensorflow":
        raise UserError(
            f"This program needs Keras's TensorFlow backend, not {keras.backend.backend()!r}: "
            "run it with KERAS_BACKEND=tensorflow."
        )
    from keras_renorm import ops

    with as_user_errors(ValueError, RuntimeError):
        ops.lowering()


def seed_everything(seed: int) -> None:
    """Makes this process's random numbers and TensorFlow's kernels deterministic.

    Args:
        seed: Seed of the initial weights. The minibatches use it in their own way.
    """
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
