"""From the bytes of an image file to pixels, as a part of an input pipeline."""

import io
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

#: What decodes a file: TensorFlow, a JPEG or another format, or Pillow, which takes the rest.
JPEG, PLAIN, PILLOW = 0, 1, 2

#: What EXIF says of an image: whether rows and columns change places, and which are turned round
#: after that, as (transposed, rows turned, columns turned). Number 1 is an image as it is.
_ORIENTATIONS = np.array(
    [
        (0, 0, 0),  # 0 is not in use
        (0, 0, 0),
        (0, 0, 1),
        (0, 1, 1),
        (0, 1, 0),
        (1, 0, 0),
        (1, 0, 1),
        (1, 1, 1),
        (1, 1, 0),
    ],
    bool,
)


class Encoded(NamedTuple):
    """An image that is not decoded yet.

    Attributes:
        contents: The bytes of its file, a string `[]`.
        decoder: `JPEG`, `PLAIN` or `PILLOW`, an integer `[]`.
        orientation: What EXIF says of a JPEG, an integer `[]` from 1 to 8.
    """

    contents: Any
    decoder: Any
    orientation: Any


class Image:
    """An image to take a window of.

    Args:
        stored: An `Encoded`, or pixels, uint8 `[H, W, C]`.
        channels: Number of channels wanted: 1, 3, or None for its own (pixels only).
        pillow: Whether Pillow may be used, which a saved graph cannot.

    Attributes:
        size: Height and width, int32 `[2]`.
    """

    def __init__(self, stored: Any, channels: int | None, *, pillow: bool = True) -> None:
        self._channels = channels
        self._pillow = pillow
        self._encoded = stored if isinstance(stored, Encoded) else None
        if self._encoded is None:
            self._pixels = with_channels(stored, channels)
            self.size = tf.shape(stored)[:2]
            return
        is_jpeg = tf.equal(self._encoded.decoder, JPEG)
        # A JPEG is decoded when the window is known, and everything else at once.
        self._pixels = tf.cond(is_jpeg, self._nothing, self._decoded)
        self._is_jpeg = is_jpeg
        self._moves = tf.unstack(tf.gather(_ORIENTATIONS, self._encoded.orientation))
        self.size = tf.cond(is_jpeg, self._jpeg_size, lambda: tf.shape(self._pixels)[:2])

    def window(self, window: Any) -> Any:
        """Returns a part of the image.

        Args:
            window: First row, first column, height and width, int32 `[4]`.

        Returns:
            Pixels, uint8 `[height, width, C]`.
        """
        if self._encoded is None:
            return _cut(self._pixels, window)
        pixels = tf.cond(
            self._is_jpeg, lambda: self._jpeg(window), lambda: _cut(self._pixels, window)
        )
        return tf.ensure_shape(pixels, [None, None, self._channels])

    def _nothing(self) -> Any:
        return tf.zeros([0, 0, self._channels], tf.uint8)

    def _decoded(self) -> Any:
        """The pixels of an image that is no JPEG."""
        assert self._encoded is not None
        assert self._channels is not None
        contents, channels = self._encoded.contents, self._channels

        def plain() -> Any:
            return tf.io.decode_image(contents, channels, expand_animations=False)

        def other() -> Any:
            # Declared stateless: else the pipeline would decode one file after the other.
            return tf.numpy_function(
                lambda data: decode_with_pillow(data, channels),
                [contents],
                tf.uint8,
                stateful=False,
            )

        by_pillow = tf.equal(self._encoded.decoder, PILLOW)
        pixels = tf.cond(by_pillow, other, plain) if self._pillow else plain()
        return tf.ensure_shape(pixels, [None, None, channels])

    def _jpeg_size(self) -> Any:
        """Height and width of a JPEG as it is seen."""
        assert self._encoded is not None
        size = tf.io.extract_jpeg_shape(self._encoded.contents)[:2]
        return tf.cond(self._moves[0], lambda: size[::-1], lambda: size)

    def _jpeg(self, window: Any) -> Any:
        """The window of a JPEG; nothing else of it is decoded."""
        assert self._encoded is not None
        transposed, turned_rows, turned_columns = self._moves
        row, column, height, width = tf.unstack(window)
        row = tf.where(turned_rows, self.size[0] - row - height, row)
        column = tf.where(turned_columns, self.size[1] - column - width, column)
        stored = tf.where(transposed, [column, row, width, height], [row, column, height, width])
        pixels = tf.io.decode_and_crop_jpeg(
            self._encoded.contents, stored, channels=self._channels, dct_method="INTEGER_ACCURATE"
        )
        axes = [(turned_rows, 0), (turned_columns, 1)]
        return _moved(pixels, transposed, axes)


def as_encoded(contents: Any) -> Encoded:
    """Returns the image in the bytes of a file whose kind is not known, a string `[]`.

    It is a JPEG, or one of the others that TensorFlow decodes.
    """
    is_jpeg = tf.io.is_jpeg(contents)
    orientation = tf.cond(is_jpeg, lambda: exif_orientation(contents), lambda: tf.constant(1))
    return Encoded(contents, tf.where(is_jpeg, JPEG, PLAIN), orientation)


def exif_orientation(contents: Any) -> Any:
    """Returns what EXIF says of a JPEG's orientation, int32 `[]`; 1 if it says nothing.

    The search takes the first 4,096 bytes and looks for the entry alone: number 0x0112, of type 3,
    one value, in either order of bytes.
    """
    raw = tf.cast(tf.io.decode_raw(tf.strings.substr(contents, 0, 4096), tf.uint8), tf.int32)
    raw = tf.pad(raw, [[0, 10]])
    big = _after(raw, [1, 18, 0, 3, 0, 0, 0, 1, 0])
    little = _after(raw, [18, 1, 3, 0, 1, 0, 0, 0])
    value = tf.where(big > 0, big, little)
    known = (_after(raw, [*b"Exif"]) >= 0) & (value >= 1) & (value <= 8)
    return tf.where(known, value, 1)


def _after(raw: Any, pattern: list[int]) -> Any:
    """Returns the byte that follows the first place of a pattern in bytes; -1 if there is none."""
    count = tf.size(raw) - len(pattern)
    windows = tf.stack([raw[i : count + i] for i in range(len(pattern))], 1)
    places = tf.where(tf.reduce_all(windows == pattern, axis=1))[:, 0]
    following = tf.gather(raw, places + len(pattern))
    return tf.concat([following, [-1]], 0)[0]


def _moved(pixels: Any, transposed: Any, turned: list[tuple[Any, int]]) -> Any:
    """Puts stored pixels where EXIF wants them to be seen."""

    def transpose() -> Any:
        # By places, since oneDNN complains on stderr that it cannot transpose bytes.
        height, width, channels = tf.unstack(tf.shape(pixels))
        places = tf.range(width)[:, None] + width * tf.range(height)
        return tf.gather(tf.reshape(pixels, [height * width, channels]), places)

    pixels = tf.cond(transposed, transpose, lambda: pixels)
    for condition, axis in turned:
        pixels = _turned_if(condition, pixels, axis)
    return pixels


def _turned_if(condition: Any, pixels: Any, axis: int) -> Any:
    return tf.cond(condition, lambda: tf.reverse(pixels, [axis]), lambda: pixels)


def _cut(pixels: Any, window: Any) -> Any:
    row, column, height, width = tf.unstack(window)
    return pixels[row : row + height, column : column + width]


def with_channels(images: Any, channels: int | None) -> Any:
    """Returns images with the wanted number of channels: grey ones as coloured, or the reverse.

    What follows the colours, such as how opaque a pixel is, is left out.

    Args:
        images: Pixels `[..., C]`.
        channels: 1, 3, or None for those that they have.
    """
    has = images.shape[-1]
    if channels is None or has == channels:
        return images
    colours = images[..., : 3 if has >= 3 else 1]
    if colours.shape[-1] == channels:
        return colours
    change = tf.image.grayscale_to_rgb if channels == 3 else tf.image.rgb_to_grayscale
    return change(colours)


def decode_with_pillow(contents: bytes, channels: int) -> npt.NDArray[np.uint8]:
    """Decodes an image file of any kind that Pillow knows: the first picture of several.

    Channels of 16 bits keep the upper 8, a palette becomes its colours, and EXIF's orientation is
    applied.

    Args:
        contents: The bytes of the file.
        channels: 1 for grey, 3 for red, green and blue.

    Returns:
        Pixels, uint8 `[H, W, channels]`.
    """
    import PIL.Image
    import PIL.ImageOps

    with PIL.Image.open(io.BytesIO(contents)) as opened:
        image = PIL.ImageOps.exif_transpose(opened)
    if image.mode.startswith("I") or image.mode == "F":
        image = PIL.Image.fromarray(_upper_bits(np.asarray(image), image.mode))
    if image.mode == "P":
        image = image.convert("RGBA")
    if image.mode == "LAB":  # Pillow has no way from it to grey
        image = image.convert("RGB")
    pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return pixels.reshape(*pixels.shape[:2], channels)


def _upper_bits(values: npt.NDArray[Any], mode: str) -> npt.NDArray[np.uint8]:
    """The upper 8 of 16 bits; other numbers are clipped to [0, 255]."""
    if mode.startswith("I;16"):
        values = values >> 8
    return np.clip(values, 0, 255).astype(np.uint8)
