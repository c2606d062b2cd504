import dataclasses

import pytest
import tensorflow as tf

from zoo.errors import UserError
from zoo.trained.images import find_files, open_for, probabilities
from zoo.trained.opening import open_trained


@pytest.fixture
def trained(model_file):
    return open_trained(str(model_file))


def test_class_folders_are_those_of_the_model(trained, photos):
    (photos / "green").rename(photos / "yellow")
    message = r"has folders that are no classes .*: yellow\. These are blue, green, red\."
    with pytest.raises(UserError, match=message):
        open_for(trained, print, data_dir=str(photos), split="all")


def test_a_class_may_be_missing(trained, photos):
    for path in (photos / "green").iterdir():
        path.unlink()
    said = []
    source = open_for(trained, said.append, data_dir=str(photos), split="all")
    assert sorted(source.labels.tolist()) == [0] * 5 + [2] * 5
    assert "the class 'green' has no images" in said[0]


def test_other_classes_are_refused(trained):
    message = r"takes images of shape \(16, 16, 3\) and knows 3 classes; .* \(28, 28, 1\) and 10"
    with pytest.raises(UserError, match=message):
        open_for(trained, print, dataset="fashion_mnist_subset")


def test_an_error_names_the_flags_of_the_program(trained):
    with pytest.raises(UserError, match=r"^--dataset=nothing:made cannot be imported: "):
        open_for(trained, print, dataset="nothing:made")


def test_files_and_folders_are_found_in_order(trained, photos):
    found = find_files([str(photos / "red" / "1.png"), str(photos / "blue")], trained)
    assert [path.removeprefix(f"{photos}/") for path in found.paths] == [
        "red/1.png",
        *(f"blue/{i}.{'png' if i % 2 else 'jpg'}" for i in range(5)),
    ]
    made, labels = probabilities(trained, found.source, 4)
    assert (made.shape, labels.shape) == ((6, 3), (6,))


def test_a_file_that_is_named_again_counts_once(trained, photos):
    blue = photos / "blue"
    (photos / "link").symlink_to(blue)
    again = [photos / "link", blue / "0.jpg", photos / "red" / ".." / "blue"]
    found = find_files([str(blue), *map(str, again)], trained)
    assert list(found.paths) == [str(path) for path in sorted(blue.iterdir())]


def test_a_look_is_remembered_by_folder_and_not_by_list(trained, photos, home):
    red, blue = photos / "red", photos / "blue"
    for names in ([red], [red / "0.jpg"], [red / "0.jpg", red / "1.png"], [blue, red / "1.png"]):
        find_files(list(map(str, names)), trained)
    assert len(list((home / "scans").iterdir())) == 2


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_that_is_no_class_is_refused(trained, photos, label):
    found = find_files([str(photos / "red")], trained)

    def read(item):
        stored, _ = found.source.read(item)
        return stored, tf.constant(label, tf.int64)

    source = dataclasses.replace(found.source, name="set", split="test", read=read)
    message = f"^An image of set, test, has the label {label}, which is no class"
    with pytest.raises(UserError, match=message):
        probabilities(trained, source, 4)
