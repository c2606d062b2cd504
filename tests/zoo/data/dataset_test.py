import numpy as np
import tensorflow as tf

from zoo.data.dataset import Dataset


def test_images_and_labels_by_number(rng):
    images = rng.integers(0, 256, (9, 4, 5, 3)).astype(np.uint8)
    dataset = Dataset("a", "train", images, np.arange(9) % 2, ("x", "y"))
    found = tf.function(dataset.fetch)(tf.constant([7, 0, 7]))
    np.testing.assert_array_equal(found[0], images[[7, 0, 7]])
    assert found[1].numpy().tolist() == [1, 0, 1]
    assert dataset.read(found) is found
    assert dataset.image_shape == (4, 5, 3)
