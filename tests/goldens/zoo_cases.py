"""The table of the zoo's cases; see `structure_cases`. They need TensorFlow."""

import numpy as np
import pytest
import tensorflow as tf

import zoo
import zoo.data
import zoo.models
import zoo.weights
from goldens.structure_cases import assert_close
from keras_renorm import layers

CASES = {}
IMAGES = np.random.default_rng(5).integers(0, 256, (4, 8, 8, 3)).astype("uint8")
LABELS = np.array([0, 1, 0, 1])


def covers(*names):
    """Enters a function as the case of public names."""

    def enter(function):
        CASES.update(dict.fromkeys(names, function))
        return function

    return enter


def dataset():
    return zoo.data.Dataset("tiny", "train", IMAGES, LABELS, ("a", "b"))


@covers(*("zoo.create_model", "zoo.models.create_model", "zoo.models.Normalizer"))
def create_model(tmp_path):
    model = zoo.create_model("mlp", input_shape=(8, 8, 3), num_classes=2, hidden_units=(3,))
    norms = [layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)]
    assert [type(layer) for layer in norms] == [layers.BatchRenormalization]
    y = model(IMAGES / np.float32(255)).numpy()
    assert y.shape == (4, 2)
    assert_close(y.sum(1), np.ones(4), 1e-6)
    assert zoo.create_model is zoo.models.create_model
    norm = zoo.models.Normalizer(layers.BatchNormalization, {"momentum": 0.5})
    assert not norm.use_bias


@covers("zoo.list_models", "zoo.models.list_models")
def list_models(tmp_path):
    assert zoo.list_models("mlp*") == ["mlp", "mlp_sigmoid"]
    assert set(zoo.list_models(pretrained=True)) < set(zoo.list_models())
    assert zoo.list_models is zoo.models.list_models


@covers(
    *("zoo.list_weights", "zoo.weights.list_weights", "zoo.weights.RECORDS"),
    *("zoo.weights.get_record", "zoo.weights.Record"),
)
def list_weights(tmp_path):
    assert zoo.list_weights() == sorted(zoo.weights.RECORDS)
    for name, record in zoo.weights.RECORDS.items():
        assert isinstance(record, zoo.weights.Record)
        assert zoo.weights.get_record(name) is record
    assert zoo.list_weights is zoo.weights.list_weights


@covers("zoo.preprocessing", "zoo.weights.preprocessing", "zoo.weights.ImagePreprocessing")
def preprocessing(tmp_path):
    """`keras.applications.imagenet_utils`: to [-1, 1], or BGR less the mean colour."""
    scaled = zoo.weights.ImagePreprocessing("tf")(IMAGES).numpy()
    assert_close(scaled, IMAGES / 127.5 - 1, 1e-6)
    layer = zoo.preprocessing("resnet50.keras_imagenet")
    assert isinstance(layer, zoo.weights.ImagePreprocessing)
    expected = IMAGES[..., ::-1] - np.array([103.939, 116.779, 123.68])
    assert_close(layer(IMAGES).numpy(), expected, 1e-6)


@covers(
    *("zoo.weights.load", "zoo.weights.Loaded", "zoo.weights.find", "zoo.weights.Source"),
    *("zoo.weights.fetch", "zoo.weights.WeightsError"),
)
def weights(tmp_path):
    options = {"input_shape": (8, 8, 3), "num_classes": 2, "hidden_units": (3,)}
    model = zoo.create_model("mlp", **options)
    model.save_weights(tmp_path / "mlp.weights.h5")
    source = zoo.weights.find("mlp", tmp_path / "mlp.weights.h5")
    assert isinstance(source, zoo.weights.Source)
    other = zoo.create_model("mlp", **options)
    assert isinstance(zoo.weights.load(other, source), zoo.weights.Loaded)
    for new, old in zip(other.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)
    packaged = [record for record in zoo.weights.RECORDS.values() if record.url is None]
    assert packaged
    for record in packaged:
        assert zoo.weights.fetch(record).name == record.file
    with pytest.raises(zoo.weights.WeightsError, match="no_such"):
        zoo.weights.find("mlp", "no_such")


@covers("zoo.data.Dataset", "zoo.data.load", "zoo.data.DatasetError")
def datasets(tmp_path):
    found = zoo.data.load("fashion_mnist_subset", "test")
    assert isinstance(found, zoo.data.Dataset)
    assert (found.image_shape, found.num_classes) == ((28, 28, 1), 10)
    assert len(found) == len(found.images)
    with pytest.raises(zoo.data.DatasetError, match="trial"):
        zoo.data.load("fashion_mnist_subset", "trial")


@covers("zoo.data.Sampler", "zoo.data.ShuffledSampler", "zoo.data.FewLabelsSampler")
def samplers(tmp_path):
    shuffled = zoo.data.ShuffledSampler(num_examples=4, batch_size=2, seed=0)
    epoch = np.concatenate([shuffled(tf.constant(step, tf.int64)) for step in range(2)])
    np.testing.assert_array_equal(np.sort(epoch), np.arange(4))
    few = zoo.data.FewLabelsSampler(LABELS, labels_per_batch=1, batch_size=2, seed=0)
    batch = few(tf.constant(0, tf.int64)).numpy()
    assert len(set(batch)) == 2
    assert len(set(LABELS[batch])) == 1


@covers("zoo.data.training_batches", "zoo.data.evaluation_batches", "zoo.data.Augmentation")
def batches(tmp_path):
    sampler = zoo.data.ShuffledSampler(num_examples=4, batch_size=2, seed=0)
    options = {"num_steps": 3, "augmentation": zoo.data.Augmentation(), "seed": 0}
    found = list(zoo.data.training_batches(dataset(), sampler, start_step=1, **options))
    assert len(found) == 2
    for step, (images, labels) in enumerate(found, start=1):
        chosen = sampler(tf.constant(step, tf.int64)).numpy()
        assert_close(images.numpy(), IMAGES[chosen] / 255, 1e-6)
        np.testing.assert_array_equal(labels, LABELS[chosen])
    sizes = [len(labels) for _, labels in zoo.data.evaluation_batches(dataset(), 3)]
    assert sizes == [3, 1]


@covers("zoo.data.open_split", "zoo.data.FolderOptions", "zoo.data.Source", "zoo.data.Preparation")
def sources(tmp_path):
    """Images of a folder are those that were written, by class and number, prepared."""
    for split, names in (("train", "ab"), ("test", "ab")):
        for label, name in enumerate(names):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            image = np.full((4, 6, 3), 50 + 100 * label, np.uint8)
            (folder / "one.png").write_bytes(tf.io.encode_png(image).numpy())
    options = zoo.data.FolderOptions(report=lambda sentence: None)
    source = zoo.data.open_split("folder", "train", str(tmp_path / "photos"), options)
    assert (len(source), source.num_classes, source.class_names) == (2, 2, ("a", "b"))
    assert sorted(source.labels) == [0, 1]
    small = zoo.data.Preparation(size=2, channels=1)
    (images, labels), *rest = zoo.data.evaluation_batches(source, 2, small)
    assert not rest
    np.testing.assert_array_equal(labels, source.labels)
    gray = np.ones((2, 2, 2, 1)) * (50 + 100 * source.labels).reshape(2, 1, 1, 1) / 255
    assert_close(images.numpy(), gray, 2e-3)


@covers("zoo.data.pad_crop_flip")
def pad_crop_flip(tmp_path):
    """Without padding an image is itself, or flipped."""
    found = zoo.data.pad_crop_flip(IMAGES, [0, 1], padding=0).numpy()
    for new, old in zip(found, IMAGES, strict=True):
        assert np.array_equal(new, old) or np.array_equal(new, old[:, ::-1])
    again = zoo.data.pad_crop_flip(IMAGES, [0, 1]).numpy()
    np.testing.assert_array_equal(again, zoo.data.pad_crop_flip(IMAGES, [0, 1]).numpy())
