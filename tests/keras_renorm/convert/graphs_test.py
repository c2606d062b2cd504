import keras
import numpy as np
import pytest

from keras_renorm import convert, layers

L = keras.layers
BN = layers.BatchNormalization


def test_a_call_for_training_stays(spread, norms, notes):
    inputs = keras.Input((5,))
    hidden = L.Dense(4)(inputs)
    hidden = BN(name="asked")(hidden, training=True)
    hidden = L.Dense(4)(hidden)
    hidden = L.Dropout(0.5, seed=1)(hidden, training=True)
    model = spread(keras.Model(inputs, BN(name="after")(hidden)))
    reports = []
    new_model = convert.fold(model, report=reports.append)
    assert notes(reports[0]) == {
        "asked": "called with `training`, so not in inference",
        "after": "affine: follows Dropout",
    }
    assert [type(norm) for norm in norms(new_model)] == [BN, L.BatchNormalization]
    # In inference mode, as with trainable=False, it would not be.
    assert [norm.trainable for norm in norms(new_model)] == [True, False]


def test_a_call_for_training_computes_the_same(spread):
    inputs = keras.Input((5,))
    model = spread(keras.Model(inputs, BN()(L.Dense(4)(inputs), training=True)))
    x = np.random.default_rng(0).normal(size=(6, 5)).astype("float32")
    np.testing.assert_allclose(convert.fold(model)(x), model(x), rtol=1e-5, atol=1e-5)


@keras.saving.register_keras_serializable("graphs_test")
class Around(L.Wrapper):
    def call(self, x, training=None):
        return self.layer(x, training=training)

    def compute_output_shape(self, shape):
        return shape


def network(*layers):
    return keras.Sequential([keras.Input((4, 5)), *layers], name="network")


def functional_network(**call):
    inputs = keras.Input((4, 5))
    return keras.Model(inputs, BN(name="norm")(L.Dense(3)(inputs), **call))


AROUND = {
    "sequential": lambda: network(L.Dense(3), BN(name="norm")),
    "functional": functional_network,
    # Keras has the outer call's value override it.
    "other value inside": lambda: functional_network(training=False),
    "model in a model": lambda: network(network(L.Dense(3), BN(name="norm"))),
    "network at time steps": lambda: L.TimeDistributed(network(L.Dense(3), BN(name="norm"))),
    "norm at time steps": lambda: L.TimeDistributed(BN(name="norm")),
    "class": lambda: Around(BN(name="norm")),
    "class at time steps": lambda: L.TimeDistributed(Around(BN(name="norm"))),
}


@pytest.mark.parametrize("make", AROUND.values(), ids=AROUND)
@pytest.mark.parametrize("other_calls", [0, 1])
def test_a_call_for_training_of_what_holds_a_norm_computes_the_same(
    make, other_calls, sample, spread, notes
):
    layer = make()
    inputs = keras.Input((2, 4, 5) if isinstance(layer, L.TimeDistributed) else (4, 5))
    outputs = [layer(inputs) for _ in range(other_calls)] + [layer(inputs, training=True)]
    model = spread(keras.Model(inputs, outputs))
    reports = []
    new_model = convert.fold(model, report=reports.append)
    assert notes(reports[0]) == {"norm": "called with `training`, so not in inference"}
    x = sample(model)
    for actual, desired in zip(
        keras.tree.flatten(new_model(x)), keras.tree.flatten(model(x)), strict=True
    ):
        np.testing.assert_allclose(actual, desired, rtol=1e-5, atol=1e-5)


def test_dropout_in_a_model_called_for_training_drops(spread, notes):
    inputs = keras.Input((4, 5))
    norm = BN(name="norm", trainable=False)
    outputs = network(L.Dense(3), L.Dropout(0.5, seed=1), norm)(inputs, training=True)
    reports = []
    convert.fold(spread(keras.Model(inputs, outputs)), report=reports.append)
    assert notes(reports[0]) == {"norm": "affine: follows Dropout"}


def test_a_model_called_for_inference_is_folded_whatever_it_asks_inside(folded, spread):
    inputs = keras.Input((4, 5))
    model = keras.Model(inputs, functional_network(training=True)(inputs, training=False))
    _, report = folded(spread(model))
    assert [change.note.split()[0] for change in report.replaced] == ["folded"]


def test_a_layer_used_in_a_wrapper_too_is_shared(folded, spread, notes):
    dense = L.Dense(3, name="dense")
    inputs = keras.Input((4, 5))
    outputs = [BN()(dense(inputs)), L.TimeDistributed(dense)(inputs)]
    _, report = folded(spread(keras.Model(inputs, outputs)))
    assert list(notes(report).values()) == ["affine: a shared layer"]


@keras.saving.register_keras_serializable("graphs_test")
class Both(keras.Model):
    """A functional model that adds what comes before its norm."""

    def call(self, x, training=None):
        return super().call(x, training=training) + self.get_layer("dense")(x)


def test_nothing_is_folded_where_a_class_calls_the_layers_itself(folded, spread):
    inputs = keras.Input((5,))
    model = spread(Both(inputs, BN(name="norm")(L.Dense(4, name="dense")(inputs))))
    _, report = folded(model)
    assert [change.after for change in report.replaced] == ["BatchNormalization"]


def test_a_layer_that_a_class_calls_too_is_shared(folded, spread, notes):
    inputs, dense = keras.Input((5,)), L.Dense(5, name="dense")
    both = Both(inputs, BN()(dense(inputs)))
    _, report = folded(spread(keras.Model(inputs, [BN()(dense(inputs)), both(inputs)])))
    assert list(notes(report).values()) == [
        "affine: a shared layer",
        "affine: called by another class",
    ]
