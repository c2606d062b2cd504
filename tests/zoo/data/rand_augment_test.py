from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from zoo.data.rand_augment import RandAugment, Solarize


@pytest.fixture
def image(make_picture):
    return tf.constant(make_picture(24, 32), tf.float32)


def test_the_result_depends_on_the_seed_alone(image):
    change = tf.function(RandAugment(0.5).__call__)
    first = [change(image, tf.constant([1, i], tf.int64)).numpy() for i in range(20)]
    again = [change(image, tf.constant([1, i], tf.int64)).numpy() for i in reversed(range(20))]
    for one, other in zip(first, reversed(again), strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.shape == (24, 32, 3)
        assert one.min() >= 0
        assert one.max() <= 255
    assert len({one.tobytes() for one in first}) > 15


def test_no_strength_hardly_changes_an_image(image):
    augment = RandAugment(0.0)
    changed = [augment(image, tf.constant([2, i], tf.int64)).numpy() for i in range(12)]
    unchanged = [np.abs(one - image).max() < 1.5 for one in changed]
    assert sum(unchanged) >= 3


def test_each_operation_is_keras_own(image):
    """An operation gives what Keras's layer gives for the transformation of the same seed."""
    augment = RandAugment(0.6, num_ops=1)
    assert [type(layer).__name__ for layer in augment._layers] == [
        *("RandomShear", "RandomTranslation", "RandomRotation", "RandomBrightness"),
        *("RandomColorDegeneration", "RandomContrast", "RandomSharpness", "RandomPosterization"),
        *("Solarize", "AutoContrast", "Equalization"),
    ]
    for number, layer in enumerate(augment._layers):
        if isinstance(layer, Solarize):
            continue
        seed = tf.constant([5, number], tf.int64)
        ours = augment._changed(image, tf.constant(number), seed)
        augment._seeds.begin(seed)
        drawn = layer.get_random_transformation(image[None], training=True)
        (keras_own,) = layer.transform_images(image[None], drawn, training=True)
        np.testing.assert_allclose(ours, keras_own, atol=1e-4)


@pytest.mark.parametrize("number", range(9))
def test_a_low_strength_changes_little_and_a_high_one_more(image, number):
    """The mean change of nine operations; contrast and equalization have no strength."""

    def change(strength):
        augment = RandAugment(strength)
        drawn = [
            augment._changed(image, tf.constant(number), tf.constant([7, i], tf.int64))
            for i in range(8)
        ]
        return np.mean([np.abs(one - image).mean() for one in drawn])

    assert change(0.0) < 0.5
    assert change(0.02) < 8
    assert change(1.0) > max(1, 2 * change(0.1))


def test_solarization_inverts_what_is_brighter_than_a_threshold():
    ramp = tf.range(256.0)
    solarize = Solarize(0.5)
    thresholds = []
    for seed in range(20):
        solarize.generator = SimpleNamespace(next=lambda seed=seed: [seed, 1])
        changed = solarize(ramp).numpy()
        kept = changed == ramp
        thresholds.append(int(np.argmin(kept)))
        np.testing.assert_array_equal(changed, np.where(ramp < thresholds[-1], ramp, 255 - ramp))
    assert 127 < min(thresholds) < 145
    assert 240 < max(thresholds) <= 255
