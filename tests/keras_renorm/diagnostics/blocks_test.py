"""Which path of an addition is the skip path, and how the blocks are counted, written by hand."""

import keras
import pytest

from keras_renorm.diagnostics.blocks import residual_blocks
from keras_renorm.layers import BatchNormalization, DomainBatchNormalization
from keras_renorm.models import calls as graph

L = keras.layers


def found(model):
    """Name, skip path and number of each block and the name of its first; undecided names."""
    blocks, undecided = residual_blocks(graph(model))
    rows = [(block.call.name, block.skip, block.index, block.first.name) for block in blocks]
    return rows, [call.name for call in undecided]


def dense(x, calls=1):
    for _ in range(calls):
        x = L.Dense(4)(x)
    return x


def add(name, *inputs):
    return L.Add(name=name)(list(inputs))


@pytest.mark.parametrize("depth", [1, 2, 7])
@pytest.mark.parametrize("skip", [0, 1])
def test_the_identity_is_the_skip_path_on_either_side(depth, skip):
    x = inputs = keras.Input((4,))
    for name in "abc":
        x = add(name, *[x, dense(x, depth)][:: 1 if skip == 0 else -1])
    assert found(keras.Model(inputs, x)) == (
        [("a", skip, 1, "a"), ("b", skip, 2, "a"), ("c", skip, 3, "a")],
        [],
    )


def test_a_projection_is_the_shorter_path_and_the_count_goes_on_through_it():
    x = inputs = keras.Input((4,))
    x = add("a", dense(x, 2), x)
    x = add("b", dense(x, 3), dense(x))
    y = L.ReLU()(x)
    x = add("c", dense(y, 3), dense(y, 2))
    rows = [("a", 1, 1, "a"), ("b", 1, 2, "a"), ("c", 1, 3, "a")]
    assert found(keras.Model(inputs, x)) == (rows, [])


@pytest.mark.parametrize(
    "interrupt",
    [
        BatchNormalization,
        L.BatchNormalization,
        lambda: lambda x: L.Concatenate()([x, x]),
        lambda: lambda x: add("undecided", x, x),
    ],
    ids=["ours", "keras", "concatenation", "undecided"],
)
def test_the_count_begins_anew_behind_a_norm_and_behind_several_paths(interrupt):
    x = inputs = keras.Input((4,))
    x = add("a", x, dense(x))
    x = add("b", x, dense(x))
    x = interrupt()(x)
    x = add("c", x, L.Dense(x.shape[-1])(x))
    x = add("d", x, L.Dense(x.shape[-1])(x))
    rows, _ = found(keras.Model(inputs, x))
    assert rows == [("a", 0, 1, "a"), ("b", 0, 2, "a"), ("c", 0, 1, "c"), ("d", 0, 2, "c")]


def test_equal_paths_and_paths_that_never_met_are_undecided():
    x, y = keras.Input((4,)), keras.Input((4,))
    twice = add("twice", x, x)
    equal = add("equal", dense(twice), dense(twice))
    model = keras.Model([x, y], add("apart", equal, dense(y, 3)))
    assert found(model) == ([], ["twice", "equal", "apart"])


def test_two_outputs_of_one_call_part_before_it():
    x = keras.Input((8,))
    halves = keras.ops.split(x, 2, axis=-1)
    model = keras.Model(x, add("sum", halves[0], dense(halves[1])))
    assert found(model) == ([("sum", 0, 1, "sum")], [])


def test_additions_of_other_than_two_tensors_are_no_blocks():
    x = inputs = keras.Input((4,))
    x = L.Add(name="three")([x, dense(x), dense(x, 2)])
    x = x + 1.0
    model = keras.Model(inputs, L.Subtract()([x, dense(x)]))
    assert found(model) == ([], [])


def test_a_nested_model_that_is_called_again_goes_on_counting():
    x = keras.Input((4,))
    stage = keras.Model(x, add("add", x, dense(x)), name="stage")
    x = keras.Input((4,))
    rows, _ = found(keras.Model(x, stage(stage(stage(x)))))
    assert rows == [("stage/add", 0, index, "stage/add") for index in (1, 2, 3)]


def test_a_model_without_additions():
    assert found(keras.Sequential([keras.Input((4,)), L.Dense(4)])) == ([], [])


def domains(ids):
    return lambda x: DomainBatchNormalization(2)(x, domain=ids)


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("relu", [True, False])
def test_what_a_norm_is_told_of_domains_is_no_path(relu, first):
    """The ids are near the end of each path, and before the skip path's beginning."""
    x, ids = keras.Input((4,)), keras.Input((), dtype="int32")
    inputs, norm = [x, ids][:: 1 if first == 0 else -1], domains(ids)
    x = add("projected", norm(dense(L.ReLU()(norm(dense(x))))), norm(dense(x)))
    for name in "abc":
        x = L.ReLU()(x) if relu else x
        x = add(name, x, norm(dense(L.ReLU()(norm(dense(x))))))
    rows, undecided = found(keras.Model(inputs, x))
    assert [row[:3] for row in rows] == [("projected", 1, 1), ("a", 0, 2), ("b", 0, 3), ("c", 0, 4)]
    assert undecided == []


def test_a_gate_of_the_branch_is_no_shorter_path():
    """The gate comes from before the skip path begins, and is nearer to the addition."""
    inputs = keras.Input((4,))
    gate = L.Dense(4, activation="sigmoid")(inputs)
    x = dense(inputs)
    for name in "ab":
        x = add(name, x, L.Multiply()([dense(x, 3), gate]))
    assert found(keras.Model(inputs, x)) == ([("a", 0, 1, "a"), ("b", 0, 2, "a")], [])
