import os

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from zoo.data.decoding import JPEG, PILLOW, PLAIN, Encoded, Image, decode_with_pillow
from zoo.data.inspection import Finding, inspect, quietly_inspect


@pytest.fixture
def found(tmp_path):
    def inspected(contents):
        path = tmp_path / "file"
        path.write_bytes(contents)
        return inspect(os.fsencode(path))

    return inspected


def test_who_decodes_what(found, make_picture, encode):
    colours = make_picture()
    grey = make_picture(channels=1)
    palette = PIL.Image.fromarray(colours).quantize(8)
    two = {"save_all": True, "append_images": [palette]}
    cases = [
        (encode(colours), JPEG),
        (encode(grey), JPEG),
        (encode(colours, progressive=True), JPEG),
        (encode(PIL.Image.fromarray(colours).convert("CMYK")), PILLOW),
        (encode(colours, "PNG"), PLAIN),
        (encode(grey, "PNG"), PLAIN),
        (tf.io.encode_png(colours.astype(np.uint16) << 8).numpy(), PLAIN),
        (encode(np.dstack([colours, grey]), "PNG"), PILLOW),
        (encode(palette, "PNG"), PILLOW),
        (encode(PIL.Image.fromarray(grey[..., 0].astype(np.uint16)), "PNG"), PILLOW),
        (encode(palette, "GIF", **two), PILLOW),
        (encode(colours, "BMP"), PILLOW),
        (encode(colours, "WEBP"), PILLOW),
        (encode(colours, "TIFF"), PILLOW),
    ]
    for contents, decoder in cases:
        assert found(contents) == Finding(decoder, 1, 40, 60)


@pytest.mark.parametrize(("number", "size"), [(1, (40, 60)), (6, (60, 40)), (77, (40, 60))])
def test_orientation_is_noted_and_the_size_is_that_which_is_seen(
    found, make_picture, encode, number, size
):
    exif = PIL.Image.Exif()
    exif[0x0112] = number
    kept = number if number == 6 else 1
    assert found(encode(make_picture(), exif=exif)) == Finding(JPEG, kept, *size)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_files_that_are_no_jpegs_can_be_turned_too(found, make_picture, encode, kind):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    pixels = make_picture()
    lossless = {"lossless": True} if kind == "WEBP" else {}
    contents = encode(pixels, kind, exif=exif, **lossless)
    assert found(contents) == Finding(PILLOW, 1, 60, 40)
    np.testing.assert_array_equal(decode_with_pillow(contents, 3), np.rot90(pixels, -1))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF"])
@pytest.mark.parametrize("share", [0.5, 0.95])
def test_what_is_cut_short_is_damaged(found, make_picture, encode, kind, share):
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    contents = encode(noise, kind)
    finding = found(contents[: int(share * len(contents))])
    assert finding.problem
    assert finding.problem.startswith(("is damaged: ", "is no image"))


def test_what_is_no_image(found, tmp_path):
    assert found(b"").problem == "is empty"
    assert found(b"words").problem == "is no image that can be read"
    assert not found(b"words").is_image
    missing = inspect(os.fsencode(tmp_path / "missing"))
    assert missing.problem == "cannot be read: No such file or directory"
    assert inspect(os.fsencode(tmp_path)).problem == "is no file"
    os.mkfifo(tmp_path / "pipe")  # nobody writes to it
    assert inspect(os.fsencode(tmp_path / "pipe")) == Finding(problem="is no file", is_image=False)


def test_what_is_passed_can_be_decoded(found, make_picture, encode, rng):
    """Whatever is broken in a file, it is found here and not by the pipeline."""

    @tf.function(input_signature=[tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.int32)])
    def decoded(contents, decoder):
        image = Image(Encoded(contents, decoder, 1), 3)
        return image.window(tf.concat([[0, 0], image.size], 0))

    passed = 0
    whole = [encode(make_picture()), encode(make_picture(), "PNG")]
    for number in range(300):
        broken = bytearray(whole[number % 2])
        for place in rng.integers(0, len(broken), rng.integers(1, 4)):
            broken[place] = rng.integers(0, 256)
        finding = found(bytes(broken))
        if not finding.problem:
            assert decoded(bytes(broken), tf.constant(finding.decoder)).shape[-1] == 3
            passed += 1
    assert passed > 20


def test_the_order_is_that_of_the_files(tmp_path, make_picture, encode):
    paths = []
    for height in range(10, 30):
        path = tmp_path / f"{height}.jpg"
        path.write_bytes(encode(make_picture(height)))
        paths.append(os.fsencode(path))
    assert [f.height for f in quietly_inspect(paths, workers=4)] == list(range(10, 30))
