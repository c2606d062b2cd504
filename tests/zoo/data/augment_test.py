import collections

import numpy as np
import pytest
import tensorflow as tf

from zoo.data.augment import pad_crop_flip


def all_variants(image, padding):
    """Every crop of the padded image, flipped and not: `{bytes: (top, left, flipped)}`."""
    height, width, _ = image.shape
    padded = np.zeros((height + 2 * padding, width + 2 * padding, image.shape[2]), image.dtype)
    padded[padding : padding + height, padding : padding + width] = image
    variants = {}
    for top in range(2 * padding + 1):
        for left in range(2 * padding + 1):
            crop = padded[top : top + height, left : left + width]
            variants[crop.tobytes()] = (top, left, False)
            variants[crop[:, ::-1].tobytes()] = (top, left, True)
    return variants


def random_images(rng, *shape):
    return rng.integers(1, 256, shape).astype(np.uint8)


@pytest.mark.parametrize(("height", "width", "channels", "padding"), [(6, 5, 3, 2), (8, 8, 1, 4)])
def test_each_image_is_one_of_numpys_crops_and_flips(rng, height, width, channels, padding):
    images = random_images(rng, 16, height, width, channels)
    results = pad_crop_flip(images, tf.constant([1, 2], tf.int64), padding).numpy()
    assert results.shape == images.shape
    assert results.dtype == np.uint8
    places = [
        all_variants(image, padding)[result.tobytes()]
        for image, result in zip(images, results, strict=True)
    ]
    assert len(set(places)) > 8


def test_places_and_flips_are_uniform_and_independent(rng):
    image = random_images(rng, 6, 6, 1)
    variants = all_variants(image, 1)
    assert len(variants) == 18
    count = 3600
    results = pad_crop_flip(np.stack([image] * count), tf.constant([0, 7], tf.int64), 1).numpy()
    places = collections.Counter(variants[result.tobytes()] for result in results)
    counts = np.array([places[place] for place in variants.values()])
    # Chi-square with 17 degrees of freedom: 17 +- 5.8; beyond 43 in 1 of 2,000 draws.
    assert np.sum((counts - 200) ** 2 / 200) < 43


def test_the_seed_decides(rng):
    images = random_images(rng, 32, 8, 8, 3)
    compiled = tf.function(pad_crop_flip)
    first = pad_crop_flip(images, tf.constant([3, 4], tf.int64)).numpy()
    again = compiled(tf.constant(images), tf.constant([3, 4], tf.int64)).numpy()
    np.testing.assert_array_equal(first, again)
    for seed in ([3, 5], [4, 4]):
        other = pad_crop_flip(images, tf.constant(seed, tf.int64)).numpy()
        same = [np.array_equal(a, b) for a, b in zip(first, other, strict=True)]
        assert np.mean(same) < 0.2


def test_without_padding_only_flips_are_left(rng):
    images = random_images(rng, 64, 4, 4, 1).astype(np.float32)
    results = pad_crop_flip(images, tf.constant([0, 1], tf.int32), padding=0).numpy()
    flipped = np.array(
        [np.array_equal(r, i[:, ::-1]) for r, i in zip(results, images, strict=True)]
    )
    kept = np.array([np.array_equal(r, i) for r, i in zip(results, images, strict=True)])
    assert (flipped ^ kept).all()
    assert 12 < flipped.sum() < 52  # 32 +- 4


def test_padding_must_not_be_negative(rng):
    with pytest.raises(ValueError, match="`padding` must be 0 or more, received -1"):
        pad_crop_flip(random_images(rng, 1, 4, 4, 1), tf.constant([0, 1]), padding=-1)
