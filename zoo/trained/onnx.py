"""ONNX, where its converter is installed."""

import importlib.util
from pathlib import Path
from typing import Any

import keras
import numpy as np

from zoo.errors import UserError

#: Keras's exporter uses the first two, the comparison the last.
_NEEDED = ("tf2onnx", "onnx", "onnxruntime")


def require() -> None:
    """Raises a `UserError` when a package is missing."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"--format=onnx needs packages that are missing: pip install {' '.join(missing)}."
        )


def write(model: keras.Model, path: Path) -> None:
    """Writes a model of images `[N, H, W, C]`."""
    # Without a signature Keras refuses a model that nobody has called yet.
    spec = keras.InputSpec(shape=model.inputs[0].shape, dtype="float32", name="images")
    model.export(path, format="onnx", verbose=False, input_signature=[spec])


def run(path: Path, images: Any) -> Any:
    """Returns the probabilities that an ONNX model gives."""
    import onnxruntime  # type: ignore[import-not-found,unused-ignore]

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    [given] = session.get_inputs()
    return session.run(None, {given.name: np.asarray(images, np.float32)})[0]
