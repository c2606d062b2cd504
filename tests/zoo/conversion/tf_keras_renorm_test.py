import importlib.util
import re

import pytest

PROGRAM = ("zoo.convert", "--kind=tf_keras")

needs_tf_keras = pytest.mark.skipif(
    importlib.util.find_spec("tf_keras") is None, reason="needs tf_keras: pip install tf_keras"
)

#: Runs in a process of its own: the Keras of the other tests must not meet tf_keras.
WRITE = """
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
for suffix in ("h5", "keras"):
    model.save(f"FOLDER/m.{suffix}")
np.savez("FOLDER/outputs.npz", outputs=model(np.ones((2, 6, 6, 3), np.float32)).numpy())
"""

#: The program where `tf_keras` cannot be imported.
HIDDEN = """
import runpy, sys
sys.modules["tf_keras"] = None
sys.argv[1:] = ["--kind=tf_keras", "--source=FOLDER/m.h5", "--output=FOLDER/ours.keras"]
runpy.run_module("zoo.convert", run_name="__main__")
"""

READ = """
import keras
import numpy as np
import keras_renorm
expected = np.load("FOLDER/outputs.npz")["outputs"]
for suffix in ("h5", "keras"):
    model = keras.saving.load_model(f"FOLDER/from_{suffix}.keras")
    renorm = model.get_layer("renorm")
    assert type(renorm) is keras_renorm.layers.BatchRenormalization, renorm
    assert type(model.get_layer("plain")) is keras_renorm.layers.BatchNormalization
    assert renorm.current_limits() == (3.0, 5.0)
    np.testing.assert_allclose(model(np.ones((2, 6, 6, 3), np.float32)), expected, atol=1e-5)
"""


@pytest.mark.slow
@needs_tf_keras
def test_a_model_of_tf_keras_is_converted(run_python, run_warm_program, tmp_path):
    def run(code):
        done = run_python(code.replace("FOLDER", str(tmp_path)))
        assert done.returncode == 0, done.stderr

    run(WRITE)
    for suffix in ("h5", "keras"):
        files = (f"--source={tmp_path}/m.{suffix}", f"--output={tmp_path}/from_{suffix}.keras")
        done = run_warm_program(*PROGRAM, *files)
        assert done.returncode == 0, done.stderr
        [difference] = re.findall(r"largest difference of the outputs (\S+)", done.stdout)
        assert float(difference) < 1e-5
    run(READ)


def test_without_tf_keras_it_says_so(run_warm_python, tmp_path):
    (tmp_path / "m.h5").write_bytes(b"")
    done = run_warm_python(HIDDEN.replace("FOLDER", str(tmp_path)))
    assert done.returncode == 2
    assert "error: --kind=tf_keras needs tf_keras: pip install tf_keras." in done.stderr
