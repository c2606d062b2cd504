import pytest

from zoo.errors import UserError
from zoo.trained import onnx


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr(onnx, "_NEEDED", ("numpy", "no_such_package"))
    message = r"^--format=onnx needs packages that are missing: pip install no_such_package\.$"
    with pytest.raises(UserError, match=message):
        onnx.require()


def test_what_is_there_is_not_missing(monkeypatch):
    monkeypatch.setattr(onnx, "_NEEDED", ("numpy",))
    onnx.require()


# Keras, which patches tf2onnx, asks NumPy for a name that it no longer has.
@pytest.mark.filterwarnings("ignore:In the future `np.object`:FutureWarning")
def test_a_model_is_written_and_run(model_file, tmp_path, rng):
    pytest.importorskip("tf2onnx")
    runtime = pytest.importorskip("onnxruntime")
    assert runtime
    import keras
    import numpy as np

    model = keras.saving.load_model(model_file, compile=False)
    images = rng.random((2, 16, 16, 3), np.float32)
    onnx.write(model, tmp_path / "x.onnx")
    found = onnx.run(tmp_path / "x.onnx", images)
    np.testing.assert_allclose(found, model(images, training=False), atol=1e-4)
