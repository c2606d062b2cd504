import keras
import numpy as np
import pytest

from keras_renorm import convert
from keras_renorm.layers import BatchNormalization, BatchRenormalization

X = np.random.default_rng(2).normal(1.0, 2.0, (6, 5)).astype("f4")


def test_inputs_keep_what_they_are():
    given = keras.Input((5,), name="given")
    absent = keras.Input((5,), name="absent", optional=True)
    sparse = keras.Input((5,), name="sparse", sparse=True)
    outputs = keras.layers.BatchNormalization()(given)
    model = keras.Model({"given": given, "others": [absent, sparse]}, outputs)
    converted = convert.from_keras(model)
    assert [x.name for x in converted.inputs] == ["given", "absent", "sparse"]
    assert converted.get_layer("absent").optional
    assert converted.get_layer("sparse").sparse
    keras.tree.assert_same_structure(converted.input, model.input)


def test_operations_keep_their_functions_and_arrays(randomised):
    inputs = keras.Input((5,))
    hidden = keras.layers.BatchNormalization()(inputs)
    hidden = keras.ops.vectorized_map(lambda x: 2 * x, hidden)
    hidden = keras.ops.pad(hidden, np.array([[0, 0], [1, 1]]))
    model = randomised(keras.Model(inputs, hidden))
    converted = convert.from_keras(model)
    assert converted(X).shape == (6, 7)
    np.testing.assert_allclose(converted(X), model(X), rtol=1e-5, atol=1e-6)
    names = [[operation.name for operation in m.operations] for m in (converted, model)]
    assert names[0] == names[1]
    assert not {id(x) for x in converted.operations} & {id(x) for x in model.operations}


class OwnSequential(keras.Sequential):
    def train_step(self, data):
        return {}


def test_a_sequential_of_another_class_keeps_it():
    model = OwnSequential([keras.Input((5,)), keras.layers.BatchNormalization()])
    assert type(convert.from_keras(model)) is OwnSequential


@keras.saving.register_keras_serializable("copier_test")
class Slopes(keras.layers.Layer):
    """An activation of a class of its own, with weights, a setting and no word on masks."""

    def __init__(self, power=1, **kwargs):
        super().__init__(**kwargs)
        self.power = power

    def build(self, shape):
        self.slope = self.add_weight(shape=(shape[-1],), name="slope")

    def call(self, x):
        return self.slope * keras.ops.tanh(x) ** self.power

    def get_config(self):
        return super().get_config() | {"power": self.power}


class Unregistered(Slopes):
    """An activation of which Keras does not know the class."""


ACTIVATIONS = {
    "without weights": lambda: keras.layers.LeakyReLU(0.3, name="act"),
    "with weights": lambda: keras.layers.PReLU(name="act"),
    "of an own class": lambda: Slopes(3, name="act"),
    "of a class that is not registered": lambda: Unregistered(3, name="act"),
    "lambda": lambda: keras.layers.Lambda(lambda x: x**2, name="act"),
    "model": lambda: keras.Sequential(
        [keras.Input((5,)), keras.layers.PReLU(), keras.layers.Dense(5)], name="act"
    ),
}


def dense(name=None):
    return keras.layers.Dense(5, name=name)


def activated(activation, name="norm", kind=BatchNormalization):
    return kind(activation=activation, name=name)


def behind_a_layer(activation):
    return keras.Sequential([keras.Input((5,)), dense(), activated(activation)])


def alone(activation):
    return keras.Sequential([keras.Input((5,)), activated(activation, kind=BatchRenormalization)])


def behind_dropout(activation):
    layers = dense(), keras.layers.Dropout(0.5), activated(activation), dense()
    return keras.Sequential([keras.Input((5,)), *layers])


def shared_by_norms(activation):
    inputs = keras.Input((5,))
    hidden = activated(activation, "first")(dense()(inputs))
    hidden = activated(activation, "second")(keras.layers.ReLU()(hidden))
    return keras.Model(inputs, activated(activation, "third")(dense()(hidden)))


def shared_in_a_sequential(activation):
    layers = [dense(), activated(activation, "first"), dense(), activated(activation, "second")]
    return keras.Sequential([keras.Input((5,)), *layers])


def used_by_itself_too(activation):
    inputs = keras.Input((5,))
    hidden = dense()(activation(activated(activation)(dense()(inputs))))
    return keras.Model(inputs, activated(activation, "second")(hidden))


def nested(activation):
    inner = keras.Sequential([keras.Input((5,)), dense(), activated(activation)], name="inner")
    inputs = keras.Input((5,))
    return keras.Model(inputs, activated(activation, "outer")(inner(dense()(inner(inputs)))))


def in_norms_in_norms(activation):
    return behind_a_layer(BatchNormalization(activation=activation, name="inner"))


PLACES = [
    behind_a_layer,
    alone,
    behind_dropout,
    shared_by_norms,
    shared_in_a_sequential,
    used_by_itself_too,
    nested,
    in_norms_in_norms,
]
TO = [
    convert.fold,
    convert.from_keras,
    convert.to_batch_normalization,
    convert.to_batch_renormalization,
    convert.to_keras,
    convert.to_synchronized,
    convert.to_unsynchronized,
]


def parts(model):
    """The ids of the layers and variables of a model."""
    return {id(part) for part in (*model._flatten_layers(), *model.variables)}


def converted_with_activation(to, model, randomised):
    """The converted model, after a comparison with the model, which must stay as it is."""
    model = randomised(model)
    weights, y = model.get_weights(), np.asarray(model(X))
    assert np.std(y) > 0.01
    converted = to(model, report=lambda report: None)
    np.testing.assert_allclose(converted(X), y, rtol=1e-5, atol=1e-5)
    assert not parts(converted) & parts(model)
    converted.set_weights([0 * w for w in converted.get_weights()])
    for actual, desired in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(actual, desired)
    np.testing.assert_array_equal(model(X), y)
    return converted


@pytest.mark.parametrize("make", ACTIVATIONS.values(), ids=ACTIVATIONS)
@pytest.mark.parametrize("to", TO)
@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`")
def test_activations_that_are_layers_go_along(make, to, randomised):
    activation = make()
    converted = converted_with_activation(to, behind_a_layer(activation), randomised)
    (copy,) = [layer for layer in converted._flatten_layers() if layer.name == "act"]
    assert type(copy) is type(activation)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("to", TO)
def test_activations_that_are_layers_go_along_wherever_they_are(place, to, randomised):
    activation = Slopes(3, name="act")
    converted = converted_with_activation(to, place(activation), randomised)
    layers = {id(layer): layer for layer in converted._flatten_layers()}.values()
    (copy,) = [layer for layer in layers if type(layer) is Slopes]
    assert copy.name == "act"
    if to is convert.to_keras or (to is convert.fold and place is not in_norms_in_norms):
        assert not any(isinstance(layer, BatchNormalization) for layer in layers)


@pytest.mark.parametrize("to", [convert.from_keras, convert.to_synchronized])
@pytest.mark.parametrize("place", [behind_a_layer, shared_by_norms, nested])
def test_activations_that_are_layers_keep_the_paths_of_their_weights(place, to, randomised):
    model = randomised(place(keras.layers.PReLU()))
    assert [w.path for w in to(model).weights] == [w.path for w in model.weights]


@pytest.mark.parametrize("to", [convert.fold, convert.to_keras])
def test_an_activation_that_is_a_layer_is_called_as_its_norm(to, randomised):
    """With a mask that is no argument of it, and for training where the norm is."""
    inputs, mask = keras.Input((5,)), keras.Input((), dtype="bool")
    dropout = keras.layers.Dropout(0.9, seed=1)
    norm = BatchNormalization(activation=dropout, trainable=False)
    model = keras.Model([inputs, mask], norm(dense()(inputs), training=True, mask=mask))
    converted = to(randomised(model))
    ones = np.ones(6, bool)
    for one in (model, converted):
        assert np.mean(np.asarray(one([X, ones])) == 0) > 0.5


@pytest.mark.parametrize("to", TO)
def test_masks_go_through_activations_that_are_layers(to, randomised):
    layers = dense(), activated(Slopes(3)), keras.layers.GRU(3)
    model = keras.Sequential([keras.Input((3, 5)), keras.layers.Masking(), *layers])
    model = randomised(model)
    x = np.stack([X, 0 * X, X + 1], axis=1)
    np.testing.assert_allclose(to(model)(x), model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("to", TO)
def test_activations_that_are_layers_keep_whether_they_are_trained(to):
    model = behind_a_layer(keras.layers.PReLU(name="act"))
    for trainable in (False, True):
        model.layers[1].activation.trainable = trainable
        (copy,) = [layer for layer in to(model)._flatten_layers() if layer.name == "act"]
        assert copy.trainable is trainable
        assert bool(copy.trainable_variables) is trainable


@pytest.mark.parametrize("to", TO)
def test_activations_that_are_layers_of_a_model_without_weights(to):
    model = keras.Sequential([activated(keras.layers.PReLU())])
    if to is convert.fold:
        model.build((None, 5))
        model = keras.Sequential([keras.Input((5,)), model])
    converted = to(model)
    assert converted(X).shape == (6, 5)
