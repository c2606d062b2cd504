import pytest

LOAD = """
from zoo.errors import UserError
from zoo.training.cli.runtime import load_tensorflow, seed_everything
try:
    load_tensorflow()
except UserError as error:
    print(error)
    raise SystemExit
import os
os.write(2, b"stderr is back")
import keras
import tensorflow as tf

def draw(seed):
    seed_everything(seed)
    return keras.random.normal([4]).numpy().tolist()

print(draw(5) == draw(5), draw(5) == draw(6), tf.function(lambda x: x @ x)(tf.ones([2, 2])).shape)
"""


@pytest.mark.parametrize("level", [{}, {"TF_CPP_MIN_LOG_LEVEL": "3"}], ids=["", "3"])
def test_tensorflow_is_loaded_without_a_sound_and_seeded(run_python, level):
    done = run_python(LOAD, **level)
    assert (done.returncode, done.stderr) == (0, "stderr is back")
    assert done.stdout == "True False (2, 2)\n"


def test_a_user_who_sets_the_log_level_sees_the_log(run_python):
    done = run_python(LOAD, TF_CPP_MIN_LOG_LEVEL="0")
    assert done.returncode == 0
    assert "cpu_feature_guard" in done.stderr


def test_another_backend_is_refused(run_python):
    done = run_python(LOAD, KERAS_BACKEND="jax")
    assert done.stdout == (
        "This program needs Keras's TensorFlow backend, not 'jax': run it with "
        "KERAS_BACKEND=tensorflow.\n"
    )


def test_a_backend_that_there_is_not_is_refused(run_python):
    done = run_python(LOAD, KERAS_BACKEND="foo")
    assert done.stdout == (
        "Unable to import backend : foo. Run it with KERAS_BACKEND=tensorflow.\n"
    )


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        ("KERAS_RENORM_LOWERING", "The environment variable KERAS_RENORM_LOWERING='foo' names no"),
        ("KERAS_RENORM_CALLS", "The environment variable KERAS_RENORM_CALLS='foo' must be xla"),
    ],
)
def test_an_environment_that_asks_for_what_there_is_not(run_warm_python, variable, message):
    done = run_warm_python(LOAD, **{variable: "foo"})
    assert done.stdout.startswith(message)
    assert done.stdout.count("\n") == 1


def test_a_process_without_stderr(run_python):
    done = run_python(
        "import os, sys\n"
        "os.close(2)\n"
        "sys.stderr = None\n"
        "from zoo.training.cli.runtime import load_tensorflow\n"
        "load_tensorflow()\n"
        "print('loaded')\n"
    )
    assert done.stdout == "loaded\n"


def test_what_was_held_back_is_shown_when_the_import_fails(run_warm_python):
    done = run_warm_python(
        "import os\n"
        "from zoo.training.cli import runtime\n"
        "with runtime._captured_stderr():\n"
        "    os.write(2, b'illegal instruction')\n"
        "    raise ImportError('tensorflow')\n"
    )
    assert done.stderr.startswith("illegal instruction")
    assert "ImportError: tensorflow" in done.stderr


def test_what_was_held_back_stays_so_when_the_user_interrupts(run_warm_python):
    done = run_warm_python(
        "import os\n"
        "from zoo.training.cli import runtime\n"
        "try:\n"
        "    with runtime._captured_stderr():\n"
        "        os.write(2, b'a line of the log')\n"
        "        raise KeyboardInterrupt\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted')\n"
    )
    assert (done.stdout, done.stderr) == ("interrupted\n", "")


def test_quiet_silences_errors_too(run_python):
    done = run_python(
        "import os\n"
        "from zoo.training.cli.runtime import load_tensorflow\n"
        "load_tensorflow(quiet=True)\n"
        "print(os.environ['TF_CPP_MIN_LOG_LEVEL'])\n"
    )
    assert (done.stdout, done.stderr) == ("3\n", "")
