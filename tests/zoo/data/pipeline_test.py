import hashlib

import numpy as np
import pytest
import tensorflow as tf

from zoo.data import (
    Augmentation,
    Dataset,
    FewLabelsSampler,
    FolderOptions,
    Preparation,
    ShuffledSampler,
    evaluation_batches,
    open_split,
    pad_crop_flip,
    training_batches,
)
from zoo.data.sources import Streamed

#: Prints, in its own process, the hash of what a run from step 3 on would see.
HASH_IN_A_FRESH_PROCESS = """
import importlib.util
spec = importlib.util.spec_from_file_location("here", FILE)
here = importlib.util.module_from_spec(spec)
spec.loader.exec_module(here)
print(here.hash_of(here.make_batches(start_step=3)))
"""


def make_dataset(count=100):
    images = np.random.default_rng(0).integers(0, 256, (count, 8, 6, 3)).astype(np.uint8)
    return Dataset("made_up", "train", images, np.arange(count) % 4, tuple("abcd"))


def make_batches(start_step=0, num_steps=12, augment=True, seed=5, few_labels=False):
    dataset = make_dataset()
    sampler = ShuffledSampler(len(dataset), 16, seed=1)
    if few_labels:
        sampler = FewLabelsSampler(dataset.labels, 2, 16, seed=1)
    return training_batches(
        dataset,
        sampler,
        start_step=start_step,
        num_steps=num_steps,
        augmentation=Augmentation("pad", flip=True) if augment else Augmentation(),
        seed=seed,
    )


def as_arrays(batches):
    return [tuple(batch) for batch in batches.as_numpy_iterator()]


def hash_of(batches):
    digest = hashlib.sha256()
    for images, labels in as_arrays(batches):
        digest.update(images.tobytes() + labels.tobytes())
    return digest.hexdigest()


def test_batches_are_the_samplers_images_scaled():
    dataset = make_dataset()
    sampler = ShuffledSampler(len(dataset), 16, seed=1)
    batches = as_arrays(make_batches(augment=False))
    assert len(batches) == 12
    for step, (images, labels) in enumerate(batches):
        indices = sampler(tf.constant(step, tf.int64)).numpy()
        assert images.dtype == np.float32
        np.testing.assert_allclose(images, dataset.images[indices] / 255.0, rtol=1e-6)
        np.testing.assert_array_equal(labels, dataset.labels[indices])


def test_augmentation_takes_seed_and_step():
    dataset = make_dataset()
    batches = as_arrays(make_batches(augment=True))
    for step in (0, 11):
        indices = ShuffledSampler(len(dataset), 16, seed=1)(tf.constant(step, tf.int64)).numpy()
        changed = pad_crop_flip(dataset.images[indices], tf.constant([5, step], tf.int64)).numpy()
        np.testing.assert_allclose(batches[step][0], changed / 255.0, rtol=1e-6)
        assert np.any(changed != dataset.images[indices])


def test_static_shapes_types_and_range():
    spec = make_batches().element_spec
    assert spec == (tf.TensorSpec([16, 8, 6, 3]), tf.TensorSpec([16], tf.int64))
    images = np.concatenate([images for images, _ in as_arrays(make_batches())])
    assert images.min() == 0.0
    assert images.max() == 1.0


@pytest.mark.parametrize("few_labels", [False, True])
@pytest.mark.parametrize("augment", [False, True])
def test_a_resumed_run_sees_the_same_bits(few_labels, augment):
    whole = as_arrays(make_batches(augment=augment, few_labels=few_labels))
    resumed = as_arrays(make_batches(start_step=7, augment=augment, few_labels=few_labels))
    assert len(resumed) == 5
    for (images, labels), (resumed_images, resumed_labels) in zip(whole[7:], resumed, strict=True):
        np.testing.assert_array_equal(images, resumed_images)
        np.testing.assert_array_equal(labels, resumed_labels)


def test_another_process_sees_the_same_bits(run_warm_python):
    result = run_warm_python(HASH_IN_A_FRESH_PROCESS.replace("FILE", repr(__file__)))
    assert result.returncode == 0, result.stderr
    assert result.stdout.split()[-1] == hash_of(make_batches(start_step=3))
    assert hash_of(make_batches(start_step=3, seed=6)) != hash_of(make_batches(start_step=3))


def test_no_steps_left_give_no_batches():
    assert as_arrays(make_batches(start_step=12)) == []


@pytest.mark.parametrize("start_step", [-1, 13])
def test_start_step_is_checked(start_step):
    message = rf"`start_step` must be in \[0, num_steps\], received start_step={start_step} and"
    with pytest.raises(ValueError, match=message):
        make_batches(start_step=start_step)


@pytest.mark.parametrize(("batch_size", "sizes"), [(32, [32, 32, 32, 4]), (100, [100])])
def test_evaluation_sees_each_example_once_in_order(batch_size, sizes):
    dataset = make_dataset()
    batches = as_arrays(evaluation_batches(dataset, batch_size))
    assert [len(labels) for _, labels in batches] == sizes
    images = np.concatenate([images for images, _ in batches])
    assert images.dtype == np.float32
    np.testing.assert_allclose(images, dataset.images / 255.0, rtol=1e-6)
    np.testing.assert_array_equal(np.concatenate([y for _, y in batches]), dataset.labels)


def test_evaluation_batch_size_is_checked():
    with pytest.raises(ValueError, match="`batch_size` must be 1 or more, received 0"):
        evaluation_batches(make_dataset(), 0)


EVERYTHING = [
    Augmentation(),
    Augmentation("pad", flip=True, erasing=0.5),
    Augmentation("inception", flip=True, colour=0.5),
    Augmentation("none", mixup=0.4),
    Augmentation("inception", mixup=0.4, cutmix=1.0),
]


@pytest.fixture
def photos(make_folder):
    root = make_folder(train__cats=5, train__dogs=6, train__mice=5, val__cats=3, val__dogs=4)
    return lambda split: open_split(
        "folder", split, str(root), FolderOptions(report=lambda text: None)
    )


def changed_batches(source, augmentation, start_step=0, part=(0, 1), few_labels=False):
    sampler = ShuffledSampler(len(source), 6, seed=1)
    if few_labels:
        sampler = FewLabelsSampler(source.labels, 2, 6, seed=1)
    return training_batches(
        source,
        sampler,
        start_step=start_step,
        num_steps=5,
        augmentation=augmentation,
        seed=3,
        preparation=Preparation(size=12),
        part=part,
    )


# Samplers only give numbers: both go with the change that takes images in pairs.
@pytest.mark.parametrize(
    ("augmentation", "few_labels"),
    [*((change, False) for change in EVERYTHING), (EVERYTHING[-1], True)],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_minibatches_are_functions_of_the_step_whoever_makes_them(
    photos, augmentation, streamed, few_labels
):
    """A run that resumes sees the same bits, and so do workers that make a part each."""
    source = photos("train") if streamed else make_dataset()
    whole = as_arrays(changed_batches(source, augmentation, few_labels=few_labels))
    assert len(whole) == 5
    resumed = as_arrays(changed_batches(source, augmentation, 3, few_labels=few_labels))
    for one, other in zip(whole[3:], resumed, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])
    # Four workers have unequal parts of 6 rows. A mixture at the end needs the first row.
    for worker in (0, 3):
        made = as_arrays(changed_batches(source, augmentation, 3, (worker, 4), few_labels))
        rows = slice(worker * 6 // 4, (worker + 1) * 6 // 4)
        others = np.delete(np.arange(6), rows)
        for (images, labels), (part, part_labels) in zip(whole[3:], made, strict=True):
            np.testing.assert_array_equal(part[rows], images[rows])
            np.testing.assert_array_equal(part_labels[rows], labels[rows])
            assert not np.any(part[others])


@pytest.mark.parametrize("augmentation", [change for change in EVERYTHING if not change.one_by_one])
def test_images_are_changed_alike_in_memory_and_streamed(augmentation):
    kept = make_dataset()
    streamed = Streamed(
        *(kept.name, kept.split, kept.class_names, kept.image_shape, len(kept)),
        *(kept.fetch, kept.read, lambda: kept.labels),
    )
    made = [as_arrays(changed_batches(source, augmentation)) for source in (kept, streamed)]
    for one, other in zip(*made, strict=True):
        np.testing.assert_allclose(one[0], other[0], atol=1e-6)
        np.testing.assert_array_equal(one[1], other[1])


@pytest.mark.parametrize("augmentation", EVERYTHING)
def test_shapes_are_known_and_pixels_in_range(photos, augmentation):
    batches = changed_batches(photos("train"), augmentation)
    labels = tf.TensorSpec([6, 3]) if augmentation.mixes else tf.TensorSpec([6], tf.int64)
    assert batches.element_spec == (tf.TensorSpec([6, 12, 12, 3]), labels)
    images = np.concatenate([images for images, _ in as_arrays(batches)])
    assert images.min() >= 0
    assert images.max() <= 1


def test_images_of_a_minibatch_have_draws_of_their_own():
    images = np.full((20, 8, 8, 3), 100, np.uint8)
    source = Dataset("grey", "train", images, np.zeros(20, np.int64), ("a", "b"))
    for augmentation in (Augmentation(colour=1.0), Augmentation(erasing=1.0)):
        [*_, (made, _)] = as_arrays(changed_batches(source, augmentation))
        assert len({image.tobytes() for image in made}) == 6


def test_mixed_labels_are_those_of_the_mixed_images():
    images = np.arange(40, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 1), np.uint8)
    source = Dataset("numbers", "train", images, np.arange(40) % 20, tuple(map(str, range(20))))
    sampler = ShuffledSampler(40, 6, seed=1)
    options = {"start_step": 2, "num_steps": 3, "seed": 3}
    for augmentation in (Augmentation(mixup=1.0), Augmentation(cutmix=1.0)):
        batches = training_batches(source, sampler, augmentation=augmentation, **options)
        [(made, targets)] = as_arrays(batches)
        drawn = sampler(tf.constant(2, tf.int64)).numpy()
        for i in range(6):
            first, second = drawn[i], drawn[(i + 1) % 6]
            share = targets[i, first % 20]
            assert np.sum(targets[i]) == pytest.approx(1, abs=1e-6)
            assert targets[i, second % 20] == pytest.approx(1 - share, abs=1e-6)
            mean = (share * first + (1 - share) * second) / 255
            assert np.mean(made[i]) == pytest.approx(mean, abs=1e-5)


def test_a_worker_with_more_rows_of_the_last_batch_evaluates_them():
    """Of 8 rows the third of five workers has one, of 7 two."""
    pixels = np.arange(1, 16)
    source = Streamed(
        name="numbers",
        split="test",
        class_names=tuple("abcd"),
        image_shape=(1, 1, 1),
        length=15,
        fetch=lambda indices: indices,
        read=lambda i: (tf.cast(tf.fill([1, 1, 1], i + 1), tf.uint8), (i + 1) % 4),
        find_labels=lambda: pixels % 4,
    )
    found = np.zeros(15)
    for worker in range(5):
        made = as_arrays(evaluation_batches(source, 8, part=(worker, 5)))
        for start, (images, labels) in zip((0, 8), made, strict=True):
            rows = slice(worker * len(labels) // 5, (worker + 1) * len(labels) // 5)
            found[start:][rows] = 255 * images[rows].ravel()
    np.testing.assert_allclose(found, pixels)


@pytest.mark.parametrize("workers", [2, 5])
@pytest.mark.parametrize("streamed", [False, True])
def test_workers_evaluate_a_part_each(photos, workers, streamed):
    source = photos("evaluation") if streamed else make_dataset(7)
    prepare = Preparation(size=8, crop_share=0.9)
    whole = as_arrays(evaluation_batches(source, 5, prepare))
    assert [len(labels) for _, labels in whole] == [5, 2]
    np.testing.assert_array_equal(np.concatenate([y for _, y in whole]), source.labels)
    for worker in range(workers):
        made = as_arrays(evaluation_batches(source, 5, prepare, (worker, workers)))
        for (images, labels), (all_images, all_labels) in zip(made, whole, strict=True):
            total = len(all_labels)
            assert len(labels) == total
            rows = slice(worker * total // workers, (worker + 1) * total // workers)
            np.testing.assert_array_equal(images[rows], all_images[rows])
            np.testing.assert_array_equal(labels[rows], all_labels[rows])
