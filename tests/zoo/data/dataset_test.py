import numpy as np
import pytest
import tensorflow as tf

from zoo.data.dataset import Dataset


@pytest.mark.parametrize("names", ["ab", ("a",), (), None])
def test_names_of_classes_are_two_or_more(names):
    images, labels = np.zeros((2, 4, 5, 3), np.uint8), np.zeros(2, np.int64)
    with pytest.raises(ValueError, match="a tuple of two names or more, received "):
        Dataset("a", "train", images, labels, names)


def test_images_and_labels_by_number(rng):
    images = rng.integers(0, 256, (9, 4, 5, 3)).astype(np.uint8)
    dataset = Dataset("a", "train", images, np.arange(9) % 2, ("x", "y"))
    found = tf.function(dataset.fetch)(tf.constant([7, 0, 7]))
    np.testing.assert_array_equal(found[0], images[[7, 0, 7]])
    assert found[1].numpy().tolist() == [1, 0, 1]
    assert dataset.read(found) is found
    assert dataset.image_shape == (4, 5, 3)
