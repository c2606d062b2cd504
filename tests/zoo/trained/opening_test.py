import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from zoo.data import Preparation
from zoo.errors import UserError
from zoo.trained.opening import open_trained, pipeline_model


def test_a_checkpoint_by_name():
    trained = open_trained("resnet20.fashion_mnist")
    assert trained.card.class_names[9] == "Ankle boot"
    assert trained.card.preparation == Preparation(size=28, channels=1)
    assert trained.config["dataset"] == "fashion_mnist"
    assert trained.classifier.output_shape == (None, 10)


def test_a_model_of_somebody_elses(tmp_path):
    path = tmp_path / "theirs.keras"
    layers = [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(2)]
    keras.Sequential(layers).save(path)
    trained = open_trained(str(path))
    assert trained.card.class_names == ("0", "1")
    assert trained.card.preparation == Preparation(size=8, channels=1)


def test_stored_pixels_are_mapped(model_file):
    trained = open_trained(str(model_file))
    pixels = tf.fill([2, 16, 16, 3], 102.0)
    found = pipeline_model(trained, trained.classifier)(pixels)
    np.testing.assert_allclose(found, trained.classifier(pixels / 255), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere/x.keras", "--model=nowhere/x.keras: there is no such file or folder."),
        ("x.keras", "--model=x.keras: there is no such file or folder."),
        ("resnet20.fashion", "checkpoint. Did you mean 'resnet20.fashion_mnist'? python -m zoo"),
        ("resnet50.keras_imagenet_notop", "these weights have no classifier."),
    ],
)
def test_what_is_not_there(name, message):
    with pytest.raises(UserError, match=re.escape(message)):
        open_trained(name)


def test_files_of_another_kind(tmp_path):
    (tmp_path / "x.h5").write_bytes(b"weights")
    with pytest.raises(UserError, match=r"x\.h5: a model is a \.keras file, the working directory"):
        open_trained(str(tmp_path / "x.h5"))
    (tmp_path / "x.keras").write_bytes(b"words")
    with pytest.raises(UserError, match=r"x\.keras is damaged: it is not a whole \.keras file"):
        open_trained(str(tmp_path / "x.keras"))
    keras.Sequential([keras.Input((5,)), keras.layers.Dense(2)]).save(tmp_path / "y.keras")
    with pytest.raises(UserError, match=r"y\.keras is no image classifier: .* received \(None, 5"):
        open_trained(str(tmp_path / "y.keras"))
