"""Data sets by name, wherever they are kept."""

import dataclasses

from zoo.data import datasets, tensorflow_sets
from zoo.data.dataset import PACKAGED, Dataset
from zoo.data.folders import FolderOptions, open_folder
from zoo.data.sources import EVALUATION, Source, Streamed
from zoo.training.imports import called, is_path

#: The name of class folders.
FOLDER = "folder"


def open_split(
    name: str, split: str, data_dir: str | None = None, options: FolderOptions | None = None
) -> Source:
    """Opens a split of a set.

    The packaged images, and sets of TensorFlow Datasets whose images have one size and fit, are in
    memory. Others stay on the disk: class folders, and sets with images of several sizes, which
    TensorFlow Datasets reads by number where they were prepared with `file_format="array_record"`.

    Args:
        name: "fashion_mnist_subset", "folder", a set of TensorFlow Datasets, also with its version
            as in "mnist:3.0.1", or the import path of a function of (split, data_dir) that returns
            a `Dataset` or a `Streamed`, whose first images are a fair sample of all.
        split: A split's name, or "evaluation": the validation images, or the test images where
            there are none, or else a share of the training images, which "train" then leaves out.
        data_dir: The folder, or where TensorFlow Datasets keeps its sets.
        options: How class folders are read. Sets of TensorFlow Datasets use `held_out` only.

    Returns:
        The images and labels by number.

    Raises:
        DatasetError: If the set cannot be opened; the message says what to do.

    Example:
        >>> open_split("fashion_mnist_subset", "evaluation").split
        'test'
    """
    options = options or FolderOptions()
    if is_path(name) and not datasets.has_version(name):
        kinds = (Dataset, Streamed)
        made = called({"dataset": name}, "dataset", kinds, split=split, data_dir=data_dir)
        return dataclasses.replace(made, name=name, split=split)
    if name == FOLDER:
        return open_folder(data_dir, split, options)
    if name == PACKAGED:
        return datasets.load(name, "test" if split == EVALUATION else split)
    datasets.check_name(name)
    return tensorflow_sets.open_split(name, split, data_dir, options.held_out)
