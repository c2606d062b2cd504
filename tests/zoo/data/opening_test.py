import re

import pytest

from zoo.data.dataset import Dataset, DatasetError
from zoo.data.folders import FolderOptions
from zoo.data.opening import open_split
from zoo.errors import UserError


@pytest.mark.parametrize(("split", "count"), [("train", 10_000), ("evaluation", 2_000)])
def test_the_packaged_images(split, count):
    source = open_split("fashion_mnist_subset", split)
    assert isinstance(source, Dataset)
    assert len(source) == count


def test_class_folders(make_folder):
    root = make_folder(cats=5, dogs=5)
    options = FolderOptions(held_out=0.4)
    assert len(open_split("folder", "train", str(root), options)) == 6
    assert len(open_split("folder", "evaluation", str(root), options)) == 4


@pytest.mark.parametrize("name", ["../x", "", "a/b/c", "a:3", "a:3.0", "a:", "a:3.0.1.2"])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(DatasetError, match=f"^'{re.escape(name)}' is not the name of a dataset"):
        open_split(name, "train")


@pytest.mark.parametrize("version", ["3.0.1", "3.*.*", "*.0.1"])
def test_a_version_is_no_import_path(version, tmp_path):
    with pytest.raises(DatasetError, match=rf"^Dataset 'mnist:{re.escape(version)}' is not prepar"):
        open_split(f"mnist:{version}", "train", str(tmp_path))


def test_images_of_the_users_own(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "import numpy as np\n"
        "from zoo.data import Dataset\n"
        "def images(split, data_dir):\n"
        "    labels = np.arange(6 if split == 'train' else 4) % 2\n"
        "    pixels = np.zeros((len(labels), 8, 8, 1), np.uint8)\n"
        "    return Dataset('a', 'b', pixels, labels, ('even', data_dir))\n"
        "def wrong(split, data_dir):\n"
        "    return []\n"
    )
    source = open_split(f"{path}:images", "evaluation", "odd")
    # zoo.evaluate finds them again by this name.
    assert (source.name, source.split) == (f"{path}:images", "evaluation")
    assert (len(source), source.class_names) == (4, ("even", "odd"))
    with pytest.raises(UserError, match=r"must return a zoo Dataset or zoo Streamed, rec"):
        open_split(f"{path}:wrong", "train")
