import hashlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from zoo.data import (
    Dataset,
    FewLabelsSampler,
    ShuffledSampler,
    evaluation_batches,
    pad_crop_flip,
    training_batches,
)

#: Prints the hash of what a run from step 3 on would see, in a process of its own.
HASH_IN_A_FRESH_PROCESS = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("here", sys.argv[1])
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
        augment=augment,
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


def test_another_process_sees_the_same_bits():
    command = [sys.executable, "-c", HASH_IN_A_FRESH_PROCESS, __file__]
    result = subprocess.run(command, capture_output=True, text=True)
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
