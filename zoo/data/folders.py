"""Class folders: image files, each in the folder of its class."""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

from zoo.data.dataset import DatasetError
from zoo.data.decoding import Encoded
from zoo.data.inspection import Finding
from zoo.data.scan import scan
from zoo.data.sources import EVALUATION, ImageShape, Streamed

#: Folders that may hold images that are kept from training, the first of them for evaluation.
_HELD_OUT = (b"validation", b"val", b"valid", b"test")

#: What others call the folders of splits, in small letters.
_SPLITS = (b"train", b"training", *_HELD_OUT, b"testing", b"dev", b"eval", b"evaluation")

#: Names of files that are meant to be images.
_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".heic", ".avif", ".jp2"),
)

#: A message names so many files.
_NAMED = 5


@dataclasses.dataclass(frozen=True)
class FolderOptions:
    """How class folders are read.

    Attributes:
        held_out: Share of each class for evaluation, if no folder is for it.
        seed: Decides which images those are, and the order of all.
        skip_bad_files: Whether to leave out files that cannot be used, instead of refusing.
        channels: 3 for colours, 1 for grey.
        classes: The classes; by default the folders of the training images.
        report: Called with a sentence about what a user should know.
    """

    held_out: float = 0.2
    seed: int = 0
    skip_bad_files: bool = False
    channels: int = 3
    classes: tuple[str, ...] | None = None
    report: Callable[[str], None] = print


@dataclasses.dataclass(frozen=True)
class _Files:
    """The files of a split, by class.

    Attributes:
        is_shared: Whether they are training files, of which a share of the images is held out.
    """

    root: bytes
    classes: tuple[str, ...]
    paths: tuple[bytes, ...]
    labels: tuple[int, ...]
    is_shared: bool = False

    def name(self, place: int) -> bytes:
        """The path of a file from the root."""
        return self.paths[place][len(os.path.join(self.root, b"")) :]

    def only(self, places: Sequence[int]) -> "_Files":
        """The files at some places."""
        return dataclasses.replace(
            self,
            paths=tuple(self.paths[i] for i in places),
            labels=tuple(self.labels[i] for i in places),
        )


def open_folder(data_dir: str | None, split: str, options: FolderOptions) -> Streamed:
    """Opens class folders: `train/CLASS/...` and others for evaluation, or `CLASS/...`.

    The others are `validation`, `val`, `valid` and `test`, of which the first is evaluated on.
    Classes are the folders of the training images, sorted by name. Files lie in them at any depth.
    With a single level, and with a folder `train` alone, a share of the images of each class is
    held out: those with the least hashes of seed and name, so that a new file moves hardly any
    other. Every file is decoded once before anything begins, to find unusable ones.

    The images stand in the order of other hashes, random like that of TensorFlow Datasets. By
    class, the first thousands, or a minibatch of an evaluation, would be of one class.

    Args:
        data_dir: The folder.
        split: "train", "evaluation", the name of another folder than `train`, or "all" for classes
            side by side with nothing held out.
        options: See `FolderOptions`.

    Raises:
        DatasetError: If there are no such folders, or files that cannot be used.
    """
    found = _split_files(data_dir, split, options)
    if split == "train" and (loose := _loose(found.root)):
        where = _shown(found.root)
        options.report(f"warning: {_few(loose)} in {where} left out: they lie in no class's folder")
    findings = scan(found.root, found.paths)
    if found.is_shared:
        chosen = _share(found, findings, split == EVALUATION, options)
        found, findings = found.only(chosen), [findings[i] for i in chosen]
    usable = _usable(found, findings, options)
    _check_classes(found, [found.labels[i] for i in usable], split, options)
    return _streamed(found, findings, usable, split, options)


def is_read(path: str | os.PathLike[str], data_dir: str) -> bool:
    """Returns whether what lies at a path counts as a class of class folders, or as its images.

    Args:
        path: A file or folder, which need not exist.
        data_dir: The class folders, which exist.
    """
    place = os.path.realpath(os.path.expanduser(os.fsencode(path)))
    root = os.path.realpath(os.path.expanduser(os.fsencode(data_dir)))
    if os.path.commonpath([place, root]) != root:
        return False
    below = os.path.relpath(place, root).split(os.fsencode(os.sep))
    if place != root and any(map(_is_hidden, below)):
        return False
    return b"train" not in _folders(root) or below[0] in (b".", b"train", *_HELD_OUT)


def _split_files(data_dir: str | None, split: str, options: FolderOptions) -> _Files:
    """Lists the files of a split."""
    if not data_dir:
        raise DatasetError(
            "Dataset 'folder' needs --config.data_dir=DIR, a folder that holds train/CLASS/* and "
            "validation/CLASS/*, or CLASS/* alone."
        )
    root = os.path.expanduser(os.fsencode(data_dir))
    if not os.path.isdir(root):
        raise DatasetError(f"data_dir {data_dir!r} is not a directory that can be read.")
    names = _folders(root)
    train = os.path.join(root, b"train") if b"train" in names else root
    kept = [name for name in _HELD_OUT if name in names]
    if train == root:  # a folder of images alone is a class, whatever its name
        kept = [name for name in kept if _folders(os.path.join(root, name))]
    if split in map(os.fsdecode, kept) or (split == EVALUATION and kept):
        name = kept[0] if split == EVALUATION else os.fsencode(split)
        return _class_files(os.path.join(root, name), options.classes or _classes(train))
    whole = split == "all" and train == root and not kept
    if split not in ("train", EVALUATION) and not whole:
        there = ["train", *map(os.fsdecode, kept)]
        raise DatasetError(f"{data_dir} has no folder {split!r} of images, only {there}.")
    if train == root:
        _check_are_classes(data_dir, root, names)
    unread = [repr(os.fsdecode(n)) for n in names if n not in (b"train", *kept)]
    if unread and train != root and split == "train":
        options.report(
            f"warning: {_few(unread)} in {data_dir} left out: only train, "
            f"{', '.join(map(os.fsdecode, _HELD_OUT))} are read"
        )
    files = _class_files(train, options.classes or _classes(train))
    return dataclasses.replace(files, is_shared=not (kept or whole))


def _check_are_classes(data_dir: str, root: bytes, names: Sequence[bytes]) -> None:
    """Refuses folders that are named as splits are, and hold folders, as classes."""
    for name in names:
        if name.lower() in _SPLITS and _folders(os.path.join(root, name)):
            raise DatasetError(
                f"{data_dir} has a folder {os.fsdecode(name)!r} and no folder 'train': call "
                "the folder of the training images 'train', or put all classes side by side."
            )


def _folders(path: bytes) -> list[bytes]:
    """Returns the names of the folders in a folder, sorted, without hidden ones."""
    try:
        with os.scandir(path) as entries:
            return sorted(e.name for e in entries if _is_folder(e) and not _is_hidden(e.name))
    except OSError as error:
        raise DatasetError(f"{_shown(path)} cannot be read: {error.strerror}.") from error


def _loose(path: bytes) -> list[str]:
    """Returns the names of images that lie beside the folders of the classes."""
    with os.scandir(path) as entries:
        names = [e.name for e in entries if not _is_folder(e) and not _is_hidden(e.name)]
    return sorted(repr(os.fsdecode(n)) for n in names if os.fsdecode(n.lower()).endswith(_SUFFIXES))


def _is_folder(entry: os.DirEntry[bytes]) -> bool:
    return os.path.isdir(entry.path)  # entry.is_dir() raises for a link to itself


def _is_hidden(name: bytes) -> bool:
    return name.startswith(b".") or name == b"__MACOSX"


def _classes(train: bytes) -> tuple[str, ...]:
    """Returns the names of the classes."""
    names = _folders(train)
    for name in names:
        try:
            name.decode()
        except UnicodeDecodeError as error:
            raise DatasetError(
                f"The folder {name!r} in {_shown(train)!r} has a name that is no UTF-8, and "
                "cannot be the name of a class: rename it."
            ) from error
    if len(names) < 2:
        raise DatasetError(
            f"{_shown(train)} must hold a folder of images for each of two classes or more, "
            f"received {[os.fsdecode(name) for name in names]}."
        )
    return tuple(os.fsdecode(name) for name in names)


def _class_files(folder: bytes, classes: Sequence[str]) -> _Files:
    """Lists the files in the folders of the classes."""
    there = {os.fsdecode(name) for name in _folders(folder)}
    if unknown := sorted(there - set(classes)):
        raise DatasetError(
            f"{_shown(folder)} has folders that are no classes of the training images: "
            f"{_few(unknown)}. These are {_few(classes)}."
        )
    paths: list[bytes] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = files_below(os.path.join(folder, os.fsencode(name)))
        paths += found
        labels += [label] * len(found)
    return _Files(folder, tuple(classes), tuple(paths), tuple(labels))


def files_below(folder: bytes) -> list[bytes]:
    """Returns the files in a folder, at any depth, that are not hidden, sorted."""
    return sorted(_walk(folder, set()))


def _walk(folder: bytes, above: set[str | bytes]) -> Iterator[bytes]:
    """Yields the files below a folder that are not hidden; a link into a circle is not followed."""
    real = os.path.realpath(folder)
    if real in above or not os.path.isdir(folder):
        return
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        raise DatasetError(f"{_shown(folder)} cannot be read: {error.strerror}.") from error
    for entry in entries:
        if _is_hidden(entry.name):
            continue
        if _is_folder(entry):
            yield from _walk(entry.path, above | {real})
        else:
            yield entry.path


def _share(
    files: _Files, findings: Sequence[Finding], held_out: bool, options: FolderOptions
) -> list[int]:
    """Returns the places of the images held out, or of the rest, with the unusable files."""
    of_class: list[list[int]] = [[] for _ in files.classes]
    chosen: list[int] = []
    for i, (label, finding) in enumerate(zip(files.labels, findings, strict=True)):
        if not finding.problem:
            of_class[label].append(i)
        elif not held_out:
            chosen.append(i)
    for mine in of_class:
        mine.sort(key=lambda i: _draw(b"%d/%s" % (options.seed, files.name(i))))
        # At least one of each class, on both sides.
        count = min(max(1, round(options.held_out * len(mine))), max(0, len(mine) - 1))
        chosen += mine[:count] if held_out else mine[count:]
    return sorted(chosen)


def _draw(text: bytes) -> bytes:
    """A random number, which depends on a text alone."""
    return hashlib.sha256(text).digest()


def _usable(files: _Files, findings: Sequence[Finding], options: FolderOptions) -> list[int]:
    """Returns the places of the files that can be used; reports the others, or refuses them."""
    usable, bad, ignored = [], [], []
    for place, finding in enumerate(findings):
        if not finding.problem:
            usable.append(place)
            continue
        name = os.fsdecode(files.name(place))
        if finding.is_image or name.lower().endswith(_SUFFIXES):
            bad.append(f"{name!r} {finding.problem}")
        else:
            ignored.append(repr(name))
    where = _shown(files.root)
    if ignored:
        options.report(f"{_few(ignored)} in {where} left out: no image")
    if bad and not options.skip_bad_files:
        raise DatasetError(
            f"{len(bad)} of the {len(files.paths)} files in {where} cannot be used: {_few(bad)}. "
            "Mend or remove them, or leave them out by --config.skip_bad_files."
        )
    if bad:
        options.report(f"warning: {len(bad)} files in {where} left out: {_few(bad)}")
    return usable


def _shown(path: bytes) -> str:
    """A path as it may be printed, whatever bytes it has."""
    return path.decode(errors="backslashreplace")


def _few(words: Sequence[str]) -> str:
    """The first of some words, and how many there are more."""
    more = f" and {len(words) - _NAMED} more" if len(words) > _NAMED else ""
    return ", ".join(words[:_NAMED]) + more


def _check_classes(
    files: _Files, labels: Sequence[int], split: str, options: FolderOptions
) -> None:
    """Refuses a class without training images; reports one without others."""
    there = set(labels)
    empty = [repr(name) for label, name in enumerate(files.classes) if label not in there]
    where = _shown(files.root)
    held_out = files.is_shared and split == EVALUATION
    if not labels and held_out:
        raise DatasetError(
            f"There is no image in {where} to evaluate on: no class has a usable one beside those "
            "to train on. Put two images or more into the folder of each class."
        )
    if not labels or (empty and split == "train"):
        raise DatasetError(
            f"There are no usable images of the class {_few(empty)} in {where}: remove its folder, "
            "or put images into it."
        )
    if empty:
        beside = " to evaluate on beside those to train on" if held_out else ""
        options.report(f"warning: the class {_few(empty)} has no images in {where}{beside}")


def _streamed(
    files: _Files,
    findings: Sequence[Finding],
    usable: Sequence[int],
    split: str,
    options: FolderOptions,
) -> Streamed:
    """Returns the set of the files that can be used, in a random order."""
    # Not the draws of what is held out: the rest of each class would begin at its own greatest one.
    order = sorted(usable, key=lambda i: _draw(b"order/%d/%s" % (options.seed, files.name(i))))
    source = file_source(
        [files.paths[i] for i in order],
        [findings[i] for i in order],
        files.classes,
        options.channels,
        [files.labels[i] for i in order],
    )
    return dataclasses.replace(source, split=split, fingerprint=_fingerprint(files, order))


def file_source(
    paths: Sequence[bytes],
    findings: Sequence[Finding],
    classes: tuple[str, ...],
    channels: int,
    labels: Sequence[int] | None = None,
) -> Streamed:
    """Returns the images of files.

    Args:
        paths: The files.
        findings: What is known of them.
        classes: Names of the classes.
        channels: Number of channels wanted.
        labels: Numbers of their classes; 0 by default.
    """
    with tf.init_scope(), tf.device("CPU:0"):
        table = {
            "path": tf.constant(list(paths)),
            "decoder": tf.constant([finding.decoder for finding in findings]),
            "orientation": tf.constant([finding.orientation for finding in findings]),
            "label": tf.constant(labels or [0] * len(paths), tf.int64),
        }

    def fetch(indices: Any) -> Any:
        return {name: tf.gather(values, indices) for name, values in table.items()}

    def read(item: Mapping[str, Any]) -> tuple[Encoded, Any]:
        contents = tf.io.read_file(item["path"])
        return Encoded(contents, item["decoder"], item["orientation"]), item["label"]

    shape = _shape(findings, channels)
    known = table["label"].numpy()
    return Streamed("folder", "all", classes, shape, len(paths), fetch, read, lambda: known)


def _fingerprint(files: _Files, order: Sequence[int]) -> str:
    """A hash of the names and sizes of the files in their order, wherever their folder is."""
    digest = hashlib.sha256()
    for i in order:
        digest.update(b"%s %d\n" % (files.name(i), os.path.getsize(files.paths[i])))
    return digest.hexdigest()


def _shape(findings: Sequence[Finding], channels: int) -> ImageShape:
    """The shape of all images, as far as they have one."""
    sizes = {(finding.height, finding.width) for finding in findings}
    height, width = sizes.pop() if len(sizes) == 1 else (None, None)
    return height, width, channels
