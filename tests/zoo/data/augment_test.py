import collections
import colorsys

import numpy as np
import pytest
import tensorflow as tf

from zoo.data import augment
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


@pytest.fixture
def three(rng):
    """Three images of float pixels in [0, 255]."""
    return rng.uniform(0, 255, (3, 12, 9, 3)).astype(np.float32)


def test_pad_crop_flip_against_numpy(three):
    seed = tf.constant([7, 8], tf.int64)
    places, flips = (drawn.numpy() for drawn in augment.draw_pad_crop_flip(seed, 3, padding=2))
    found = pad_crop_flip(tf.constant(three), seed, padding=2)
    for i, image in enumerate(three):
        padded = np.pad(image, [(2, 2), (2, 2), (0, 0)])
        row, column = places[0, i, 0], places[1, i, 0]
        expected = padded[row : row + 12, column : column + 9]
        expected = expected[:, ::-1] if flips[i, 0] else expected
        np.testing.assert_array_equal(found[i], expected)


def test_without_flips_none_is_flipped(three):
    seed = tf.constant([7, 8], tf.int64)
    found = pad_crop_flip(tf.constant(three), seed, padding=0, flip=False)
    np.testing.assert_array_equal(found, three)


def test_colours_against_colorsys(three):
    """Brightness, saturation and hue by Python's colour module, contrast by NumPy's mean."""
    for i, image in enumerate(three):
        drawn = augment.draw_colours(tf.constant([1, i], tf.int64), 0.8)
        brightness, saturation, contrast, hue = drawn.numpy().astype(np.float64)
        assert abs(brightness) <= 0.8 * 32
        assert abs(saturation - 1) <= 0.4
        assert abs(contrast - 1) <= 0.4
        assert abs(hue) <= 0.16
        bright = np.clip(image.astype(np.float64) + brightness, 0, 255) / 255
        changed = np.empty_like(bright)
        for place in np.ndindex(bright.shape[:2]):
            h, s, v = colorsys.rgb_to_hsv(*bright[place])
            changed[place] = colorsys.hsv_to_rgb((h + hue) % 1.0, min(s * saturation, 1.0), v)
        mean = changed.mean(axis=(0, 1))
        expected = 255 * np.clip((changed - mean) * contrast + mean, 0, 1)
        np.testing.assert_allclose(
            augment.apply_colours(tf.constant(image), drawn), expected, atol=0.5
        )


def test_grey_images_change_in_brightness_and_contrast():
    image = np.linspace(0, 255, 20, dtype=np.float32).reshape(4, 5, 1)
    drawn = tf.constant([20.0, 3.0, 0.5, 0.3])
    bright = np.minimum(image + 20, 255)
    expected = (bright - bright.mean()) * 0.5 + bright.mean()
    np.testing.assert_allclose(
        augment.apply_colours(tf.constant(image), drawn), expected, rtol=1e-4
    )


def test_erased_boxes_against_numpy(three):
    boxes = augment.draw_boxes(tf.constant([2, 3], tf.int64), 3, 1.0, (0.1, 0.4), 2.0).numpy()
    found = augment.erase(tf.constant(three), tf.constant(boxes), 9.0)
    for image, (top, left, bottom, right), erased in zip(three, boxes, found, strict=True):
        expected = image.copy()
        for row in range(12):
            for column in range(9):
                if top <= (row + 0.5) / 12 < bottom and left <= (column + 0.5) / 9 < right:
                    expected[row, column] = 9.0
        assert np.any(expected == 9.0)
        np.testing.assert_array_equal(erased, expected)


def test_boxes_have_the_areas_and_aspects_that_were_asked_for():
    boxes = augment.draw_boxes(tf.constant([2, 4], tf.int64), 5000, 0.3, (0.02, 1 / 3), 3.3).numpy()
    some = boxes[boxes.any(axis=1)]
    assert len(some) == pytest.approx(1500, abs=110)
    height, width = some[:, 2] - some[:, 0], some[:, 3] - some[:, 1]
    assert some.min() >= 0
    assert some.max() <= 1 + 1e-6
    assert (height * width).max() <= 1 / 3 + 1e-5
    assert (height / width).max() <= 3.3 + 1e-3
    assert (height / width).min() >= 1 / 3.3 - 1e-3


@pytest.mark.parametrize("size", [(40, 60), (61, 50), (32, 32)])
def test_windows_have_the_areas_and_aspects_that_were_asked_for(size):
    draw = tf.function(
        lambda seed: augment.draw_window(tf.constant(size), seed, (0.1, 0.8), (0.75, 4 / 3))
    )
    windows = np.array([draw(tf.constant([1, i], tf.int64)) for i in range(300)])
    row, column, height, width = windows.T
    assert np.all((row >= 0) & (column >= 0))
    assert np.all((row + height <= size[0]) & (column + width <= size[1]))
    share = height * width / (size[0] * size[1])
    assert share.min() >= 0.1 - 0.02
    assert share.max() <= 0.8 + 0.02
    assert (width / height).max() <= 4 / 3 + 0.08
    assert (width / height).min() >= 0.75 - 0.08
    assert len(set(map(tuple, windows))) > 250
