import os
import re

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from zoo.data.dataset import DatasetError
from zoo.data.decoding import Image
from zoo.data.folders import FolderOptions, is_read, open_folder


@pytest.fixture
def said():
    return []


@pytest.fixture
def opened(said):
    def opened(root, split="train", **options):
        return open_folder(str(root), split, FolderOptions(report=said.append, **options))

    return opened


def names(source):
    """Names of the files of a set, with their labels."""
    items = source.fetch(tf.range(len(source)))
    paths = [os.path.basename(path) for path in items["path"].numpy()]
    return list(zip(paths, items["label"].numpy().tolist(), strict=True))


def test_two_levels(make_folder, opened, said):
    root = make_folder(train__dogs=2, train__cats=3, val__cats=1, val__dogs=2, test__cats=1)
    train, validation = opened(root), opened(root, "evaluation")
    assert train.class_names == validation.class_names == ("cats", "dogs")
    assert sorted(train.labels) == [0, 0, 0, 1, 1]
    assert sorted(validation.labels) == [0, 1, 1]
    assert train.image_shape == (None, None, 3)
    assert len(opened(root, "val")) == 3
    assert said == []
    assert len(opened(root, "test")) == 1
    assert said == [f"warning: the class 'dogs' has no images in {root}/test"]


def test_a_share_of_each_class_is_held_out(make_folder, opened):
    root = make_folder(cats=10, dogs=5, mice=1)
    train, held_out = opened(root, seed=1), opened(root, "evaluation", seed=1)
    assert np.bincount(train.labels).tolist() == [8, 4, 1]
    assert np.bincount(held_out.labels).tolist() == [2, 1]
    assert not set(names(train)) & set(names(held_out))
    assert len({*names(train), *names(held_out)}) == 16
    assert names(opened(root, "evaluation", seed=1)) == names(held_out)
    others = [names(opened(root, "evaluation", seed=seed)) for seed in range(2, 8)]
    assert any(other != names(held_out) for other in others)
    half = opened(root, "evaluation", seed=1, held_out=0.5)
    assert np.bincount(half.labels).tolist() == [5, 2]
    assert set(names(held_out)) <= set(names(half))


def test_a_class_with_too_few_images_to_hold_one_out_is_named(make_folder, opened, said):
    root = make_folder(cats=2, dogs=1)
    opened(root)
    opened(root, "evaluation")
    beside = "to evaluate on beside those to train on"
    assert said == [f"warning: the class 'dogs' has no images in {root} {beside}"]
    (root / "cats" / "000.jpg").unlink()
    assert len(opened(root)) == 2
    message = f"^There is no image in {root} to evaluate on: no class has a usable one beside thos"
    with pytest.raises(DatasetError, match=message):
        opened(root, "evaluation")


@pytest.mark.parametrize("seed", range(6))
def test_what_is_no_image_takes_no_images_place_in_a_share(make_folder, opened, seed):
    root = make_folder(cats=6, dogs=1)
    for name in ("notes.txt", "sizes.csv", "licence"):
        (root / "dogs" / name).write_text("words")
        (root / "cats" / name).write_text("words")
    assert np.bincount(opened(root, seed=seed).labels).tolist() == [5, 1]
    assert opened(root, "evaluation", seed=seed).labels.tolist() == [0]


def test_files_are_read_and_decoded(make_folder, opened, make_picture):
    source = opened(make_folder(train__cats=2, train__dogs=2, val__cats=1))

    def whole(item):
        stored, label = source.read(item)
        image = Image(stored, 3)
        return image.window(tf.concat([[0, 0], image.size], 0)), label

    items = tf.data.Dataset.from_tensor_slices(source.fetch(tf.range(4)))
    found = list(items.map(whole).as_numpy_iterator())
    assert len(found) == 4
    for (pixels, label), (name, kind) in zip(found, names(source), strict=True):
        i = int(name[:3])
        expected = make_picture(40 + 3 * i, 60 - 2 * i, seed=100 * kind + i)
        assert label == kind
        assert np.abs(pixels.astype(int) - expected).max() <= 8


def test_the_order_is_by_chance_and_not_by_class(make_folder, opened):
    root = make_folder(cats=25, dogs=25)
    source = opened(root, seed=3)
    for half in np.split(source.labels, 2):  # 10 dogs of 20, with a deviation of 1.6
        assert 4 < np.sum(half) < 16
    assert names(opened(root, seed=3)) == names(source) != names(opened(root, seed=4))


def test_nested_hidden_linked_and_odd_names(make_folder, opened, encode, make_picture, said):
    root = make_folder(train__cats=2, train__dogs=2, val__dogs=1, val__cats=1)
    cats = root / "train" / "cats"
    (cats / "a" / "b").mkdir(parents=True)
    contents = encode(make_picture())
    (cats / "a" / "b" / "deep.JPG").write_bytes(contents)
    (cats / "wrong.png").write_bytes(contents)
    (cats / "none").write_bytes(contents)
    (cats / ".hidden.jpg").write_bytes(contents)
    (cats / "._000.jpg").write_bytes(b"resource fork")
    (cats / ".folder").mkdir()
    (cats / ".folder" / "x.jpg").write_bytes(contents)
    (cats / "a" / "circle").symlink_to(cats)
    (cats / "link.jpg").symlink_to(root / "train" / "dogs" / "000.jpg")
    with open(os.path.join(os.fsencode(cats), b"\xff\xfe.jpg"), "wb") as file:
        file.write(contents)
    (cats / "Thumbs.db").write_bytes(b"words")
    (cats / "empty.txt").touch()
    (root / "train" / "notes.txt").write_text("words")
    (root / "train" / "itself").symlink_to("itself")
    found = [name for name, label in names(opened(root)) if label == 0]
    expected = [b"000.jpg", b"001.jpg", b"deep.JPG", b"wrong.png", b"none", b"link.jpg"]
    assert sorted(found) == sorted([*expected, b"\xff\xfe.jpg"])
    assert said == [f"'cats/Thumbs.db', 'cats/empty.txt' in {root}/train left out: no image"]


def test_other_names_of_splits(make_folder, opened, said):
    root = make_folder(train__a=3, train__b=3, valid__a=1, valid__b=1, Val__a=1, extra__a=1)
    assert (len(opened(root)), len(opened(root, "evaluation"))) == (6, 2)
    assert said == [
        f"warning: 'Val', 'extra' in {root} left out: only train, validation, val, valid, test "
        "are read"
    ]


def test_a_class_may_be_called_as_a_split_is(make_folder, opened, said):
    assert opened(make_folder(Train=2, bus=2, dev=2)).class_names == ("Train", "bus", "dev")
    assert said == []


def test_images_in_the_folder_of_no_class_are_named(make_folder, opened, said):
    root = make_folder(train__cats=2, train__dogs=2, val__dogs=1, val__cats=1)
    for name in ("b.JPG", "a.png", ".c.jpg", "notes.txt"):
        (root / "train" / name).write_bytes(b"words")
    assert len(opened(root)) == 4
    opened(root, "evaluation")
    message = f"warning: 'a.png', 'b.JPG' in {root}/train left out: they lie in no class's folder"
    assert said == [message]


def test_bad_files_are_named_before_anything_begins(make_folder, opened, said):
    root = make_folder(train__cats=9, train__dogs=2, val__cats=1, val__dogs=1)
    cats = root / "train" / "cats"
    (cats / "000.jpg").write_bytes(b"")
    (cats / "001.jpg").write_bytes((cats / "001.jpg").read_bytes()[:-200])
    (cats / "002.jpg").write_bytes(b"words")
    (cats / "broken.jpg").symlink_to("nowhere")
    (cats / "itself.jpg").symlink_to("itself.jpg")
    message = (
        f"^5 of the 13 files in {re.escape(str(root))}/train cannot be used: 'cats/000.jpg' is "
        r"empty, 'cats/001.jpg' is damaged: .*, 'cats/002.jpg' is no image that can be read, "
        r"'cats/broken.jpg' cannot be read: No such file or directory, "
        r"'cats/itself.jpg' cannot be read: Too many levels of symbolic links\. Mend or "
        r"remove them, or leave them out by --config\.skip_bad_files\.$"
    )
    with pytest.raises(DatasetError, match=message):
        opened(root)
    assert len(opened(root, skip_bad_files=True)) == 8
    assert said[0].startswith(f"warning: 5 files in {root}/train left out: 'cats/000.jpg' is empty")


def test_of_many_bad_files_some_are_named(make_folder, opened):
    root = make_folder(cats=9, dogs=2)
    for path in (root / "cats").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DatasetError, match=r"'cats/\d+.jpg' is empty and 4 more\. Mend"):
        opened(root)
    message = r"There are no usable images of the class 'cats' in .*photos: remove its folder"
    with pytest.raises(DatasetError, match=message):
        opened(root, skip_bad_files=True)


@pytest.mark.parametrize(
    ("folders", "split", "message"),
    [
        (
            {},
            "train",
            r"must hold a folder of images for each of two classes or more, received \[\]",
        ),
        ({"cats": 1}, "train", r"two classes or more, received \['cats'\]\.$"),
        ({"train__cats": 2, "train__dogs": 0, "val__cats": 1}, "train", "of the class 'dogs' in"),
        ({"val__cats": 1, "val__dogs": 1}, "train", "has a folder 'val' and no folder 'train'"),
        ({"Training__a": 1, "Testing__a": 1}, "train", "a folder 'Testing' and no folder 'train'"),
        ({"Training__a": 1, "Testing__a": 1}, "all", "a folder 'Testing' and no folder 'train'"),
        ({"Train__a": 1, "b": 1}, "evaluation", "has a folder 'Train' and no folder 'train': call"),
        (
            {"train__a": 1, "train__b": 1, "val__a": 1, "val__c": 1},
            "evaluation",
            r"has folders that are no classes of the training images: c\. These are a, b\.",
        ),
        ({"a": 2, "b": 2}, "test", r"has no folder 'test' of images, only \['train'\]"),
    ],
)
def test_folders_that_cannot_be_used(tmp_path, make_folder, opened, folders, split, message):
    (tmp_path / "photos").mkdir()
    with pytest.raises(DatasetError, match=message):
        opened(make_folder(**folders), split)


@pytest.mark.parametrize(
    ("data_dir", "message"),
    [(None, "needs --config.data_dir=DIR"), ("/nowhere", "'/nowhere' is not a directory that")],
)
def test_the_folder_must_be_there(data_dir, message):
    with pytest.raises(DatasetError, match=message):
        open_folder(data_dir, "train", FolderOptions())


def test_a_class_whose_name_is_no_utf_8_is_named(make_folder, opened):
    root = make_folder(cats=1, dogs=1)
    os.mkdir(os.path.join(os.fsencode(root), b"caf\xe9"))
    with pytest.raises(DatasetError, match=r"The folder b'caf\\xe9' in .* is no UTF-8"):
        opened(root)


@pytest.mark.parametrize(
    ("folders", "path", "read"),
    [
        ({"cats": 1}, "photos", True),
        ({"cats": 1}, "photos/run", True),
        ({"cats": 1}, "link/cats/a/run", True),
        ({"cats": 1}, "photos/../photos_of_runs", False),
        ({"cats": 1}, "photos/.runs/run", False),
        ({"train__cats": 1}, "photos/run", False),
        ({"train__cats": 1}, "photos/train/run", True),
        ({"train__cats": 1}, "photos/val/run", True),
    ],
)
def test_what_counts_as_a_class_is_known_from_its_path(tmp_path, make_folder, folders, path, read):
    root = make_folder(**folders)
    (tmp_path / "link").symlink_to(root)
    assert is_read(tmp_path / path, str(root)) == read


def test_images_of_one_size_have_a_shape(tmp_path, opened, encode, make_picture):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(2):
            (tmp_path / name / f"{i}.png").write_bytes(encode(make_picture(8, 9, 1), "PNG"))
    assert opened(tmp_path, channels=1).image_shape == (8, 9, 1)


def test_the_fingerprint_is_that_of_names_and_sizes(make_folder, opened, tmp_path):
    root = make_folder(train__cats=2, train__dogs=2, val__cats=1)
    first = opened(root).fingerprint
    moved = root.rename(tmp_path / "moved")
    assert opened(moved).fingerprint == first
    assert opened(moved, seed=1).fingerprint != first  # in another order
    PIL.Image.new("RGB", (9, 9)).save(moved / "train" / "cats" / "000.jpg")
    assert opened(moved).fingerprint != first


def test_the_first_images_are_of_all_classes(make_folder, opened):
    """Also where a share of each is held out."""
    root = make_folder(**{f"c{i}": 20 for i in range(10)})
    labels = opened(root).labels
    counts = np.bincount(labels[:40], minlength=10)
    assert counts.min() >= 1
    assert counts.max() <= 9


def test_a_class_may_be_called_valid(make_folder, opened):
    assert opened(make_folder(valid=3, invalid=3)).class_names == ("invalid", "valid")


def test_classes_side_by_side_can_be_taken_as_a_whole(make_folder, opened, said):
    root = make_folder(cats=4, mice=2)
    source = opened(root, "all", classes=("mice", "dogs", "cats"))
    assert sorted(source.labels) == [0, 0, 2, 2, 2, 2]
    assert said == [f"warning: the class 'dogs' has no images in {root}"]
