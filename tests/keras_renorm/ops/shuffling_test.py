"""Orders, and exchanges among replicas that take turns in one process.

Real ones are in backends/replicas_checks.py.
"""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

if keras.backend.backend() != "tensorflow":
    pytest.skip("tf.distribute is TensorFlow's", allow_module_level=True)

import tensorflow as tf

from keras_renorm.ops import shuffling
from keras_renorm.ops.backends.tensorflow.collective import StrategyReplicas

some_sizes = st.lists(st.integers(0, 9), min_size=1, max_size=5)


class Played:
    """One of the replicas of a batch, whose collectives know what the others bring."""

    def __init__(self, index, sizes, seeds, table=None):
        self.index, self._sizes, self._seeds, self.table = index, sizes, seeds, table

    def uniform(self, count, seed):
        return StrategyReplicas(None).uniform(count, seed)

    def gather(self, own):
        assert own.dtype == tf.int64
        mine = [self._sizes[self.index], *self._seeds[self.index]]
        np.testing.assert_array_equal(own, mine)
        pairs = zip(self._sizes, self._seeds, strict=True)
        return tf.constant([[size, *seed] for size, seed in pairs], tf.int64)

    def exchange(self, rows, put, take, total):
        """The table fills as replica after replica puts; who takes before gets zeros."""
        if self.table.get("rows") is None:
            self.table["rows"] = np.zeros((int(total), *rows.shape[1:]), rows.dtype.as_numpy_dtype)
            self.table["dtype"] = rows.dtype.name
        self.table["rows"][put.numpy()] = rows.numpy()
        return tf.constant(self.table["rows"][take.numpy()])


def orders(sizes, seeds):
    """What each replica finds."""
    return [
        shuffling.shuffle_order(Played(k, sizes, seeds), size, tf.constant(seeds[k]))
        for k, size in enumerate(sizes)
    ]


def moved(function, parts, order):
    """`function` on all replicas: once to fill the table, and then again to read it."""
    table = {}
    sizes = [len(part) for part in parts]
    for _ in range(2):
        results = [
            function(Played(k, sizes, None, table), part, order) for k, part in enumerate(parts)
        ]
    return results, table["dtype"]


def split(x, sizes):
    return tf.split(tf.constant(x), sizes)


@given(some_sizes, st.integers(-(2**62), 2**62))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_an_order_is_a_permutation_by_the_seed_of_replica_0(sizes, seed):
    total = sum(sizes)
    seeds = [[seed, 7]] + [[seed + k, k] for k in range(1, len(sizes))]
    first, *others = orders(sizes, seeds)
    assert (first.shape, first.dtype) == ((total, 2), tf.int32)
    holders, sources = first.numpy().T
    np.testing.assert_array_equal(holders, np.repeat(range(len(sizes)), sizes))
    np.testing.assert_array_equal(np.sort(sources), range(total))
    for other in [*others, orders([total], seeds[:1])[0]]:
        np.testing.assert_array_equal(other[:, 1], sources)


def test_seeds_and_both_their_numbers_make_the_order():
    found = {tuple(orders([50], [seed])[0][:, 1].numpy()) for seed in ([1, 2], [1, 3], [2, 2])}
    assert len(found) == 3


def test_every_replica_gets_of_every_replica():
    """Of 10,000 examples on four replicas 625 go from each to each: within 5 deviations."""
    order = orders([2500] * 4, [[5, 0]] * 4)[0].numpy()
    counts = np.zeros((4, 4))
    np.add.at(counts, (order[:, 0], order[:, 1] // 2500), 1)
    np.testing.assert_allclose(counts, 625, rtol=0, atol=5 * np.sqrt(625 * 0.75 * 0.75))


@given(some_sizes, st.integers(0, 2**31))
@settings(max_examples=15, deadline=None, derandomize=True)
def test_rows_go_where_the_order_says_and_come_back(sizes, seed):
    x = np.arange(3 * sum(sizes), dtype="f4").reshape(-1, 3)
    order = orders(sizes, [[seed, 0]] * len(sizes))[0]
    there, _ = moved(shuffling.shuffle, split(x, sizes), order)
    assert [len(part) for part in there] == sizes
    np.testing.assert_array_equal(np.concatenate(there), x[order[:, 1].numpy()])
    back, _ = moved(shuffling.unshuffle, there, order)
    np.testing.assert_array_equal(np.concatenate(back), x)


EXTREMES = {
    "bool": [True, False, True],
    "int8": [-128, 0, 127],
    "uint8": [0, 1, 255],
    "int16": [-(2**15), 0, 2**15 - 1],
    "uint16": [0, 1, 2**16 - 1],
    "int32": [-(2**31), 0, 2**31 - 1],
    "uint32": [0, 1, 2**32 - 1],
    "int64": [-(2**63), 2**53 + 1, 2**63 - 1],
    "uint64": [0, 2**53 + 1, 2**64 - 1],
    "float8_e4m3fn": [-448, 2**-9, 0.5],
    "float16": [-65504, 2**-24, np.inf],
    "float32": [-3e38, 1e-45, np.inf],
    "float64": [-1e308, 5e-324, np.pi],
}


@pytest.mark.parametrize(("dtype", "values"), EXTREMES.items(), ids=EXTREMES)
def test_no_value_of_a_type_is_lost_on_the_way(dtype, values):
    x = tf.constant(values, dtype).numpy()
    order = tf.constant([[0, 2], [0, 0], [1, 1]])
    there, carried = moved(shuffling.shuffle, split(x, [2, 1]), order)
    assert {part.dtype for part in there} == {tf.as_dtype(dtype)}
    np.testing.assert_array_equal(np.concatenate(there), x[[2, 0, 1]])
    # Collectives on GPUs take no others.
    assert carried in ("float16", "bfloat16", "float32", "float64", "int32", "int64")


@pytest.mark.parametrize("dtype", ["string", "complex64"])
@pytest.mark.parametrize("function", [shuffling.shuffle, shuffling.unshuffle])
def test_what_is_no_number_is_named(dtype, function):
    rows = tf.zeros(2, dtype)
    message = f"Only numbers and booleans can be shuffled among replicas, received dtype {dtype}"
    with pytest.raises(TypeError, match=message):
        function(Played(0, [2], None, {}), rows, tf.constant([[0, 1], [0, 0]]))


ORDER = [[0, 1], [0, 0]]
BAD = {
    "no replicas": ((None, [1.0, 2.0], ORDER), TypeError, "`replicas` must be those of .* None"),
    "no rows": ((1, None, ORDER), TypeError, "`rows` must be a tensor, .* received None of type"),
    "text": ((1, "ab", ORDER), TypeError, "`rows` must be a tensor, .* received 'ab' of type str"),
    "scalar": ((1, 3.0, ORDER), ValueError, r"received shapes \(\) and \(2, 2\)"),
    "no order": ((1, [1.0, 2.0], None), TypeError, "`order` must be a tensor, .* received None"),
    "floats": (
        (1, [1.0, 2.0], [[0.0, 1.0]]),
        TypeError,
        "`order` must hold integers, .* float32",
    ),
    "one column": ((1, [1.0, 2.0], [[0], [1]]), ValueError, r"received shapes \(2,\) and \(2, 1\)"),
}


@pytest.mark.parametrize("function", [shuffling.shuffle, shuffling.unshuffle])
@pytest.mark.parametrize(("given", "error", "message"), BAD.values(), ids=BAD)
def test_what_cannot_be_shuffled_is_named(function, given, error, message):
    replicas, *others = given
    with pytest.raises(error, match=message):
        function(replicas and Played(0, [2], None, {}), *others)


@pytest.mark.parametrize(
    ("seed", "error", "message"),
    [
        (None, TypeError, "`seed` must be a tensor, .* received None"),
        ([0.5, 1.0], TypeError, "`seed` must hold integers, received dtype float32"),
        (3, ValueError, r"`seed` must be two integers, received shape \(\)"),
        ([1, 2, 3], ValueError, r"`seed` must be two integers, received shape \(3,\)"),
    ],
)
def test_what_is_no_seed_is_named(seed, error, message):
    with pytest.raises(error, match=message):
        shuffling.shuffle_order(Played(0, [2], [[1, 2]]), 2, seed)
    with pytest.raises(TypeError, match=r"`replicas` must be those of .* received None"):
        shuffling.shuffle_order(None, 2, seed)
