import pytest

from zoo.data.dataset import Dataset, DatasetError
from zoo.data.folders import FolderOptions
from zoo.data.opening import open_split


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


def test_what_is_no_name_is_refused():
    with pytest.raises(DatasetError, match=r"'\.\./x' is not the name of a dataset"):
        open_split("../x", "train")
