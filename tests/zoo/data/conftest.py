"""Image files of every kind that real folders hold."""

import io

import numpy as np
import PIL.Image
import pytest


def picture(height=40, width=60, channels=3, seed=0):
    """A smooth picture, which a JPEG changes little: each corner has its own colour."""
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 256, (2, 2, channels)).astype(np.float64)
    rows = np.linspace(0, 1, height)[:, None, None]
    columns = np.linspace(0, 1, width)[None, :, None]
    top = corners[0, 0] * (1 - columns) + corners[0, 1] * columns
    bottom = corners[1, 0] * (1 - columns) + corners[1, 1] * columns
    return np.round(top * (1 - rows) + bottom * rows).astype(np.uint8)


def encoded(pixels, kind="JPEG", **options):
    """The bytes of an image file."""
    buffer = io.BytesIO()
    image = pixels
    if isinstance(pixels, np.ndarray):
        image = PIL.Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    image.save(buffer, kind, **({"quality": 95} if kind == "JPEG" else {}) | options)
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch):
    """A cache of the test's own."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("ZOO_HOME", str(folder))
    return folder


@pytest.fixture
def make_picture():
    return picture


@pytest.fixture
def encode():
    return encoded


@pytest.fixture
def make_folder(tmp_path):
    """Makes class folders: {"train/cats": 3} makes three JPEGs of several sizes there."""

    def make(root=tmp_path / "photos", **counts):
        for number, (name, count) in enumerate(counts.items()):
            folder = root.joinpath(*name.split("__"))
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = picture(40 + 3 * i, 60 - 2 * i, seed=100 * number + i)
                (folder / f"{i:03d}.jpg").write_bytes(encoded(pixels))
        return root

    return make
