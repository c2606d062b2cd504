import collections

import numpy as np
import pytest
import tensorflow as tf

from zoo.data.samplers import FewLabelsSampler, ShuffledSampler

LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 50))


def minibatches(sampler, steps):
    """The minibatches of these steps, int64 `[len(steps), batch_size]`."""
    dataset = tf.data.Dataset.from_tensor_slices(np.array(steps, np.int64)).map(sampler)
    return dataset.batch(len(steps)).get_single_element().numpy()


def chi_square_deviations(counts):
    """How far `counts` lie from equally likely, in standard deviations of chi-square."""
    expected = counts.sum() / counts.size
    degrees = counts.size - 1
    return (np.sum((counts - expected) ** 2) / expected - degrees) / np.sqrt(2 * degrees)


@pytest.mark.parametrize(
    "sampler",
    [ShuffledSampler(500, 24, seed=3), FewLabelsSampler(LABELS, 3, 24, seed=3)],
    ids=["shuffled", "few_labels"],
)
class TestEverySampler:
    def test_static_shape_and_type(self, sampler):
        dataset = tf.data.Dataset.range(2).map(sampler)
        assert dataset.element_spec == tf.TensorSpec([24], tf.int64)

    def test_traced_once(self, sampler):
        traces = []

        @tf.function(input_signature=[tf.TensorSpec([], tf.int64)])
        def draw(step):
            traces.append(step)
            return sampler(step)

        for step in (0, 1, 10**12):
            draw(tf.constant(step, tf.int64))
        assert len(traces) == 1

    def test_a_minibatch_depends_on_its_step_alone(self, sampler):
        in_order = minibatches(sampler, range(50))
        alone = minibatches(sampler, [49, 7, 30])
        np.testing.assert_array_equal(alone, in_order[[49, 7, 30]])
        eager = sampler(tf.constant(7, tf.int64))
        np.testing.assert_array_equal(eager.numpy(), in_order[7])

    def test_steps_and_seeds_differ(self, sampler):
        drawn = minibatches(sampler, range(40))
        assert len({tuple(row) for row in drawn}) == 40
        if isinstance(sampler, ShuffledSampler):
            other = ShuffledSampler(500, 24, seed=4)
        else:
            other = FewLabelsSampler(LABELS, 3, 24, seed=4)
        # Two unrelated draws of 24 from 500 agree in few places.
        assert np.mean(minibatches(other, range(40)) == drawn) < 0.05


@pytest.mark.parametrize(("examples", "batch_size"), [(10, 3), (7, 7), (500, 24), (1, 1)])
def test_an_epoch_holds_every_example_once(examples, batch_size):
    sampler = ShuffledSampler(examples, batch_size, seed=-5)
    epochs = 4
    steps = -(-epochs * examples // batch_size)
    stream = minibatches(sampler, range(steps)).ravel()[: epochs * examples]
    for epoch in stream.reshape(epochs, examples):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(examples))


@pytest.mark.parametrize("examples", [10, 50])
def test_orders_of_epochs_are_uniform_and_independent(examples):
    epochs = 1500
    orders = minibatches(ShuffledSampler(examples, examples, seed=1), range(epochs))
    for place in (0, 1, examples - 1):
        counts = np.bincount(orders[:, place], minlength=examples)
        assert abs(chi_square_deviations(counts)) < 4.5
    # The pair of first examples: its second part is equally likely among the rest.
    gap = (orders[:, 1] - orders[:, 0]) % examples
    assert abs(chi_square_deviations(np.bincount(gap, minlength=examples)[1:])) < 4.5
    # The first example says nothing of the next epoch's.
    shift = (orders[1:, 0] - orders[:-1, 0]) % examples
    assert abs(chi_square_deviations(np.bincount(shift, minlength=examples))) < 4.5


def test_few_labels_minibatch_holds_equal_numbers_of_distinct_images():
    for indices in minibatches(FewLabelsSampler(LABELS, 3, 24, seed=0), range(100)):
        assert len(set(indices)) == 24
        counts = collections.Counter(LABELS[indices])
        assert sorted(counts.values()) == [8, 8, 8]


def test_few_labels_draws_labels_and_images_equally():
    drawn = minibatches(FewLabelsSampler(LABELS, 2, 4, seed=0), range(3000))
    labels = LABELS[drawn[:, ::2]]
    assert abs(chi_square_deviations(np.bincount(labels[:, 0], minlength=10))) < 4.5
    pairs = collections.Counter(map(tuple, np.sort(labels, axis=1)))
    assert len(pairs) == 45
    assert abs(chi_square_deviations(np.array(list(pairs.values())))) < 4.5
    assert abs(chi_square_deviations(np.bincount(drawn.ravel(), minlength=500))) < 4.5


def test_few_labels_takes_classes_of_different_sizes():
    labels = np.array([5] * 3 + [-2] * 40)
    drawn = minibatches(FewLabelsSampler(labels, 1, 3, seed=0), range(200))
    kinds = labels[drawn]
    assert (kinds == kinds[:, :1]).all()
    # Labels, not images, are equally likely: 100 of 200, deviation 7.
    assert abs((kinds[:, 0] == 5).sum() - 100) < 35
    for row in drawn[kinds[:, 0] == 5]:
        assert set(row) == {0, 1, 2}


def test_all_labels_and_all_images_fit():
    labels = np.repeat([0, 1, 2], 4)
    (indices,) = minibatches(FewLabelsSampler(labels, 3, 12, seed=0), [0])
    np.testing.assert_array_equal(np.sort(indices), np.arange(12))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            (2, 25),
            r"multiple of `labels_per_batch`, received batch_size=25 and labels_per_batch=2\."
            r" The nearest multiples are 24 and 26",
        ),
        ((11, 22), r"`labels_per_batch` must be at most .*, received 11 for 10 labels"),
        ((0, 22), r"`labels_per_batch` must be 1 or more, received 0"),
        ((2, 0), r"`batch_size` must be 1 or more, received 0"),
        ((1, 51), r"holds 51 distinct images of a label, but one label has only 50"),
    ],
)
def test_few_labels_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        FewLabelsSampler(LABELS, *arguments, seed=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((10, 11), r"`batch_size` must be at most .*, received 11 for 10 examples"),
        ((0, 1), r"`num_examples` must be 1 or more, received 0"),
        ((10, -1), r"`batch_size` must be 1 or more, received -1"),
    ],
)
def test_shuffled_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        ShuffledSampler(*arguments, seed=0)
