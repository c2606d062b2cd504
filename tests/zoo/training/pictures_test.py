import dataclasses
import json
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from zoo.data import Augmentation, Dataset, Preparation
from zoo.errors import UserError
from zoo.training import pictures
from zoo.training.config import default_config


def config(**values):
    return default_config().to_dict() | values


def source(count=6, names=("a", "b")):
    images = np.zeros((count, 8, 9, 1), np.uint8)
    return Dataset("made", "train", images, np.arange(count) % len(names), names)


def test_a_run_may_not_lie_among_its_images(tmp_path):
    photos = tmp_path / "photos"
    (photos / "cats").mkdir(parents=True)
    values = config(dataset="folder", data_dir=str(photos))
    message = f" lies in the class folders of .*, such as --workdir={tmp_path}/runs/a\\.$"
    with pytest.raises(UserError, match=message):
        pictures.check_place(values, photos / "a")
    for changes in ({}, {"dataset": "mnist"}, {"data_dir": None}, {"data_dir": "nowhere"}):
        pictures.check_place(values | changes, (tmp_path if not changes else photos) / "a")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"class_names": ("b", "a")},
            "received 2 and 2: number 0 is 'a' in training and 'b' in th",
        ),
        ({"class_names": ("a", "b", "c")}, "received 2 and 3: number 2 is 'none' in training and"),
        (
            {"images": np.zeros((0, 8, 9, 1), np.uint8), "labels": np.zeros(0, np.int64)},
            "--config.dataset=mine.py:sets has no images to evaluate on.",
        ),
    ],
)
def test_sets_that_are_not_alike_are_refused(monkeypatch, changes, message):
    sets = {"train": source(), "evaluation": dataclasses.replace(source(), **changes)}
    monkeypatch.setattr(pictures, "open_split", lambda config, split, console: sets[split])
    with pytest.raises(UserError, match=re.escape(message)):
        pictures.open_sets(config(dataset="mine.py:sets"), None)
    sets["evaluation"] = dataclasses.replace(source(), class_names=["a", "b"])
    assert pictures.open_sets(config(dataset="mine.py:sets"), None) == tuple(sets.values())


def test_by_default_images_are_taken_as_they_are():
    assert pictures.preparation(config()) == Preparation()
    assert pictures.augmentation(config()) == Augmentation()
    assert pictures.input_shape(config(), source()) == (8, 9, 1)


def test_keys_say_how_images_are_prepared_and_changed():
    values = config(image_size=24, image_channels=3, eval_crop_share=0.9, pixels="tf")
    assert pictures.preparation(values) == Preparation(24, 3, 0.9, "bilinear", "tf")
    assert pictures.input_shape(values, source()) == (24, 24, 3)
    values = config(augment=True, flip=False, mixup_alpha=0.2, erasing=0.1)
    assert pictures.augmentation(values) == Augmentation("pad", False, mixup=0.2, erasing=0.1)
    values = config(augment=True, crop="inception", image_size=24, crop_area=0.3)
    assert pictures.augmentation(values) == Augmentation("inception", True, 0.3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"crop": "inception", "augment": True},
            "--config.crop=inception needs the",
        ),
        ({"eval_crop_share": 0.5}, "--config.eval_crop_share below 1 needs the"),
    ],
)
def test_contradictions_are_refused(values, message):
    with pytest.raises(UserError, match=re.escape(message)):
        pictures.augmentation(config(**values))


def test_the_card_says_what_the_model_takes():
    card = pictures.card(config(model="mlp", seed=3, held_out=0.5), source(), source())
    assert (card.class_names, card.preparation.channels) == (("a", "b"), 1)
    assert (card.model, card.norm, card.dataset) == ("mlp", "batch_renorm", "made")
    assert (card.seed, card.held_out, card.evaluated_on) == (3, 0.5, "")


def test_a_run_goes_on_with_the_images_that_it_began_with(tmp_path):
    path = tmp_path / "data.json"
    sets = (
        source(),
        Dataset("made", "test", np.zeros((2, 8, 9, 1), np.uint8), np.arange(2), ("a", "b")),
    )
    pictures.keep_description(path, *sets)
    written = path.read_text()
    assert json.loads(written)["classes"] == ["a", "b"]
    pictures.keep_description(path, *sets)
    assert path.read_text() == written
    message = r"not those that the run began with: splits of .*data\.json differ"
    with pytest.raises(UserError, match=message):
        pictures.keep_description(path, source(5), sets[1])
    with pytest.raises(UserError, match="began with: classes of"):
        pictures.keep_description(path, source(names=("a", "c")), sets[1])
    path.write_text("words")
    with pytest.raises(UserError, match=r"data\.json cannot be read: "):
        pictures.keep_description(path, *sets)


def test_a_description_tells_other_images_from_those_of_the_run(tmp_path):
    path = tmp_path / "data.json"
    assert pictures.is_described(path, source())
    test = Dataset("made", "test", np.zeros((2, 8, 9, 1), np.uint8), np.arange(2), ("a", "b"))
    pictures.keep_description(path, source(), test)
    assert pictures.is_described(path, test)
    assert not pictures.is_described(path, source(5))
    assert not pictures.is_described(path, dataclasses.replace(test, split="validation"))
    for damaged in ("words", "[]", '{"splits": {"train": 3}}'):
        path.write_text(damaged)
        assert not pictures.is_described(path, source())


def test_an_image_that_is_gone_is_one_line(tmp_path):
    def read():
        with pictures.reading_errors_named():
            tf.io.read_file(str(tmp_path / "gone.jpg"))

    message = r"^An image can no longer be read: /\S*/gone\.jpg; No such file or directory\. Run "
    with pytest.raises(UserError, match=message + "the same command again: it checks all"):
        read()


def test_a_worker_makes_its_part(monkeypatch):
    assert pictures.part(config()) == (0, 1)
    cluster = {"worker": ["a:1", "b:2"]}
    task = {"type": "worker", "index": 1}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": task}))
    assert pictures.part(config(strategy="multi_worker")) == (1, 2)


@pytest.mark.parametrize(
    ("weights", "pixels", "channels"),
    [
        (None, "unit", 0),
        ("keras_imagenet", "caffe", 3),
        ("inception_v3.keras_imagenet", "tf", 3),
        ("resnet20.fashion_mnist", "unit", 1),
        ("somewhere.h5", "unit", 0),
    ],
)
def test_images_are_prepared_as_weights_need(weights, pixels, channels):
    values = config(model="resnet50", weights=weights)
    found = pictures.preparation(values)
    assert (found.pixels, found.channels) == (pixels, channels)
    asked = pictures.preparation(values | {"pixels": "tf", "image_channels": 3})
    assert (asked.pixels, asked.channels) == ("tf", 3)


def test_a_file_of_keras_applications_needs_the_same_pixels_as_its_published_weights(tmp_path):
    path = tmp_path / "anything.weights.h5"
    keras.applications.ResNet50V2(weights=None, include_top=False).save_weights(path)
    published = pictures.needed_by("resnet50v2", "keras_imagenet_notop")
    assert published.pixels == "tf"
    assert pictures.needed_by("resnet50v2", str(path)) == published


def test_pixels_are_mapped_as_a_model_file_says(tmp_path):
    from zoo.trained.card import Card, write_card

    needed = Preparation(channels=1, pixels="caffe")
    write_card(tmp_path / "m.keras", Card(("a",), needed))
    assert pictures.needed_by("mlp", str(tmp_path / "m.keras")) == needed
