import json
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from zoo.data import Preparation
from zoo.errors import UserError
from zoo.trained.images import find_files, probabilities
from zoo.trained.opening import open_trained, pipeline_model


def test_a_checkpoint_by_name():
    trained = open_trained("resnet20.fashion_mnist")
    assert trained.card.class_names[9] == "Ankle boot"
    assert trained.card.preparation == Preparation(size=28, channels=1)
    assert trained.config["dataset"] == "fashion_mnist"
    assert trained.classifier.output_shape == (None, 10)


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


def test_a_run_on_images_as_stored_resizes_others(tmp_path, photos):
    """A photograph of any size can be shown to a net that was trained on small images."""
    images = keras.Input((28, 28, 1))
    softmax = keras.layers.Dense(10, "softmax", name="logits")(keras.layers.Flatten()(images))
    run = tmp_path / "run"
    run.mkdir()
    keras.Model(images, softmax).save(run / "model.keras")
    config = {"model": "m", "norm": "none", "dataset": "fashion_mnist_subset", "num_steps": 3}
    (run / "config.json").write_text(json.dumps(config))
    trained = open_trained(str(run))
    assert trained.card.preparation == Preparation(size=28, channels=1)
    found = find_files([str(photos)], trained)
    made, labels = probabilities(trained, found.source, 8)
    assert (made.shape, labels.shape) == ((15, 10), (15,))
