import importlib.util
import re
import subprocess
import sys

import pytest

PROGRAM = ("-m", "zoo.convert", "--kind=tf_keras")

needs_tf_keras = pytest.mark.skipif(
    importlib.util.find_spec("tf_keras") is None, reason="needs tf_keras: pip install tf_keras"
)

#: Runs in a process of its own: the Keras of the other tests must not meet tf_keras.
WRITE = """
import sys
import numpy as np
import tf_keras
rng = np.random.default_rng(0)
images = tf_keras.Input((6, 6, 3))
x = tf_keras.layers.Conv2D(4, 3, name="conv")(images)
clipping = {"rmax": 3.0, "rmin": 1 / 3, "dmax": 5.0}
x = tf_keras.layers.BatchNormalization(renorm=True, renorm_clipping=clipping, name="renorm")(x)
x = tf_keras.layers.ReLU()(x)
x = tf_keras.layers.BatchNormalization(name="plain")(x)
x = tf_keras.layers.GlobalAveragePooling2D()(x)
model = tf_keras.Model(images, tf_keras.layers.Dense(2)(x))
model.compile("sgd", "mse")
model.fit(rng.normal(3.0, 2.0, (64, 6, 6, 3)), rng.normal(0.0, 1.0, (64, 2)), verbose=0)
model.save(sys.argv[1])
np.savez(sys.argv[2], outputs=model(np.ones((2, 6, 6, 3), np.float32)).numpy())
"""

#: The program where `tf_keras` cannot be imported.
HIDDEN = """
import runpy, sys
sys.modules["tf_keras"] = None
runpy.run_module("zoo.convert", run_name="__main__")
"""

READ = """
import sys
import keras
import numpy as np
import keras_renorm
model = keras.saving.load_model(sys.argv[1])
renorm = model.get_layer("renorm")
assert type(renorm) is keras_renorm.layers.BatchRenormalization, renorm
assert type(model.get_layer("plain")) is keras_renorm.layers.BatchNormalization
assert renorm.current_limits() == (3.0, 5.0)
expected = np.load(sys.argv[2])["outputs"]
np.testing.assert_allclose(model(np.ones((2, 6, 6, 3), np.float32)), expected, atol=1e-5)
"""


def run(*arguments):
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.slow
@needs_tf_keras
@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_a_model_of_tf_keras_is_converted(tmp_path, suffix):
    source, output, outputs = (tmp_path / n for n in (f"m{suffix}", "ours.keras", "outputs.npz"))
    written = run("-c", WRITE, source, outputs)
    assert written.returncode == 0, written.stderr
    done = run(*PROGRAM, f"--source={source}", f"--output={output}")
    assert done.returncode == 0, done.stderr
    [difference] = re.findall(r"largest difference of the outputs (\S+)", done.stdout)
    assert float(difference) < 1e-5
    read = run("-c", READ, output, outputs)
    assert read.returncode == 0, read.stderr


def test_without_tf_keras_it_says_so(tmp_path):
    source, output = tmp_path / "m.h5", tmp_path / "ours.keras"
    source.write_bytes(b"")
    done = run("-c", HIDDEN, "--kind=tf_keras", f"--source={source}", f"--output={output}")
    assert done.returncode == 2
    assert "error: --kind=tf_keras needs tf_keras: pip install tf_keras." in done.stderr
