"""A model's calls, run one after the other, give what Keras gives; names; what is not known."""

import keras
import numpy as np
import pytest

from keras_renorm import models
from keras_renorm.layers import BatchNormalization, DomainBatchNormalization

L = keras.layers


def tower(name="tower"):
    return keras.Sequential([keras.Input((4,)), L.Dense(4, name="dense"), L.ReLU()], name=name)


def plain():
    x = keras.Input((4,))
    return keras.Model(x, L.Dense(3)(L.Add()([x, L.Dense(4)(x)])))


def shared_and_nested():
    a, b = keras.Input((4,)), keras.Input((5,))
    inner = tower()
    x = keras.Input((4,))
    outer = keras.Model(x, inner(L.Dense(4)(x)) + x, name="outer")
    c = L.Dense(4)(b)
    return keras.Model([b, a], [outer(a) * inner(c), L.Dense(2)(outer(c))])


def sequential_of_sequentials():
    return keras.Sequential([keras.Input((4,)), tower("one"), keras.Sequential([tower("two")])])


def constants_and_keywords():
    x = keras.Input((5, 4))
    attended = L.MultiHeadAttention(2, 3)(query=x, value=L.Dense(4)(x))
    return keras.Model(x, 2.0 * attended - x)


def an_input_that_is_an_output():
    x = keras.Input((4,))
    return keras.Model(x, [x, L.Dense(2)(x)])


MODELS = [
    plain,
    shared_and_nested,
    sequential_of_sequentials,
    constants_and_keywords,
    an_input_that_is_an_output,
]


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_the_calls_one_after_the_other_are_the_model(make, rng):
    """In these models the shape tells the inputs apart, and the outputs."""
    model = make()
    graph = models.calls(model)
    given = [rng.normal(size=(3, *one.shape[1:])).astype("float32") for one in model.inputs]
    of_shape = {array.shape[1:]: array for array in given}
    values = {v: of_shape[v.shape[1:]] for v in values_of(graph) if v.producer is None}
    assert len(values) == len(given)
    for call in graph.calls:
        node = next(node for node in call.operation._inbound_nodes if not node.is_input)
        tensors = dict(zip(map(id, node.input_tensors), map(values.get, call.inputs), strict=True))
        args, kwargs = node.arguments.fill_in(tensors)
        outputs = keras.tree.flatten(call.operation(*args, **kwargs))
        values.update(zip(call.outputs, outputs, strict=True))
    one_or_all = given if len(given) > 1 else given[0]
    expected = {one.shape: one for one in keras.tree.flatten(model(one_or_all))}
    outputs = {value: values[value] for value in values if value.is_output}
    assert len(outputs) == len(expected)
    for output in outputs.values():
        np.testing.assert_allclose(output, expected[output.shape], rtol=1e-5, atol=1e-6)
    assert graph.unknown == ()


def values_of(graph):
    """Every value once, inputs of the model too."""
    return list(
        dict.fromkeys(value for call in graph.calls for value in (*call.inputs, *call.outputs))
    )


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_values_know_both_sides(make):
    graph = models.calls(make())
    for call in graph.calls:
        assert all(call in value.consumers for value in call.inputs)
        assert all(value.producer is call for value in call.outputs)
    for value in values_of(graph):
        assert all(value in call.inputs for call in value.consumers)
        assert value.consumers or value.is_output


def test_calls_of_a_shared_layer_have_numbers_and_the_names_of_their_places():
    calls = models.calls(shared_and_nested()).calls
    dense = [call for call in calls if call.name.endswith("tower/dense")]
    assert [call.index for call in dense] == [0, 1, 2]
    assert len({call.operation for call in dense}) == 1
    assert sorted(call.name for call in dense) == [*["outer/tower/dense"] * 2, "tower/dense"]


def test_a_part_of_ones_own_is_one_call_and_is_said_once_if_a_norm_is_in_it(own_class):
    own = own_class(BatchNormalization(name="norm"), name="own")
    harmless = own_class(L.Dense(4), name="harmless")
    x = keras.Input((4,))
    graph = models.calls(keras.Model(x, own(harmless(own(x)))))
    assert [call.name for call in graph.calls] == ["own", "harmless", "own"]
    (sentence,) = graph.unknown
    assert sentence.startswith(
        "The order of the layers in 'own' (Own) is unknown: only functional and"
    )


def test_a_model_of_ones_own_and_one_that_is_not_built(own_class):
    graph = models.calls(own_class(L.Dense(4), name="own"))
    assert graph.calls == ()
    assert graph.unknown[0].startswith("The order of the layers in 'own' (Own) is unknown")
    graph = models.calls(keras.Sequential([L.Dense(4)], name="net"))
    assert graph.calls == ()
    assert graph.unknown == (
        "The graph of 'net' is unknown, because the Sequential model is not built. Call it once on "
        "a batch, or begin it with keras.Input.",
    )


def test_ids_and_masks_are_inputs_behind_the_first():
    x, ids = keras.Input((4,)), keras.Input((), dtype="int32")
    norm = DomainBatchNormalization(2, name="norm")
    (call,) = models.calls(keras.Model([ids, x], norm(x, domain=ids))).calls
    assert [value.shape for value in call.inputs] == [(None, 4), (None,)]


@pytest.mark.parametrize("model", [L.Dense(3), None, "model", [keras.Sequential()]])
def test_what_is_no_model_is_refused(model):
    with pytest.raises(TypeError, match=r"`model` must be a Keras model, received .* of type"):
        models.calls(model)
