"""Sets that TFDS wrote, in both of its formats, read by number."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from zoo.data import tensorflow_sets
from zoo.data.dataset import Dataset, DatasetError
from zoo.data.decoding import Image
from zoo.data.tensorflow_sets import open_split

FORMATS = ["tfrecord", "array_record"]


@pytest.fixture
def images(make_picture):
    return [make_picture(20 + i, 30 - i, seed=i) for i in range(10)]


@pytest.fixture
def store(tmp_path, images):
    """Prepares a set of images of several sizes, or of one."""

    def stored(file_format, splits=("train", "validation", "test"), one_size=False, kind="png"):
        shape = (20, 20, 3) if one_size else (None, None, 3)

        class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
            VERSION = tfds.core.Version("1.0.0")
            name = "tiny"
            pkg_dir_path = tmp_path

            def _info(self):
                image = tfds.features.Image(shape=shape, encoding_format=kind)
                label = tfds.features.ClassLabel(names=["even", "odd"])
                features = tfds.features.FeaturesDict({"image": image, "label": label})
                return tfds.core.DatasetInfo(builder=self, features=features)

            def _split_generators(self, dl_manager):
                return {split: self._generate_examples() for split in splits}

            def _generate_examples(self):
                for i, image in enumerate(images):
                    yield i, {"image": image[:20, :20] if one_size else image, "label": i % 2}

        builder = Tiny(data_dir=tmp_path, file_format=file_format)
        builder.download_and_prepare()
        return str(tmp_path)

    return stored


def pixels_of(source):
    def whole(item):
        stored, label = source.read(item)
        image = Image(stored, 3)
        return image.window(tf.concat([[0, 0], image.size], 0)), label

    fetched = tf.data.Dataset.range(len(source)).batch(4).map(source.fetch).unbatch()
    items = fetched.map(lambda *item: whole(item if len(item) > 1 else item[0]))
    return list(items.as_numpy_iterator())


@pytest.mark.parametrize("file_format", FORMATS)
def test_images_of_several_sizes_are_read_by_number(store, images, file_format):
    source = open_split("tiny", "train", store(file_format), 0.2)
    assert source.image_shape == (None, None, 3)
    assert (source.class_names, len(source)) == (("even", "odd"), 10)
    found = pixels_of(source)
    by_height = {pixels.shape[0]: (pixels, label) for pixels, label in found}
    for i, image in enumerate(images):
        np.testing.assert_array_equal(by_height[20 + i][0], image)
        assert by_height[20 + i][1] == i % 2
    assert source.labels.tolist() == [label for _, label in found]


def test_jpegs_are_read_as_such(store, images):
    found = pixels_of(open_split("tiny", "train", store("array_record", kind="jpeg"), 0.2))
    by_height = {pixels.shape[0]: pixels for pixels, _ in found}
    for i, image in enumerate(images):
        assert np.abs(by_height[20 + i].astype(int) - image).mean() < 4


@pytest.mark.parametrize("version", ["1.0.0", "1.*.*"])
def test_a_set_is_found_by_its_version(store, version):
    source = open_split(f"tiny:{version}", "train", store("array_record"), 0.2)
    assert (source.name, len(source)) == (f"tiny:{version}", 10)


@pytest.mark.parametrize("file_format", FORMATS)
def test_images_of_one_size_are_in_memory(store, images, file_format):
    source = open_split("tiny", "train", store(file_format, one_size=True), 0.2)
    assert isinstance(source, Dataset)
    expected = {image[:20, :20].tobytes(): i % 2 for i, image in enumerate(images)}
    found = {image.tobytes(): y for image, y in zip(source.images, source.labels, strict=True)}
    assert found == expected


def test_images_that_do_not_fit_are_streamed(store, monkeypatch):
    data_dir = store("array_record", one_size=True)
    monkeypatch.setattr(tensorflow_sets, "_MEMORY_BYTES", 10)
    assert not isinstance(open_split("tiny", "train", data_dir, 0.2), Dataset)


@pytest.mark.parametrize("splits", [("train", "test"), ("train",)])
def test_files_that_do_not_fit_need_another_format(store, monkeypatch, splits):
    data_dir = store("tfrecord", splits=splits)
    monkeypatch.setattr(tensorflow_sets, "_MEMORY_BYTES", 10)
    message = r"'tiny' has 0\.0 GiB of images in its .*file_format='array_record'\)\.download"
    with pytest.raises(DatasetError, match=message):
        open_split("tiny", "train", data_dir, 0.2)


@pytest.mark.parametrize(
    ("splits", "split", "count"),
    [
        (("train", "validation", "test"), "validation", 10),
        (("train", "test"), "test", 10),
        (("train",), "train[7:]", 3),
    ],
)
def test_evaluation_is_on_what_there_is(store, splits, split, count):
    data_dir = store("tfrecord", splits=splits)
    source = open_split("tiny", "evaluation", data_dir, 0.3)
    assert (source.split, len(source)) == (split, count)
    assert len(open_split("tiny", "train", data_dir, 0.3)) == (10 if len(splits) > 1 else 7)


@pytest.mark.parametrize(("held_out", "counts"), [(0.004, (9, 1)), (0.25, (8, 2)), (0.99, (1, 9))])
def test_a_share_is_held_out_to_the_image(store, held_out, counts):
    data_dir = store("array_record", splits=("train",))
    for split, count in zip(("train", "evaluation"), counts, strict=True):
        assert len(open_split("tiny", split, data_dir, held_out)) == count


def test_a_split_without_images_is_named(store):
    with pytest.raises(
        DatasetError, match=r"^Dataset 'tiny' has no images in its split 'train\[:0\]'"
    ):
        open_split("tiny", "train[:0]", store("array_record"), 0.2)


def test_an_unknown_name_is_told_what_is_taken():
    message = r"every image classification set of TensorFlow Datasets with uint8 images\.$"
    with pytest.raises(DatasetError, match=message):
        open_split("unheard_of", "train", None, 0.2)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mnist/foo", r"'mnist' has no configuration 'foo'\. It has none: write 'mnist'\.$"),
        (
            "imagenet_v2/top_images:3.0.0",
            r"'imagenet_v2' has no configuration 'top_images'\. Did you mean 'topimages'\? "
            r"It has 'matched-frequency', 'threshold-0\.7', 'topimages'\.$",
        ),
        ("cifar10_corrupted/fog_9", r"mean 'fog_\d'\? It has 'brightness_1', .* and \d\d more\.$"),
    ],
)
def test_a_configuration_that_is_not_there_is_named(name, message, tmp_path):
    with pytest.raises(DatasetError, match=message):
        open_split(name, "train", str(tmp_path), 0.2)


def test_a_split_that_is_not_there_is_named(store):
    message = r"'tiny' has no split 'valid', only \['train', 'validation', 'test'\]"
    with pytest.raises(DatasetError, match=message):
        open_split("tiny", "valid", store("tfrecord"), 0.2)
