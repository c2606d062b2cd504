"""A tiny model of photographs, as a file and with its images."""

import io
import types

import keras
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from keras_renorm import layers
from zoo.data import Preparation
from zoo.trained.card import Card, write_card

CLASSES = ("blue", "green", "red")


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("ZOO_HOME", str(folder))
    return folder


@pytest.fixture
def photos(tmp_path, rng):
    """Class folders of three plain colours with noise, in JPEG and PNG."""
    root = tmp_path / "photos"
    for number, name in enumerate(reversed(CLASSES)):
        (root / name).mkdir(parents=True)
        for i in range(5):
            pixels = rng.integers(0, 60, (20 + i, 30, 3)).astype(np.uint8)
            pixels[..., number] += 150
            suffix = ("jpg", "png")[i % 2]
            PIL.Image.fromarray(pixels).save(root / name / f"{i}.{suffix}")
    return root


def small_model(dtype=None):
    """A convolution and a batch norm with statistics of its own, and a softmax."""
    keras.utils.set_random_seed(1)
    images = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(4, 3, use_bias=False, dtype=dtype)(images)
    x = layers.BatchNormalization(name="norm", dtype=dtype)(x)
    x = keras.layers.GlobalAveragePooling2D(dtype=dtype)(keras.layers.ReLU(dtype=dtype)(x))
    logits = keras.layers.Dense(3, name="logits", dtype=dtype)(x)
    model = keras.Model(images, keras.layers.Softmax(name="predictions")(logits), name="small")
    norm = model.get_layer("norm")
    norm.moving_mean.assign([0.1, -0.1, 0.2, 0.0])
    norm.moving_variance.assign([0.5, 1.5, 0.3, 0.9])
    return model


@pytest.fixture
def model_file(tmp_path, request):
    """The model's file. A test may give the policy of its layers by `indirect`."""
    path = tmp_path / "small.keras"
    small_model(getattr(request, "param", None)).save(path)
    prepared = Preparation(size=16, channels=3, crop_share=0.9)
    write_card(path, Card(CLASSES, prepared, "small", "batch_norm", "folder"))
    return path


def expected_probabilities(path, model_file):
    """What the model gives for a file, prepared by Pillow and NumPy."""
    image = PIL.Image.open(io.BytesIO(path.read_bytes())).convert("RGB")
    side = round(0.9 * min(image.size))
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    pixels = np.asarray(square.resize((16, 16), PIL.Image.Resampling.BILINEAR), np.float32) / 255
    model = keras.saving.load_model(model_file, compile=False)
    return model(tf.constant(pixels[None]), training=False).numpy()[0]


def small_model_of_another_seed():
    """The same with other weights."""
    model = small_model()
    model.set_weights([3 * weight + 0.5 for weight in model.get_weights()])
    return model


@pytest.fixture
def made():
    """What the tests hold results against."""
    return types.SimpleNamespace(
        CLASSES=CLASSES,
        expected_probabilities=expected_probabilities,
        small_model_of_another_seed=small_model_of_another_seed,
    )
