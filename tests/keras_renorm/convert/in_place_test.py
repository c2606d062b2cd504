"""Conversion of models in place: those of classes whose constructor makes the norms."""

import collections
import functools

import keras
import numpy as np
import pytest

from keras_renorm import convert, layers

L = keras.layers
Pair = collections.namedtuple("Pair", ["norm", "then"])


class Block(L.Layer):
    """A norm in each place that an attribute has, called one after the other."""

    def __init__(self, **options):
        super().__init__(**options)
        self.plain = L.BatchNormalization()
        self.listed = [L.Dense(4), [L.BatchNormalization()]]
        self.named = {"dense": L.Dense(4), "norm": L.BatchNormalization()}
        self.pair = (L.BatchNormalization(), L.ReLU())
        self.tuple = Pair(L.BatchNormalization(), L.ReLU())
        self.one = {L.BatchNormalization()}
        self.again = self.plain

    def call(self, x):
        (one,) = self.one
        parts = [self.plain, *self.listed[:1], *self.listed[1], *self.named.values()]
        for part in (*parts, *self.pair, *self.tuple, one, self.again):
            x = part(x)
        return x


class Net(keras.Model):
    """What people write: parts made in the constructor, and no configuration."""

    def __init__(self):
        super().__init__(name="net")
        self.stem = keras.Sequential([L.Dense(4), L.BatchNormalization(), L.ReLU()], name="stem")
        x = keras.Input((4,))
        self.backbone = keras.Model(x, L.BatchNormalization(name="inner")(L.Dense(4)(x)) + x)
        self.backbone.compile("sgd", lambda y, z: y - z)  # Keras would not compile a copy like this
        self.blocks = [Block(), Block()]
        self.frozen = L.BatchNormalization(trainable=False)
        self.head = L.Dense(2)

    def call(self, x, training=None):
        x = self.backbone(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.head(self.frozen(x))


@pytest.fixture
def data(rng):
    return rng.normal(1.0, 2.0, (16, 4)).astype("f4"), rng.normal(size=(16, 2)).astype("f4")


@pytest.fixture
def trained(data):
    model = Net()
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse")
    model.fit(*data, epochs=3, verbose=0)
    return model


def test_norms_in_every_place_are_replaced_and_inference_stays(trained, data, norms):
    before, weights = trained.predict(data[0], verbose=0), trained.get_weights()
    names = [layer.name for layer in trained._flatten_layers()]
    paths = [weight.path for weight in trained.weights]
    trainable = [layer.trainable for layer in trained._flatten_layers()]
    reports = []
    new = convert.to_batch_renormalization(
        trained, in_place=True, r_max=3.0, d_max=5.0, report=reports.append
    )
    assert new is trained
    assert {type(norm) for norm in norms(trained)} == {layers.BatchRenormalization}
    assert len(reports[0].replaced) == len(norms(trained)) == 15
    assert not reports[0].kept
    assert [layer.name for layer in trained._flatten_layers()] == names
    assert [weight.path for weight in trained.weights] == paths
    assert [layer.trainable for layer in trained._flatten_layers()] == trainable
    for actual, desired in zip(trained.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(actual, desired)
    np.testing.assert_allclose(trained.predict(data[0], verbose=0), before, atol=1e-5)
    np.testing.assert_allclose(trained(data[0]), before, atol=1e-5)


def test_what_is_held_twice_and_what_holds_it_stay_the_same_objects(trained):
    block, listed = trained.blocks[0], trained.blocks[0].listed
    dense, backbone = trained.head, trained.backbone
    convert.from_keras(trained, in_place=True)
    assert trained.blocks[0] is block
    assert block.listed is listed
    assert block.again is block.plain
    assert isinstance(block.plain, layers.BatchNormalization)
    assert isinstance(block.tuple, Pair)
    assert trained.head is dense
    assert trained.backbone is not backbone  # a graph cannot be changed
    assert trained.backbone.name == backbone.name


def test_training_goes_on_with_the_optimizer_and_the_new_layers(trained, data):
    """Without corrections batch norm, converted or not, trains to the same weights."""
    twin = Net()
    twin.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse")
    twin.fit(*data, epochs=1, verbose=0)
    twin.set_weights(trained.get_weights())
    for new, old in zip(twin.optimizer.variables, trained.optimizer.variables, strict=True):
        new.assign(old)
    convert.from_keras(trained, in_place=True)
    for model in (trained, twin):
        model.fit(*data, epochs=4, verbose=0, shuffle=False)
    for actual, desired in zip(trained.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_allclose(actual, desired, rtol=1e-3, atol=1e-4)


def test_there_and_back(trained, data, norms):
    before = trained.predict(data[0], verbose=0)
    convert.to_batch_renormalization(trained, in_place=True)
    convert.to_keras(trained, in_place=True)
    assert {type(norm) for norm in norms(trained)} == {L.BatchNormalization}
    np.testing.assert_allclose(trained.predict(data[0], verbose=0), before, atol=1e-5)


def test_a_model_without_weights_gets_them_later(data, norms):
    model = convert.from_keras(Net(), in_place=True)
    assert {type(norm) for norm in norms(model)} == {layers.BatchNormalization}
    assert not model.frozen.built
    model(data[0])
    assert model.frozen.gamma.path.startswith("net/batch_normalization")


class Small(keras.Model):
    """Keras files no layers of lists in lists."""

    def __init__(self):
        super().__init__()
        self.parts = [L.Dense(4), L.BatchNormalization()]

    def call(self, x, training=None):
        return self.parts[1](self.parts[0](x))


def test_weights_files_of_the_converted_model(data, tmp_path, randomised):
    saved, other = (convert.to_batch_renormalization(Small(), in_place=True) for _ in range(2))
    saved(data[0])
    randomised(saved).save_weights(tmp_path / "w.weights.h5")
    other(data[0])
    other.load_weights(tmp_path / "w.weights.h5")
    np.testing.assert_array_equal(other(data[0]), saved(data[0]))


def test_a_sequential_model(stack, sample):
    model = stack(L.Dense(3), L.BatchNormalization(name="norm"), L.ReLU(), shape=(4,))
    x, dense, before = sample(model), model.layers[0], model(sample(model))
    assert convert.from_keras(model, in_place=True) is model
    assert model.layers[0] is dense
    assert isinstance(model.get_layer("norm"), layers.BatchNormalization)
    np.testing.assert_allclose(model(x), before, atol=1e-5)
    assert model.built
    assert [layer.name for layer in keras.models.clone_model(model).layers][1] == "norm"


def test_an_activation_that_is_a_layer_stays_the_same(data):
    activation = L.PReLU()
    model = keras.Sequential([layers.BatchNormalization(activation=activation)])
    before = model(data[0])
    convert.to_batch_renormalization(model, in_place=True)
    assert model.layers[0].activation is activation
    np.testing.assert_allclose(model(data[0]), before, atol=1e-6)


def test_a_functional_model_is_refused_and_stays_as_it_is(norms):
    x = keras.Input((4,))
    model = keras.Model(x, L.BatchNormalization()(x), name="graph")
    with pytest.raises(ValueError, match=r"'graph' cannot be .* in place.*Leave `in_place` out"):
        convert.from_keras(model, in_place=True)
    assert type(norms(model)[0]) is L.BatchNormalization


def test_norms_in_layers_of_ones_own_in_a_functional_model(norms):
    x = keras.Input((4,))
    model = keras.Model(x, Block()(L.Dense(4)(x)))
    convert.from_keras(model, in_place=True)
    assert {type(norm) for norm in norms(model)} == {layers.BatchNormalization}
    assert model(np.ones((2, 4))).shape == (2, 4)


class InClosure(keras.Model):
    def __init__(self):
        super().__init__()
        norm = L.BatchNormalization(name="norm")
        self.norm = norm
        self.then = lambda x: keras.ops.relu(norm(x))

    def call(self, x):
        return self.then(x)


class InPartial(InClosure):
    def __init__(self):
        super().__init__()
        self.then = functools.partial(keras.ops.multiply, self.norm)


class InBound(InClosure):
    def __init__(self):
        super().__init__()
        self.then = self.norm.call


@pytest.mark.parametrize("kind", [InClosure, InPartial, InBound])
def test_a_function_that_would_call_the_old_layer_is_named(kind, norms):
    model = kind()
    message = r"'norm' cannot be replaced in place.*also holds it in the function `then`"
    with pytest.raises(ValueError, match=message):
        convert.from_keras(model, in_place=True)
    assert type(norms(model)[0]) is L.BatchNormalization


def test_a_layer_in_no_attribute_is_named():
    model = InClosure()
    del model.then, model.norm
    with pytest.raises(ValueError, match=r"holds it in no attribute, list, tuple, dict or set"):
        convert.from_keras(model, in_place=True)


def test_a_functional_part_of_a_class_that_would_be_lost_is_named():
    class Functional(keras.Model):
        def __init__(self):
            x = keras.Input((4,))
            super().__init__(x, L.BatchNormalization()(x), name="part")

    class Whole(keras.Model):
        def __init__(self):
            super().__init__()
            self.part = Functional()

    with pytest.raises(TypeError, match="'part' has the class Functional, which a copy would"):
        convert.from_keras(Whole(), in_place=True)


def test_an_activation_that_keras_has_no_room_for_is_named():
    class Own(keras.Model):
        def __init__(self):
            super().__init__(name="own")
            self.norm = layers.BatchNormalization(activation="relu", name="norm")

    with pytest.raises(ValueError, match=r"'norm' would become two layers.*'own' around it"):
        convert.to_keras(Own(), in_place=True)


@pytest.mark.parametrize("in_place", ["yes", None, 1])
def test_in_place_is_a_truth_value(in_place):
    with pytest.raises(TypeError, match="`in_place` must be True or False, received"):
        convert.from_keras(keras.Sequential([L.BatchNormalization()]), in_place=in_place)


def test_only_models_are_converted():
    with pytest.raises(TypeError, match="`model` must be a Keras model, received"):
        convert.from_keras(L.BatchNormalization(), in_place=True)
