"""The graph of one model, and of the models in it, with what their calls ask for."""

import keras
import pytest

from keras_renorm import models
from keras_renorm.models import graphs

L = keras.layers


class OwnCall(keras.Model):
    """A functional model whose class has a `call`."""

    def call(self, x, training=None):
        return 2 * super().call(x, training=training)


def tower(name="tower"):
    return keras.Sequential([keras.Input((4,)), L.Dense(4, name="dense"), L.ReLU()], name=name)


def branched():
    x = keras.Input((4,))
    dense = L.Dense(4, name="dense")(x)
    return keras.Model(x, [L.ReLU(name="relu")(dense) + dense, dense])


def names(graph):
    return [use.operation.name for use in graph.uses]


def test_the_calls_in_their_order_and_who_makes_and_reads_a_tensor():
    model = branched()
    graph = graphs.graph(model)
    assert names(graph)[:2] == ["dense", "relu"]
    dense, relu, add = graph.uses
    assert graph.inputs == dense.inputs == tuple(model.inputs)
    assert graph.outputs == (add.outputs[0], dense.outputs[0])
    assert graph.maker(relu.inputs[0]) is dense
    assert graph.maker(model.inputs[0]) is None
    assert graph.readers(dense.outputs[0]) == 3  # twice in the model, and as its output
    assert graph.readers(relu.outputs[0]) == 1


@pytest.mark.parametrize(
    ("options", "training"),
    [
        ({}, None),
        ({"training": None}, None),
        ({"training": True}, True),
        ({"training": False}, False),
    ],
)
def test_what_a_call_asks_for(options, training):
    x = keras.Input((4,))
    (use,) = graphs.graph(keras.Model(x, L.BatchNormalization()(x, **options))).uses
    assert use.training is training


def test_a_tensor_may_ask_for_training():
    x, flag = keras.Input((4,)), keras.Input((), dtype="bool")
    model = keras.Model([x, flag], L.GaussianNoise(1.0)(x, training=flag[0]))
    assert graphs.graph(model).uses[-1].training is True


def test_inputs_of_a_nested_model_come_in_its_own_order():
    a, b = keras.Input((4,), name="a"), keras.Input((5,), name="b")
    inner = keras.Model([b, a], L.Concatenate()([a, b]), name="inner")
    one, two = keras.Input((4,)), keras.Input((5,))
    (use,) = graphs.graph(keras.Model([one, two], inner({"a": one, "b": two}))).uses
    assert [tensor.shape for tensor in use.inputs] == [(None, 5), (None, 4)]


def test_models_and_what_is_none(own_class):
    for one in (branched(), tower(), OwnCall(*(keras.Input((4,)),) * 2)):
        assert models.is_graph(one)
        assert graphs.graph(one) is not None
    unbuilt = keras.Sequential([L.Dense(3)])
    assert models.is_graph(unbuilt)
    assert graphs.graph(unbuilt) is None
    for other in (L.Dense(3), own_class(L.Dense(3)), keras.ops.add, None):
        assert not models.is_graph(other)
        assert graphs.graph(other) is None


def test_the_graphs_of_nested_models_come_once_each():
    inner = tower()
    x = keras.Input((3, 4))
    outer = keras.Sequential([keras.Input((4,)), inner, L.Dense(4, name="last")], name="outer")
    model = keras.Model(x, L.TimeDistributed(inner)(L.TimeDistributed(outer, name="at")(x)))
    found = [names(graph) for graph in models.graphs_in(model)]
    assert found[0][0] == "at"
    assert sorted(found[1:]) == [["dense", inner.layers[1].name], ["tower", "last"]]


def test_a_model_that_is_not_built_has_its_layers_one_after_the_other():
    model = keras.Sequential([L.Dense(4, name="one"), L.Dense(4, name="two")])
    (graph,) = models.graphs_in(model)
    assert names(graph) == ["one", "two"]
    assert graph.maker(graph.uses[1].inputs[0]) is graph.uses[0]
    assert [graph.readers(tensor) for use in graph.uses for tensor in use.outputs] == [1, 1]


@pytest.mark.parametrize("first", [True, False])
def test_a_model_called_for_training_once_is_so_in_its_graph(first):
    inner, x = tower(), keras.Input((4,))
    calls = [{"training": True}, {}] if first else [{}, {"training": True}]
    outputs = [inner(x, **options) for options in calls]
    _, graph = models.graphs_in(keras.Model(x, outputs))
    assert [use.training for use in graph.uses] == [True, True]


def test_a_call_for_inference_overrides_what_is_asked_inside():
    x = keras.Input((4,))
    inner = keras.Model(x, L.Dropout(0.5)(x, training=True))
    y = keras.Input((4,))
    _, graph = models.graphs_in(keras.Model(y, inner(y, training=False)))
    assert [use.training for use in graph.uses] == [False]


def test_the_graph_of_a_class_with_a_call_of_its_own_tells_nothing():
    x = keras.Input((4,))
    own = OwnCall(x, L.Dense(4)(x))
    assert models.graphs_in(own) == []
    y = keras.Input((4,))
    assert len(models.graphs_in(keras.Model(y, own(y)))) == 1


def test_what_is_called_by_a_layer_itself(own_class):
    dense, inner = L.Dense(4), tower()
    own = own_class(dense)
    assert models.called_by(dense) == [dense]
    assert models.called_by(inner) == [inner]
    assert models.called_by(own) == [own, dense]
    wrapper = L.TimeDistributed(own)
    assert models.called_by(wrapper) == [wrapper, own, dense]
    assert models.called_by(keras.ops.add) == [keras.ops.add]
