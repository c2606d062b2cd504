"""Models saved by Keras alone, which say nothing of classes and pixels."""

import re

import keras
import numpy as np
import pytest
from rich.console import Console

from zoo.data import Preparation
from zoo.errors import UserError
from zoo.trained.evaluating import evaluate
from zoo.trained.opening import open_trained
from zoo.trained.predicting import predict
from zoo.trained.recalibrating import recalibrate

layers = keras.layers


@pytest.fixture
def theirs(tmp_path):
    """Saves a model of the layers; returns the path."""

    def make(*between, shape=(8, 8, 3)):
        keras.utils.set_random_seed(3)
        path = tmp_path / "theirs.keras"
        keras.Sequential([keras.Input(shape), *between]).save(path)
        return str(path)

    return make


def said_of(path, **options):
    trained = open_trained(path, **options)
    return trained, " ".join(trained.notes)


@pytest.mark.parametrize(
    ("first", "pixels", "words"),
    [
        (None, "unit", "taken as from 0 to 1. If they are others, give --pixels=unit|tf|caffe|raw"),
        (layers.Rescaling(1 / 255), "raw", "taken as from 0 to 255."),
    ],
)
def test_what_is_assumed_of_pixels_is_said(theirs, first, pixels, words):
    path = theirs(*([first] if first else []), layers.Flatten(), layers.Dense(3, "softmax"))
    trained, said = said_of(path)
    assert trained.card.preparation == Preparation(size=8, channels=3, pixels=pixels)
    assert words in said
    trained, said = said_of(path, pixels="tf")
    assert (trained.card.preparation.pixels, said) == ("tf", "")


def test_logits_become_probabilities(theirs, photos, tmp_path):
    path = theirs(
        layers.Conv2D(4, 3), layers.BatchNormalization(), layers.Flatten(), layers.Dense(3)
    )
    trained, said = said_of(path, pixels="unit")
    assert said == f"{path} gives no probabilities: its outputs are taken for logits."
    x = np.random.default_rng(0).random((2, 8, 8, 3), np.float32)
    z = np.asarray(trained.model(x), np.float64)
    expected = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(trained.classifier(x), expected, rtol=1e-5)
    # The written file is like theirs, and now says what it gives.
    recalibrated = str(tmp_path / "ours.keras")
    recalibrate(path, [str(photos)], recalibrated, Console(quiet=True))
    again, said = said_of(recalibrated)
    assert (again.card.logits, said) == (True, "")
    assert len(again.model.layers) == len(trained.model.layers)
    sums = [
        sum(one["probability"] for one in found["classes"])
        for found in predict(recalibrated, [str(photos)], Console(quiet=True))
    ]
    np.testing.assert_allclose(sums, 1.0, rtol=1e-5)


def test_pixels_of_our_own_files_are_known(model_file):
    message = (
        f"--pixels=raw contradicts {model_file}, which says that its pixels are unit. Leave it out."
    )
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        open_trained(str(model_file), pixels="raw")
    assert open_trained(str(model_file), pixels="unit").card.preparation.pixels == "unit"
    with pytest.raises(UserError, match=r"^--pixels=raw is for a \.keras file that does not say"):
        open_trained("resnet20.fashion_mnist", pixels="raw")


def test_classes_are_called_as_their_folders_are(theirs, photos):
    path = theirs(layers.Flatten(), layers.Dense(3, "softmax"))
    options = {"dataset": "folder", "data_dir": str(photos), "split": "all"}
    found = evaluate(Console(quiet=True), model=[path], **options)
    assert [one["name"] for one in found["classes"]] == ["blue", "green", "red"]
    assert found["num_examples"] == 15


@pytest.mark.parametrize(
    ("between", "shape", "message"),
    [
        ([layers.Dense(2)], (5,), "its input must be images (H, W, C) with 1 or 3 channels, "),
        ([layers.Conv2D(2, 1)], (8, 8, 3), "its output must be probabilities or logits of 2 class"),
        ([layers.Flatten(), layers.Dense(1)], (8, 8, 3), "received (None, 1)."),
        ([layers.Flatten(), layers.Dense(2)], (3, 8, 8), "the channels last, received (None, 3, 8"),
        ([layers.Flatten(), layers.Dense(9, "sigmoid")], (8, 8, 1), "as of several labels for an"),
    ],
)
def test_what_is_no_classifier_is_refused(theirs, between, shape, message):
    path = theirs(*between, shape=shape)
    expected = rf"^{re.escape(path)} is no image classifier: .*{re.escape(message)}"
    with pytest.raises(UserError, match=expected):
        open_trained(path)


def test_pixels_with_colours_need_a_model_that_takes_them(theirs):
    path = theirs(layers.Flatten(), layers.Dense(3, "softmax"), shape=(8, 8, 1))
    message = "--pixels=caffe needs a model that takes images with 3 channels, received .* for 1"
    with pytest.raises(UserError, match=message):
        open_trained(path, pixels="caffe")


def test_a_model_of_several_outputs_is_refused(tmp_path):
    images = keras.Input((8, 8, 3))
    flat = layers.Flatten()(images)
    path = tmp_path / "two.keras"
    keras.Model(images, [layers.Dense(3)(flat), layers.Dense(2)(flat)]).save(path)
    message = r"with one input and one output, received 1 and 2\.$"
    with pytest.raises(UserError, match=message):
        open_trained(str(path))
