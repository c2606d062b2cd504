"""Pixels against Pillow's: it decodes whole images, and turns them by itself."""

import io

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import tensorflow as tf

from zoo.data.decoding import (
    JPEG,
    PILLOW,
    PLAIN,
    Encoded,
    Image,
    as_encoded,
    decode_with_pillow,
    exif_orientation,
    with_channels,
)


def by_pillow(contents, mode="RGB"):
    image = PIL.ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(contents))).convert(mode)
    pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels


@tf.function(reduce_retracing=True)
def window_of(contents, decoder, orientation, window, channels):
    image = Image(Encoded(contents, decoder, orientation), channels)
    return image.size, image.window(window)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_window_of_a_turned_jpeg_is_that_of_the_image_as_it_is_seen(
    make_picture, encode, orientation
):
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    contents = encode(make_picture(48, 80), exif=exif)
    whole = by_pillow(contents)
    size, pixels = window_of(contents, JPEG, orientation, [5, 3, 20, 30], 3)
    assert size.numpy().tolist() == list(whole.shape[:2])
    # libjpeg interpolates colours a little differently at the edge of a window.
    difference = np.abs(pixels.numpy().astype(int) - whole[5:25, 3:33])
    assert difference.max() <= 3
    assert difference.mean() < 0.2


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
@pytest.mark.parametrize("stored", [1, 3])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_grey_and_coloured_files_become_what_is_wanted(
    make_picture, encode, channels, mode, stored, kind
):
    contents = encode(make_picture(channels=stored), kind)
    decoder = JPEG if kind == "JPEG" else PLAIN
    _, pixels = window_of(contents, decoder, 1, [0, 0, 40, 60], channels)
    assert pixels.shape[-1] == channels
    assert np.abs(pixels.numpy().astype(int) - by_pillow(contents, mode)).max() <= 3


def test_pillow_decodes_the_rest_within_the_pipeline(make_picture, encode):
    pixels = make_picture()
    contents = encode(pixels, "TIFF")
    size, found = window_of(contents, PILLOW, 1, [1, 2, 10, 11], 3)
    assert size.numpy().tolist() == [40, 60]
    np.testing.assert_array_equal(found, pixels[1:11, 2:13])


def test_sixteen_bits_keep_the_upper_eight(make_picture, encode):
    pixels = make_picture(channels=1)[..., 0].astype(np.uint16) * 256 + 77
    contents = encode(PIL.Image.fromarray(pixels), "PNG")
    found = decode_with_pillow(contents, 1)
    np.testing.assert_array_equal(found[..., 0], pixels >> 8)


def test_sixteen_bits_of_three_colours_keep_the_upper_eight(make_picture):
    pixels = make_picture().astype(np.uint16) * 256 + 177
    contents = tf.io.encode_png(pixels).numpy()
    _, found = window_of(contents, PLAIN, 1, [0, 0, 40, 60], 3)
    np.testing.assert_array_equal(found, pixels >> 8)
    np.testing.assert_array_equal(decode_with_pillow(contents, 3), pixels >> 8)


def test_a_palette_becomes_its_colours(make_picture, encode):
    image = PIL.Image.fromarray(make_picture()).quantize(16)
    expected = np.asarray(image.convert("RGB"))
    for kind in ("PNG", "GIF"):
        np.testing.assert_array_equal(decode_with_pillow(encode(image, kind), 3), expected)


def test_of_an_animation_the_first_picture_is_taken(make_picture, encode):
    frames = [PIL.Image.fromarray(make_picture(seed=seed)).quantize(64) for seed in range(3)]
    contents = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    found = decode_with_pillow(contents, 3)
    np.testing.assert_array_equal(found, np.asarray(frames[0].convert("RGB")))


def test_pixels_need_no_decoding(make_picture):
    pixels = tf.constant(make_picture(channels=1))
    image = Image(pixels, 3)
    assert image.size.numpy().tolist() == [40, 60]
    np.testing.assert_array_equal(
        image.window(tf.constant([0, 1, 2, 3])), np.repeat(pixels[:2, 1:4], 3, axis=2)
    )


def test_channels_that_are_there_stay():
    images = tf.zeros([2, 3, 3, 3], tf.uint8)
    assert with_channels(images, None) is images
    assert with_channels(images, 3) is images
    assert with_channels(images, 1).shape == (2, 3, 3, 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_cielab_becomes_grey_or_coloured(rng, channels):
    contents = io.BytesIO()
    image = PIL.Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8), "LAB")
    image.save(contents, "TIFF")
    seen = image.convert("RGB").convert("L" if channels == 1 else "RGB")
    found = decode_with_pillow(contents.getvalue(), channels)
    np.testing.assert_array_equal(found, np.asarray(seen).reshape(5, 6, channels))


@pytest.mark.parametrize(("mode", "channels"), [("RGBA", 3), ("RGBA", 1), ("LA", 3), ("LA", 1)])
def test_opacity_is_left_out(rng, mode, channels):
    image = PIL.Image.fromarray(rng.integers(0, 256, (5, 6, len(mode)), np.uint8), mode)
    found = with_channels(tf.constant(np.asarray(image)), channels).numpy().astype(int)
    seen = image.convert(mode[:-1]).convert("L" if channels == 1 else "RGB")
    expected = np.asarray(seen).reshape(5, 6, channels)
    assert np.abs(found - expected).max() <= 1  # the weights of grey are rounded differently


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", [1, 3, 8])
def test_orientation_is_found_in_the_bytes_of_a_file(make_picture, encode, orientation, order):
    exif = PIL.Image.Exif()
    exif.endian = order
    exif[0x010F] = "a maker"
    exif[0x0112] = orientation
    contents = encode(make_picture(), exif=exif.tobytes())
    assert PIL.Image.open(io.BytesIO(contents)).getexif()[0x0112] == orientation
    assert exif_orientation(tf.constant(contents)) == orientation


def test_a_file_whose_kind_is_not_known(make_picture, encode):
    jpeg, png = (as_encoded(tf.constant(encode(make_picture(), k))) for k in ("JPEG", "PNG"))
    assert (jpeg.decoder, jpeg.orientation) == (JPEG, 1)
    assert (png.decoder, png.orientation) == (PLAIN, 1)
