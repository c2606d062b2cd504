import re

import numpy as np
import pytest

from zoo.data import Preparation
from zoo.errors import UserError
from zoo.trained.views import views

PREPARED = Preparation(size=16, channels=3, crop_share=0.8, interpolation="bicubic")


def seen(prepared, size):
    return [
        (*(int(v) for v in one.window(np.array(size, np.int32))), one.mirrored) for one in prepared
    ]


def test_one_crop_is_the_preparation_itself():
    assert views(PREPARED, 1, (16, 16, 3)) == [PREPARED]


@pytest.mark.parametrize("size", [(20, 30), (31, 20), (17, 17), (1, 9)])
def test_two_crops_are_the_middle_and_its_mirror_image(size):
    middle = tuple(int(v) for v in PREPARED.window(np.array(size, np.int32)))
    assert seen(views(PREPARED, 2, (16, 16, 3)), size) == [(*middle, False), (*middle, True)]


def test_ten_crops_are_corners_and_middle():
    # The middle square of 20 by 30 pixels begins at column 5, and a crop of it has 16.
    places = [(0, 5), (0, 9), (4, 5), (4, 9), (2, 7)]
    expected = [(*place, 16, 16, flip) for place in places for flip in (False, True)]
    assert seen(views(PREPARED, 10, (16, 16, 3)), (20, 30)) == expected


def test_ten_crops_are_smaller_than_an_image_that_is_taken_whole():
    [first, *_] = views(Preparation(), 10, (28, 28, 1))
    assert (first.size, first.crop_share) == (28, 0.875)


def test_144_crops_are_those_of_googlenet():
    """A wide image of 256 rows; a crop of 224 of it resized to S is one of 224 * 256 / S."""
    expected = []
    for scale in (256, 288, 320, 352):
        cut = round(224 * 256 / scale)
        for left in (0, 72, 144):  # 400 columns are 144 more than rows
            last = 256 - cut
            places = [(0, 0), (0, last), (last, 0), (last, last), (last // 2, last // 2)]
            for row, column in places:
                expected.append((row, left + column, cut, cut))
            expected.append((0, left, 256, 256))
    found = seen(views(PREPARED, 144, (16, 16, 3)), (256, 400))
    assert [view[:4] for view in found[::2]] == expected
    assert [view[:4] for view in found[1::2]] == expected
    assert [view[4] for view in found] == [False, True] * 72


def test_a_view_keeps_the_rest_of_the_preparation():
    for one in views(PREPARED, 10, (16, 16, 3)):
        assert (one.size, one.channels, one.interpolation) == (16, 3, "bicubic")


def test_pixels_are_mirrored(rng):
    images = rng.integers(0, 256, (2, 16, 16, 3)).astype(np.float32)
    plain, mirrored = views(PREPARED, 2, (16, 16, 3))
    np.testing.assert_array_equal(plain.mapped(images), images / np.float32(255))
    np.testing.assert_array_equal(mirrored.mapped(images), images[:, :, ::-1] / np.float32(255))


@pytest.mark.parametrize("shape", [(16, 20, 3), (None, None, 3)])
def test_crops_are_squares_of_one_size(shape):
    message = f"--crops=10 is for models of square images of one size, received a model of {shape}."
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        views(Preparation(), 10, shape)


@pytest.mark.parametrize("crops", [0, 3, 143])
def test_another_number_of_crops_is_refused(crops):
    message = rf"^`crops` must be one of 1, 2, 10, 144, received {crops}\.$"
    with pytest.raises(ValueError, match=message):
        views(PREPARED, crops, (16, 16, 3))
