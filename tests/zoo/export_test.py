import signal

PROGRAM = "zoo.export"


def test_a_mistake_is_one_line(run_program):
    done = run_program(PROGRAM)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: --model is missing: add it, as in --model=runs/quickstart.\n"


def test_a_run_is_exported(run_program, finished_run, tmp_path):
    done = run_program(PROGRAM, f"--model={finished_run[0]}", f"--output={tmp_path / 'm.keras'}")
    assert (done.returncode, done.stderr) == (0, "")
    assert "on 16 images probabilities differ by" in done.stdout
    assert (tmp_path / "m.keras").exists()


STOPPED = """
import os, signal, sys
import tensorflow as tf
save = tf.saved_model.save
def stopped(*arguments):
    save(*arguments)
    os.kill(os.getpid(), signal.SIGTERM)
tf.saved_model.save = stopped
sys.argv = ["export", "--model={model}", "--output={output}"]
from zoo import export
export.run()
"""


def test_a_signal_leaves_no_unfinished_folder(run_warm_python, finished_run, tmp_path):
    done = run_warm_python(STOPPED.format(model=finished_run[0], output=tmp_path / "served"))
    assert done.returncode == 128 + signal.SIGTERM
    assert done.stderr.endswith("error: interrupted.\n")
    assert list(tmp_path.iterdir()) == []
