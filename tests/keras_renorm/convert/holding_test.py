"""The places in which a layer keeps others."""

import collections
import functools

import keras
import pytest

from keras_renorm.convert.holding import exchange, holds, holds_in_function

L = keras.layers
Named = collections.namedtuple("Named", ["a", "b"])

OLD, NEW, OTHER = L.ReLU(name="old"), L.ReLU(name="new"), L.ReLU(name="other")


class Holder(L.Layer):
    def __init__(self, value):
        super().__init__()
        self.value = value


def new_of(layer):
    return NEW if layer is OLD else layer


@pytest.mark.parametrize(
    "make",
    [
        lambda one: one,
        lambda one: [OTHER, one],
        lambda one: (1, one),
        lambda one: Named(one, "x"),
        lambda one: {"a": one, "b": OTHER},
        lambda one: {one: 3},
        lambda one: {one},
        lambda one: [{"a": ([one], None)}],
    ],
)
def test_what_is_held_is_found_and_exchanged(make):
    holder = Holder(make(OLD))
    assert holds(holder, OLD)
    assert not holds(holder, NEW)
    exchange(holder, new_of)
    assert holder.value == make(NEW)
    assert type(holder.value).__name__ == type(Holder(make(NEW)).value).__name__


def test_what_is_not_held_leaves_all_as_it_is():
    value = [OTHER, {"a": (OTHER, 2)}]
    holder = Holder(value)
    before = holder.value, holder.value[1]["a"]
    exchange(holder, new_of)
    assert (holder.value, holder.value[1]["a"]) == before
    assert holder.value[1]["a"] is before[1]


@pytest.mark.parametrize(
    "function",
    [lambda x: OLD_HERE(x), functools.partial(map, OLD), OLD.call],
)
def test_globals_are_not_held_but_arguments_and_owners_are(function):
    expected = None if "lambda" in repr(function) else "value"
    assert holds_in_function(Holder(function), OLD) == expected


def test_what_a_function_closes_over_is_held():
    def made_with(layer):
        return lambda x: layer(x)

    assert holds_in_function(Holder([made_with(OLD)]), OLD) == "value"
    assert holds_in_function(Holder([made_with(OTHER)]), OLD) is None


OLD_HERE = OLD
