import builtins
import importlib.util
import pathlib
import re
import shutil
import sys

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

import zoo.data.tensorflow_sets
from zoo.data import Dataset, DatasetError, load
from zoo.errors import UserError

REPOSITORY = pathlib.Path(__file__).parents[3]


def load_or_skip(name, split):
    try:
        return load(name, split)
    except DatasetError as error:
        if "is not prepared in" not in str(error):
            raise
        pytest.skip(str(error))


def import_tool():
    path = REPOSITORY / "tools" / "make_fashion_mnist_subset.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("split", "per_class"), [("train", 1000), ("test", 200)])
def test_packaged_set_is_balanced_and_whole(split, per_class):
    dataset = load("fashion_mnist_subset", split)
    assert dataset.images.shape == (10 * per_class, 28, 28, 1)
    assert dataset.images.dtype == np.uint8
    assert dataset.labels.dtype == np.int64
    np.testing.assert_array_equal(np.bincount(dataset.labels), [per_class] * 10)
    assert dataset.num_classes == 10
    assert dataset.image_shape == (28, 28, 1)
    assert len(dataset) == 10 * per_class
    assert dataset.class_names[0] == "T-shirt/top"
    assert dataset.class_names[9] == "Ankle boot"
    assert len({image.tobytes() for image in dataset.images}) == len(dataset)


def test_packaged_order_mixes_the_classes():
    labels = load("fashion_mnist_subset", "train").labels
    # In a random order neighbours share a label in 1 of 10 cases, deviation 0.003.
    assert np.mean(labels[1:] == labels[:-1]) == pytest.approx(0.1, abs=0.012)


def test_packaged_splits_share_no_image():
    train, test = (load("fashion_mnist_subset", split).images for split in ("train", "test"))
    assert not {i.tobytes() for i in train} & {i.tobytes() for i in test}


def test_packaged_set_needs_no_tfds(monkeypatch):
    monkeypatch.setattr(zoo.data.tensorflow_sets, "load", None)
    assert len(load("fashion_mnist_subset", "test", data_dir="not used")) == 2000


@pytest.mark.slow
def test_packaged_arrays_are_the_rule_applied_to_the_full_set():
    load_or_skip("fashion_mnist", "test")
    made = import_tool().make_subset()
    with np.load(REPOSITORY / "zoo" / "data" / "fashion_mnist_subset.npz") as packaged:
        assert set(packaged) == set(made)
        for name, array in made.items():
            assert packaged[name].dtype == array.dtype
            np.testing.assert_array_equal(packaged[name], array, err_msg=name)


def test_the_rule_does_not_depend_on_the_order_of_the_full_set(rng):
    tool = import_tool()
    images = rng.integers(0, 256, (60, 4, 4, 1)).astype(np.uint8)
    labels = np.arange(60) % 3
    order = rng.permutation(60)
    forwards = Dataset("a", "train", images, labels, ("x", "y", "z"))
    shuffled = Dataset("a", "train", images[order], labels[order], ("x", "y", "z"))
    first, second = tool.choose(forwards, 5), tool.choose(shuffled, 5)
    np.testing.assert_array_equal(images[first], images[order][second])
    np.testing.assert_array_equal(np.bincount(labels[first]), [5, 5, 5])
    with pytest.raises(ValueError, match="must have 21 images, one has only 20 in the train split"):
        tool.choose(forwards, 21)


def test_the_tool_overwrites_nothing(tmp_path, monkeypatch, capsys):
    output = tmp_path / "subset.npz"
    output.write_text("precious")
    monkeypatch.setattr(sys, "argv", ["tool", f"--output={output}"])
    with pytest.raises(SystemExit, match="2"):
        import_tool().main()
    assert f"{output} exists already and is not overwritten: remove it" in capsys.readouterr().err
    assert output.read_text() == "precious"


def test_the_tool_says_when_the_full_set_is_missing(tmp_path, monkeypatch, capsys):
    output = tmp_path / "subset.npz"
    monkeypatch.setattr(sys, "argv", ["tool", f"--output={output}", f"--data_dir={tmp_path}"])
    with pytest.raises(SystemExit, match="2"):
        import_tool().main()
    assert "Dataset 'fashion_mnist' is not prepared in" in capsys.readouterr().err
    assert not output.exists()


def test_the_licence_is_beside_the_packaged_set():
    text = (REPOSITORY / "zoo" / "data" / "fashion_mnist_subset.LICENSE").read_text("utf-8")
    assert "The MIT License (MIT) Copyright © [2017] Zalando SE, https://tech.zalando.com" in text
    assert "The above copyright notice and this permission notice shall be included" in text


@pytest.mark.parametrize(
    ("name", "shape", "first_and_last"),
    [
        ("mnist", (28, 28, 1), ("0", "9")),
        ("fashion_mnist", (28, 28, 1), ("T-shirt/top", "Ankle boot")),
        ("cifar10", (32, 32, 3), ("airplane", "truck")),
    ],
)
def test_full_sets(name, shape, first_and_last):
    dataset = load_or_skip(name, "test")
    assert len(dataset) == 10_000
    assert dataset.image_shape == shape
    assert (dataset.class_names[0], dataset.class_names[-1]) == first_and_last
    assert dataset.images.dtype == np.uint8
    assert dataset.labels.dtype == np.int64
    assert dataset.images.max() == 255
    assert np.bincount(dataset.labels).min() >= 892  # MNIST has 892 fives.


def store(directory, shape, dtype, splits, label, labels=(0, 1, 0, 1, 0)):
    """Prepares a set of five images a split, as TFDS does it."""
    features = {"image": tfds.features.Image(shape=shape, dtype=dtype), "label": label}
    images = np.arange(5 * 4 * 3).reshape(5, 4, 3, 1).astype(dtype)
    examples = tf.data.Dataset.from_tensor_slices({"image": images, "label": np.array(labels)})
    tfds.dataset_builders.store_as_tfds_dataset(
        name="tiny",
        version="1.0.0",
        features=tfds.features.FeaturesDict(features),
        split_datasets=dict.fromkeys(splits, examples),
        data_dir=directory,
    )
    return images


def test_any_other_image_classification_set_of_one_size(tmp_path):
    label = tfds.features.ClassLabel(names=["even", "odd"])
    images = store(tmp_path, (4, 3, 1), np.uint8, ["train", "test"], label)
    dataset = load("tiny", "train", data_dir=str(tmp_path))
    assert dataset.image_shape == (4, 3, 1)
    assert dataset.class_names == ("even", "odd")
    order = np.argsort(dataset.images[:, 0, 0, 0])
    np.testing.assert_array_equal(dataset.images[order], images)
    np.testing.assert_array_equal(dataset.labels[order], [0, 1, 0, 1, 0])


@pytest.mark.parametrize(
    ("shape", "dtype", "splits", "label", "message"),
    [
        (
            (None, None, 1),
            np.uint8,
            ["test"],
            tfds.features.ClassLabel(num_classes=2),
            r"images of 'tiny' must be uint8 and of one size, received uint8 of shape "
            r"\(None, None, 1\)",
        ),
        (
            (4, 3, 1),
            np.uint16,
            ["test"],
            tfds.features.ClassLabel(num_classes=2),
            r"received uint16 of shape \(4, 3, 1\)",
        ),
        (
            (4, 3, 1),
            np.uint8,
            ["test"],
            tfds.features.Scalar(dtype=np.int64),
            r"Dataset 'tiny' is not an image classification set: its 'image' must be an Image and "
            r"its 'label' a ClassLabel, received \['image', 'label'\]",
        ),
        (
            (4, 3, 1),
            np.uint8,
            ["train", "validation"],
            tfds.features.ClassLabel(num_classes=2),
            r"Dataset 'tiny' has no split 'test', only \['train', 'validation'\]",
        ),
    ],
)
def test_sets_of_another_kind_are_refused(tmp_path, shape, dtype, splits, label, message):
    store(tmp_path, shape, dtype, splits, label)
    with pytest.raises(DatasetError, match=message):
        load("tiny", "test", data_dir=str(tmp_path))


def test_an_unknown_data_set_is_a_users_error():
    with pytest.raises(UserError, match="Did you mean 'fashion_mnist_subset'"):
        load("fashion_mnist_subsets", "train")


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        (
            "fashion_mnst",
            "train",
            r"Unknown dataset 'fashion_mnst'\. Did you mean 'fashion_mnist'\? Allowed are "
            r"'fashion_mnist_subset', 'fashion_mnist', 'mnist', 'cifar10' and every image",
        ),
        (
            "fashion_mnist_subset",
            "valid",
            r"Unknown split 'valid'\. Allowed are 'train' and 'test'",
        ),
    ],
)
def test_unknown_names(name, split, message):
    with pytest.raises(DatasetError, match=message):
        load(name, split)


@pytest.mark.parametrize("name", ["", "../x", "mnist/../x", "/mnist", "a b", "mnist\n"])
def test_what_is_no_name_at_all(name):
    message = re.escape(f"{name!r} is not the name of a dataset. Names look like 'mnist' or ")
    with pytest.raises(DatasetError, match=f"^{message}"):
        load(name, "train")


def test_a_set_that_is_not_prepared_is_not_downloaded(tmp_path):
    command = (
        r'python -c "import tensorflow_datasets; '
        rf"tensorflow_datasets\.load\('mnist', data_dir='{tmp_path}'\)\""
    )
    message = rf"Dataset 'mnist' is not prepared in '{tmp_path}'\. Prepare it once, .*{command}"
    with pytest.raises(DatasetError, match=message):
        load("mnist", "train", data_dir=str(tmp_path))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "cats_vs_dogs",
            r"of 'cats_vs_dogs' must be uint8 and of one size, received uint8 of shape",
        ),
        ("imdb_reviews", "Dataset 'imdb_reviews' is not an image classification set: "),
    ],
)
def test_what_could_not_be_used_need_not_be_prepared(tmp_path, name, message):
    with pytest.raises(DatasetError, match=re.escape(message)):
        load(name, "train", data_dir=str(tmp_path))


def test_images_without_labels_are_refused(tmp_path):
    label = tfds.features.ClassLabel(names=["even", "odd"])
    store(tmp_path, (4, 3, 1), np.uint8, ["train"], label, labels=[-1] * 5)
    message = r"The 'train' images of 'tiny' cannot be used: `labels` must lie in \[0, 2\), .* -1"
    with pytest.raises(DatasetError, match=message):
        load("tiny", "train", data_dir=str(tmp_path))


def test_a_version_that_is_not_there_is_named():
    with pytest.raises(DatasetError, match=r"Dataset 'mnist:9.9.9' cannot be opened: .*9\.9\.9"):
        load("mnist:9.9.9", "train")


def test_data_dir_must_be_a_directory(tmp_path):
    (tmp_path / "file").touch()
    for data_dir in (tmp_path / "file", tmp_path / "missing"):
        with pytest.raises(DatasetError, match=rf"data_dir '{data_dir}' is not a directory"):
            load("mnist", "train", data_dir=str(data_dir))


@pytest.mark.parametrize("damaged", ["dataset_info.json", "mnist-test.tfrecord"])
def test_damaged_files_are_reported(tmp_path, damaged):
    load_or_skip("mnist", "test")
    source = pathlib.Path(tfds.core.constants.DATA_DIR).expanduser() / "mnist"
    shutil.copytree(source, tmp_path / "mnist")
    (path,) = (tmp_path / "mnist").glob(f"*/{damaged}*")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DatasetError, match=r"Dataset 'mnist' cannot be read \(.*delete its folder"):
        load("mnist", "test", data_dir=str(tmp_path))


def test_without_tfds_the_message_says_what_to_install(monkeypatch):
    real_import = builtins.__import__

    def refuse(name, *arguments, **options):
        if name == "tensorflow_datasets":
            raise ModuleNotFoundError("No module named 'tensorflow_datasets'", name=name)
        return real_import(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    message = r"'mnist' needs .*\(tensorflow_datasets\): pip install 'keras-renorm\[zoo\]'"
    with pytest.raises(DatasetError, match=message):
        load("mnist", "train")


IMAGES = np.zeros((3, 2, 2, 1), np.uint8)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES / 1.0, np.arange(3), r"`images` must be uint8 \[N, H, W, C\], received float64"),
        (IMAGES[0], np.arange(3), r"`images` must be .*, received uint8 \[2, 2, 1\]"),
        (
            IMAGES,
            np.arange(2),
            r"`labels` must be int64 \[3\], one per image, received int64 \[2\]",
        ),
        (IMAGES, np.arange(3) + 1, r"`labels` must lie in \[0, 3\), .* received 1 to 3"),
    ],
)
def test_a_dataset_checks_itself(images, labels, message):
    with pytest.raises(ValueError, match=message):
        Dataset("a", "train", images, labels, ("x", "y", "z"))
