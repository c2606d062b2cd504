"""Prepared images against Pillow's and NumPy's."""

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from zoo.data.decoding import Image
from zoo.data.preparation import Augmentation, ImageChanges, Preparation, central_window


@pytest.fixture
def pictures(make_picture):
    return [make_picture(*size, seed=i) for i, size in enumerate([(40, 60), (61, 50), (32, 32)])]


@pytest.mark.parametrize(
    ("interpolation", "theirs"), [("bilinear", "BILINEAR"), ("bicubic", "BICUBIC")]
)
@pytest.mark.parametrize("share", [1.0, 0.875])
def test_the_middle_is_cut_out_and_resized_as_pillow_does(pictures, interpolation, theirs, share):
    prepare = Preparation(size=16, channels=3, crop_share=share, interpolation=interpolation)
    for pixels in pictures:
        height, width, _ = pixels.shape
        side = round(share * min(height, width))
        top, left = (height - side) // 2, (width - side) // 2
        square = PIL.Image.fromarray(pixels[top : top + side, left : left + side])
        expected = np.asarray(square.resize((16, 16), getattr(PIL.Image.Resampling, theirs)))
        found = prepare(Image(tf.constant(pixels), 3))
        assert found.shape == (16, 16, 3)
        assert np.abs(found - expected.astype(float)).max() < 1.05  # Pillow rounds.


def test_a_batch_is_prepared_as_one_image(pictures):
    for prepare in (Preparation(size=20, crop_share=0.8), Preparation(), Preparation(channels=1)):
        images = np.stack([pictures[0], pictures[0][::-1]])
        batch = prepare.batch(tf.constant(images))
        for one, image in zip(batch, images, strict=True):
            alone = prepare(Image(tf.constant(image), prepare.channels or 3))
            np.testing.assert_allclose(one, alone, atol=1e-3)


@pytest.mark.parametrize("interpolation", ["area", "nearest", "lanczos3"])
def test_other_interpolations_keep_a_plain_image(interpolation):
    pixels = tf.fill([30, 40, 1], tf.constant(77, tf.uint8))
    found = Preparation(size=8, channels=1, interpolation=interpolation)(Image(pixels, 1))
    np.testing.assert_allclose(found, np.full((8, 8, 1), 77.0), atol=1e-3)


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        ("unit", [0.2, 0.4, 0.6]),
        ("tf", [-0.6, -0.2, 0.2]),
        ("caffe", [153 - 103.939, 102 - 116.779, 51 - 123.68]),
    ],
)
def test_pixels_are_mapped(pixels, expected):
    images = tf.constant([51.0, 102.0, 153.0], shape=[1, 1, 1, 3])
    np.testing.assert_allclose(
        Preparation(pixels=pixels).mapped(images)[0, 0, 0], expected, rtol=1e-4
    )


def test_shapes():
    assert Preparation().shape((8, 9, 3)) == (8, 9, 3)
    assert Preparation(size=5, channels=1).shape((None, None, 3)) == (5, 5, 1)
    assert Preparation(channels=3, pixels="caffe").shape((8, 9, 1)) == (8, 9, 3)
    message = r"^--config\.pixels=caffe needs images with 3 channels, received 1: give "
    with pytest.raises(ValueError, match=message):
        Preparation(pixels="caffe").shape((8, 9, 1))
    with pytest.raises(ValueError, match=r"several sizes: give the one .*--config\.image_size=224"):
        Preparation().shape((None, 9, 3))


@pytest.mark.parametrize(
    ("size", "share", "window"),
    [
        ((10, 10), 1.0, [0, 0, 10, 10]),
        ((10, 21), 1.0, [0, 5, 10, 10]),
        ((21, 10), 0.5, [8, 2, 5, 5]),
        ((1, 1), 0.1, [0, 0, 1, 1]),
    ],
)
def test_central_window(size, share, window):
    assert central_window(tf.constant(size), share).numpy().tolist() == window


def test_inception_crops_are_windows_resized(pictures):
    """Each changed image is, pixel by pixel, what Pillow makes of the window that was drawn."""
    from zoo.data import augment

    change = ImageChanges(Preparation(size=16, channels=3), Augmentation("inception", area=0.2))
    for number, pixels in enumerate(pictures):
        seed = tf.constant([3, number], tf.int64)
        found = change(Image(tf.constant(pixels), 3), seed)
        window_seed = tf.random.split(seed, 3, alg="philox")[0]
        size = tf.constant(pixels.shape[:2])
        window = augment.draw_window(size, window_seed, (0.2, 1.0), (0.75, 4 / 3))
        row, column, height, width = window.numpy()
        cut = PIL.Image.fromarray(pixels[row : row + height, column : column + width])
        expected = np.asarray(cut.resize((16, 16), PIL.Image.Resampling.BILINEAR), float)
        assert np.abs(found - expected).max() < 1.05


def test_a_change_of_colours_needs_no_crop(pictures):
    change = ImageChanges(Preparation(), Augmentation(colour=1.0))
    found = change(Image(tf.constant(pictures[0]), 3), tf.constant([1, 2], tf.int64))
    assert found.shape == pictures[0].shape
    assert np.any(np.abs(found - pictures[0]) > 5)
