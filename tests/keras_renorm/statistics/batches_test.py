import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_renorm.statistics.batches import Batches, is_one_shot, split

X = np.arange(20, dtype="f4").reshape(10, 2)
Y = np.arange(10)


class Sequence(keras.utils.PyDataset):
    def __init__(self, num_batches):
        super().__init__()
        self._num_batches = num_batches

    @property
    def num_batches(self):
        return self._num_batches

    def __getitem__(self, index):
        start = 4 * (index % 3)
        return X[start : start + 4], Y[start : start + 4]


DATASETS = {
    "tf": lambda: tf.data.Dataset.from_tensor_slices(X).batch(4),
    "tf pairs": lambda: tf.data.Dataset.from_tensor_slices((X, Y)).batch(4),
    "tf triples": lambda: tf.data.Dataset.from_tensor_slices((X, Y, Y)).batch(4),
    "array": lambda: X,
    "tensor": lambda: tf.constant(X),
    "list": lambda: [X[:4], (X[4:8],), (tf.constant(X[8:]), Y[8:])],
    "iterator": lambda: iter([X[:4], X[4:8], X[8:]]),
    "PyDataset": lambda: Sequence(3),
}


def joined(batches):
    return np.concatenate([x for x, _ in batches])


@pytest.mark.parametrize("dataset", DATASETS.values(), ids=DATASETS)
@pytest.mark.parametrize("num_samples", [None, 3, 4, 10])
@pytest.mark.parametrize("batch_size", [None, 1, 3, 20])
def test_all_kinds_give_the_same_examples_twice(dataset, num_samples, batch_size):
    batches = Batches(dataset(), num_samples, batch_size, keep=True)
    for _ in range(2):
        np.testing.assert_array_equal(joined(batches), X[:num_samples])
    sizes = [size for _, size in batches]
    assert sizes == [len(x) for x, _ in batches]
    if batch_size is not None:
        assert set(sizes[:-1]) <= {batch_size}
    assert batches.examples == (num_samples or 10)
    assert batches.is_one == (len(sizes) == 1)


@pytest.mark.parametrize("dataset", DATASETS.values(), ids=DATASETS)
def test_a_single_pass_keeps_nothing(dataset):
    batches = Batches(dataset(), None, None, keep=False)
    assert not batches.is_one
    np.testing.assert_array_equal(joined(batches), X)
    assert batches.examples == 10
    assert list(batches) == []


def test_shuffled_datasets_are_read_once():
    dataset = tf.data.Dataset.range(100).shuffle(100).batch(10)
    batches = Batches(dataset, 20, None, keep=True)
    np.testing.assert_array_equal(joined(batches), joined(batches))


@pytest.mark.parametrize("batch_size", [None, 3])
def test_several_inputs(batch_size):
    both = {"a": X, "b": Y}
    dataset = tf.data.Dataset.from_tensor_slices((both, Y)).batch(4)
    for source in (both, dataset, [({"a": X, "b": Y}, Y)]):
        batches = list(Batches(source, 9, batch_size, keep=True))
        np.testing.assert_array_equal(np.concatenate([x["a"] for x, _ in batches]), X[:9])
        np.testing.assert_array_equal(np.concatenate([x["b"] for x, _ in batches]), Y[:9])


def test_endless_datasets_need_a_number():
    dataset = tf.data.Dataset.from_tensor_slices(X).batch(4).repeat()
    for endless in (dataset, Sequence(None)):
        assert len(joined(Batches(endless, 25, None, keep=True))) == 25
        with pytest.raises(ValueError, match="The dataset has no end, so `num_samples` must set"):
            Batches(endless, None, None, keep=True)


def endless():
    while True:
        yield X


@pytest.mark.parametrize(
    "dataset",
    [endless, lambda: tf.data.Dataset.from_generator(endless, "float32", (10, 2))],
    ids=["generator", "tf"],
)
@pytest.mark.parametrize("keep", [True, False])
def test_what_may_have_no_end_is_bounded_and_says_so(dataset, keep):
    message = (
        r"may have no end\. The statistics use its first 10,000 examples\. Write num_samples=10000"
    )
    with pytest.warns(UserWarning, match=message):
        found = joined(Batches(dataset(), None, None, keep=keep))
    assert len(found) == 10_000
    assert len(joined(Batches(dataset(), 10_010, None, keep=keep))) == 10_010  # as asked


@pytest.mark.parametrize("number", [999, 1000])
def test_generators_that_end_in_time_are_taken_whole(number):
    batches = Batches((X for _ in range(number)), None, 64, keep=True)
    assert len(joined(batches)) == 10 * number


def test_what_says_its_length_is_not_bounded():
    for dataset in ([X] * 1001, iter([X] * 1001), np.tile(X, (1001, 1))):
        assert len(joined(Batches(dataset, None, None, keep=True))) == 10_010


def test_batches_are_joined_and_parted():
    batches = Batches([{"a": X[:3], "b": Y[:3]}, {"a": X[3:], "b": Y[3:]}], None, None, keep=True)
    assert not batches.part()
    x, size = batches.few()
    assert (size, len(x["a"])) == (3, 3)
    assert batches.join()
    assert batches.is_one
    ((x, size),) = batches
    assert size == 10
    np.testing.assert_array_equal(x["a"], X)
    np.testing.assert_array_equal(x["b"], Y)
    assert batches.part()
    assert [(len(x["a"]), size) for x, size in batches] == [(3, 3), (7, 7)]
    np.testing.assert_array_equal(np.concatenate([x["a"] for x, _ in batches]), X)


@pytest.mark.parametrize("other", [X[:, :1], X.astype("f8")])
def test_batches_of_other_shapes_or_types_are_not_joined(other):
    batches = Batches([X, other], None, None, keep=True)
    assert not batches.join()
    assert [size for _, size in batches] == [10, 10]


def test_a_few_are_no_more_than_32():
    x, size = Batches(np.tile(X, (5, 1)), None, 50, keep=True).few()
    assert size == len(x) == 32


@pytest.mark.parametrize("dataset", [(X, Y), 3, None, "images.npz"])
def test_other_things_are_refused(dataset):
    with pytest.raises(TypeError, match=r"must be a tf.data.Dataset of batches, .* give x alone"):
        Batches(dataset, None, None, keep=True)


def test_bad_batches():
    with pytest.raises(ValueError, match=r"not batched, write `dataset\.batch"):
        Batches(tf.data.Dataset.range(4), None, None, keep=True)
    with pytest.raises(ValueError, match=r"batch 1 has inputs of shapes \[\(4, 2\), \(5,\)\]"):
        Batches([X, ((X[:4], Y[:5]),)], None, None, keep=True)
    sparse = tf.data.Dataset.from_tensors(tf.sparse.from_dense(X))
    for source in (sparse, [tf.sparse.from_dense(X)]):
        with pytest.raises(TypeError, match=r"received a SparseTensor .*\. Write `data"):
            Batches(source, None, None, keep=True)
    with pytest.raises(ValueError, match="only if their examples have the same shape"):
        Batches([X, X[:, :1]], None, 15, keep=True)


def test_texts():
    dataset = tf.data.Dataset.from_tensor_slices(["a", "b", "c"]).batch(2)
    assert joined(Batches(dataset, 3, None, keep=True)).tolist() == [b"a", b"b", b"c"]


@pytest.mark.parametrize("batch_size", [None, 2, 5])
def test_ragged_batches(batch_size):
    rows = tf.RaggedTensor.from_row_lengths(X[:9], [2, 0, 3, 1, 3])
    for dataset in (rows, [rows[:3], rows[3:]], tf.data.Dataset.from_tensor_slices(rows).batch(3)):
        batches = Batches(dataset, 4, batch_size, keep=True)
        sizes = [size for x, size in batches]
        assert sum(sizes) == batches.examples == 4
        assert [row for x, _ in batches for row in x.to_list()] == rows[:4].to_list()
        assert batch_size != 2 or sizes == [2, 2]
        assert batches.join()
        assert batches.is_one
        assert [row for x, _ in batches for row in x.to_list()] == rows[:4].to_list()


def test_split():
    parts = split(X, 10, 3)
    assert [len(part) for part, _ in parts] == [3, 3, 4]
    assert [weight for _, weight in parts] == [1, 1, 1]
    np.testing.assert_array_equal(np.concatenate([part for part, _ in parts]), X)
    few = split(X[:2], 2, 3)
    assert [len(part) for part, _ in few] == [1, 1, 1]
    assert sorted(weight for _, weight in few) == [0, 1, 1]
    kept = np.concatenate([part for part, weight in few if weight])
    np.testing.assert_array_equal(kept, X[:2])


def test_one_shot():
    assert is_one_shot(iter([X]))
    assert not any(is_one_shot(one) for one in (X, [X], Sequence(3), DATASETS["tf"]()))
