import keras
import numpy as np
import pytest

from keras_renorm import convert
from keras_renorm.layers import BatchNormalization, BatchRenormalization

X = np.random.default_rng(2).normal(1.0, 2.0, (6, 5)).astype("f4")


@keras.saving.register_keras_serializable("cloning_test")
class Block(keras.layers.Layer):
    """A layer that is given its norm."""

    def __init__(self, norm, **kwargs):
        super().__init__(**kwargs)
        self.norm = norm
        self.dense = keras.layers.Dense(5)

    def build(self, shape):
        for layer in (self.norm, self.dense):
            if not layer.built:
                layer.build(shape)
        self.weight = self.add_weight(shape=(5,), name="weight")

    def call(self, x, training=None):
        return self.weight * self.dense(self.norm(x, training=training))

    def get_config(self):
        return super().get_config() | {"norm": keras.saving.serialize_keras_object(self.norm)}

    @classmethod
    def from_config(cls, config):
        return cls(**config | {"norm": keras.saving.deserialize_keras_object(config["norm"])})


@keras.saving.register_keras_serializable("cloning_test")
class Subclassed(keras.Model):
    """A model that is given its norm, around a functional one that is given, too."""

    def __init__(self, norm, inner, **kwargs):
        super().__init__(**kwargs)
        self.first = keras.layers.Dense(5)
        self.norm = norm
        self.inner = inner

    def call(self, x, training=None):
        return self.inner(self.norm(self.first(x), training=training), training=training)

    def get_config(self):
        parts = {"norm": self.norm, "inner": self.inner}
        serialized = {k: keras.saving.serialize_keras_object(v) for k, v in parts.items()}
        return super().get_config() | serialized

    @classmethod
    def from_config(cls, config):
        parts = {k: keras.saving.deserialize_keras_object(config[k]) for k in ("norm", "inner")}
        return cls(**config | parts)


def inner():
    return keras.Sequential([keras.Input((5,)), keras.layers.BatchNormalization(name="in_inner")])


def subclassed():
    model = Subclassed(keras.layers.BatchNormalization(name="norm"), inner(), name="outer")
    model(X)
    return model


def with_block():
    block = Block(keras.layers.BatchNormalization(), name="block")
    return keras.Sequential([keras.Input((5,)), block])


def randomised(model):
    values = np.random.default_rng(1)
    model.set_weights([values.uniform(0.5, 1.5, w.shape) for w in model.get_weights()])
    return model


@pytest.mark.parametrize("make", [subclassed, with_block])
def test_what_configurations_hold_is_converted(make, tmp_path):
    model = randomised(make())
    converted = convert.to_batch_renormalization(model, r_max=2.0, d_max=3.0)
    assert type(converted) is type(model)
    assert [w.path for w in converted.weights] == [w.path for w in model.weights]
    assert {type(layer) for layer in converted._flatten_layers()}.isdisjoint(
        {keras.layers.BatchNormalization}
    )
    np.testing.assert_allclose(converted(X), model(X), rtol=1e-5, atol=1e-6)
    converted.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(X), converted(X))


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


def test_operations_keep_their_functions_and_arrays():
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


def squared(x):
    return x**2


def own_ones(shape, dtype=None):
    return keras.ops.ones(shape, dtype)


def relu(x):
    """Not the one of Keras's, whose name it has."""
    return keras.ops.minimum(keras.ops.maximum(x, 0), 1)


WITH_FUNCTIONS = {
    "not registered": lambda: keras.layers.Dense(4, activation=squared),
    "of a known name": lambda: keras.layers.Dense(4, activation=relu),
    "with a closure": lambda: keras.layers.Dense(4, activation=(lambda f: lambda x: f(x))(squared)),
    "initializer": lambda: keras.layers.Dense(4, kernel_initializer=own_ones),
    "recurrent": lambda: keras.layers.GRU(4, activation=squared),
    "operation": lambda: keras.layers.Activation(squared),
    "layer of a function": lambda: keras.layers.Lambda(squared),
    "layer of a lambda": lambda: keras.layers.Lambda(
        lambda x, f: f(squared(x)), arguments={"f": relu}
    ),
    "norm": lambda: keras.layers.BatchNormalization(gamma_initializer=own_ones),
}


@pytest.mark.parametrize("make", WITH_FUNCTIONS.values(), ids=WITH_FUNCTIONS)
@pytest.mark.parametrize("to", [convert.from_keras, convert.fold])
@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`")
def test_functions_go_along(make, to):
    layers = [make(), keras.layers.BatchNormalization()]
    model = randomised(keras.Sequential([keras.Input((3, 5)), *layers]))
    x = np.stack([X, X - 1, X + 1], axis=1)
    converted = to(model, report=lambda report: None)
    np.testing.assert_allclose(converted(x), model(x), rtol=1e-5, atol=1e-5)
    if to is convert.from_keras:
        assert type(converted.layers[-1]) is not keras.layers.BatchNormalization
        assert type(converted.layers[0]) is not keras.layers.BatchNormalization


def test_the_fold_of_functions():
    layers = [keras.layers.Dense(4, kernel_initializer=own_ones), BatchNormalization()]
    layers[1].activation = squared
    model = randomised(keras.Sequential([keras.Input((5,)), *layers]))
    converted = convert.fold(model)
    assert len(converted.layers) == 1
    np.testing.assert_allclose(converted(X), model(X), rtol=1e-5, atol=1e-5)


def test_weights_are_told_by_their_names():
    """A layer that was quantized to float8 has made them in another order."""
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4)])
    model.add(keras.layers.BatchNormalization())
    model.layers[0].quantize("float8")
    converted = convert.from_keras(randomised(model))
    values = [
        {v.path: keras.ops.convert_to_numpy(v) for v in m.layers[0].variables}
        for m in (converted, model)
    ]
    assert len(values[1]) == 8
    assert values[0].keys() == values[1].keys()
    for path, value in values[1].items():
        np.testing.assert_array_equal(values[0][path], value)


class OwnSequential(keras.Sequential):
    def train_step(self, data):
        return {}


class OwnConstructor(keras.Sequential):
    def __init__(self, width):
        super().__init__([keras.Input((width,)), keras.layers.BatchNormalization()])


class OwnLayer(keras.Model):
    """A functional model with a layer that is not in its graph."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.extra = keras.layers.Dense(1)


class OwnBuild(keras.Model):
    """A model that Keras cannot build from shapes."""

    def __init__(self, norm, **kwargs):
        super().__init__(**kwargs)
        self.norm = norm

    def call(self, x):
        return self.norm(x)

    def get_config(self):
        return super().get_config() | {"norm": keras.saving.serialize_keras_object(self.norm)}

    @classmethod
    def from_config(cls, config):
        return cls(**config | {"norm": keras.saving.deserialize_keras_object(config["norm"])})

    def get_build_config(self):
        return None


class Growing(keras.layers.Layer):
    """A layer with one weight more at each construction."""

    count = 0

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        Growing.count += 1

    def build(self, shape):
        self.weight = self.add_weight(shape=(Growing.count,))

    def call(self, x):
        return x


class Pair(keras.layers.Layer):
    """A layer that does not keep its norm in its configuration."""

    def __init__(self, norm=None, **kwargs):
        super().__init__(**kwargs)
        if norm is not None:
            self.norm = norm

    def call(self, x):
        return self.norm(x)

    def get_config(self):
        return super().get_config()

    def compute_output_shape(self, shape):
        return shape


def own_build():
    model = OwnBuild(keras.layers.BatchNormalization(), name="own")
    model(X)
    return model


def own_layer():
    inputs = keras.Input((5,))
    return OwnLayer(inputs, keras.layers.BatchNormalization()(inputs), name="own")


def test_a_sequential_of_another_class_keeps_it():
    model = OwnSequential([keras.Input((5,)), keras.layers.BatchNormalization()])
    assert type(convert.from_keras(model)) is OwnSequential


REFUSED = {
    "a layer": (
        lambda: keras.layers.Dense(3),
        TypeError,
        "Only Keras models can be converted, received <Dense .*For a single layer, convert "
        r"keras.Sequential\(\[layer\]\)",
    ),
    "constructor": (
        lambda: OwnConstructor(5),
        TypeError,
        "is of the class OwnConstructor, which a copy would lose",
    ),
    "layer outside the graph": (
        own_layer,
        TypeError,
        "'own' is of the class OwnLayer, which a copy would lose.*no layers of its own",
    ),
    "function in a layer in it": (
        lambda: keras.Sequential(
            [
                keras.Input((4, 5)),
                keras.layers.RNN(keras.layers.GRUCell(3, activation=squared), name="cells"),
            ]
        ),
        TypeError,
        "The RNN 'cells' cannot be copied from its configuration .*'squared'.*"
        r"`keras.saving.custom_object_scope\(",
    ),
    "activation of a norm in a layer": (
        lambda: keras.Sequential(
            [
                keras.Input((5,)),
                Block(BatchNormalization(activation=Unregistered(name="act")), name="block"),
                keras.layers.BatchNormalization(),
            ]
        ),
        TypeError,
        "The Block 'block' cannot be copied from its configuration .*'Unregistered'.*"
        r"`keras.saving.register_keras_serializable\(\)`",
    ),
    "build": (own_build, ValueError, "OwnBuild 'own' has no weights, because Keras cannot build"),
    "weights": (
        lambda: keras.Sequential([keras.Input((5,)), Growing(name="growing")]),
        ValueError,
        r"Growing 'growing' has weights of the shapes \[\(\d,\)\], and a copy .*of \[\(\d,\)\]",
    ),
    "layers": (
        lambda: keras.Sequential(
            [keras.Input((5,)), Pair(keras.layers.BatchNormalization(), name="pair")]
        ),
        ValueError,
        "The Pair 'pair' has 1 layers in it, and a copy of it from its configuration 0",
    ),
}


@pytest.mark.parametrize(("make", "error", "message"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("to", [convert.from_keras, convert.to_synchronized])
def test_what_cannot_be_copied_is_named(make, error, message, to):
    with pytest.raises(error, match=message):
        to(make())


def adapted(layer, data):
    layer.adapt(data)
    return layer


TEXTS = np.array(["a b", "b c"])


@pytest.mark.parametrize(
    ("before", "x"),
    [
        (lambda: [adapted(keras.layers.Normalization(), 5 * X + 3)], X),
        (
            lambda: [adapted(keras.layers.StringLookup(), TEXTS), keras.layers.Embedding(9, 4)],
            TEXTS,
        ),
        (
            lambda: [
                adapted(keras.layers.TextVectorization(output_sequence_length=3), TEXTS),
                keras.layers.Embedding(9, 4),
            ],
            TEXTS,
        ),
        (
            lambda: [
                adapted(keras.layers.Discretization(num_bins=4), X),
                keras.layers.Embedding(9, 4),
            ],
            X,
        ),
    ],
    ids=["normalization", "lookup", "text", "discretization"],
)
@pytest.mark.parametrize("to", [convert.to_batch_renormalization, convert.fold])
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")
def test_what_adapt_found_goes_along(before, x, to):
    """It is in no variable that the layer uses: a copy of the variables alone would lose it."""
    inputs = keras.Input(x.shape[1:], dtype=str(x.dtype) if x is X else "string")
    layers = [*before(), keras.layers.BatchNormalization()]
    hidden = inputs
    for layer in layers:
        hidden = layer(hidden)
    model = keras.Model(inputs, hidden)
    x = keras.ops.convert_to_tensor(x)
    y = np.asarray(model(x))
    assert np.ptp(y) > 0.01
    np.testing.assert_allclose(to(model)(x), y, rtol=1e-5, atol=1e-6)


def test_variables_that_are_not_trained_stay_so():
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4)])
    model.add(keras.layers.BatchNormalization())
    model.layers[0].bias.trainable = False
    model.layers[1].gamma.trainable = False
    trained = [v.path for v in convert.to_batch_renormalization(model).trainable_variables]
    assert trained == [v.path for v in model.trainable_variables]
    assert [path.split("/")[-1] for path in trained] == ["kernel", "beta"]


@pytest.mark.parametrize("to", [convert.to_batch_renormalization, convert.fold])
def test_sharing_that_a_copy_would_lose_is_refused(to):
    shared = keras.layers.BatchNormalization(name="shared")
    inputs = keras.Input((5,))
    model = keras.Model(inputs, Block(shared)(shared(inputs)))
    with pytest.raises(ValueError, match="The BatchNormalization 'shared' is used in several"):
        to(model)
    blocks = keras.Sequential([keras.Input((5,)), Block(shared), Block(shared)])
    with pytest.raises(ValueError, match="the copies would not share their weights"):
        to(blocks)


@pytest.mark.parametrize("to", [convert.to_batch_renormalization, convert.fold])
def test_sharing_of_what_has_no_weights_may_be_lost(to):
    shared = keras.layers.LeakyReLU(0.3)
    blocks = [Block(BatchNormalization(activation=shared)) for _ in range(2)]
    model = randomised(keras.Sequential([keras.Input((5,)), *blocks]))
    converted = to(model, report=lambda report: None)
    np.testing.assert_allclose(converted(X), model(X), rtol=1e-5, atol=1e-5)


@keras.saving.register_keras_serializable("cloning_test")
class Scale(keras.layers.Lambda):
    """A `Lambda` with a configuration of its own."""

    def __init__(self, factor, name=None):
        super().__init__(lambda x: factor * x, name=name)
        self.factor = factor

    def get_config(self):
        return {"factor": self.factor, "name": self.name}

    @classmethod
    def from_config(cls, config, custom_objects=None, safe_mode=None):
        del custom_objects, safe_mode
        return cls(**config)


def test_a_lambda_of_a_class_of_its_own_is_made_from_its_configuration():
    model = keras.Sequential([keras.Input((5,)), Scale(3.0), keras.layers.BatchNormalization()])
    copy = convert.from_keras(model)
    np.testing.assert_allclose(copy(X), model(X), rtol=1e-6)


@keras.saving.register_keras_serializable("cloning_test")
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
    "lambda": lambda: keras.layers.Lambda(lambda x: squared(x), name="act"),
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


def converted_with_activation(to, model):
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
def test_activations_that_are_layers_go_along(make, to):
    activation = make()
    converted = converted_with_activation(to, behind_a_layer(activation))
    (copy,) = [layer for layer in converted._flatten_layers() if layer.name == "act"]
    assert type(copy) is type(activation)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("to", TO)
def test_activations_that_are_layers_go_along_wherever_they_are(place, to):
    activation = Slopes(3, name="act")
    converted = converted_with_activation(to, place(activation))
    layers = {id(layer): layer for layer in converted._flatten_layers()}.values()
    (copy,) = [layer for layer in layers if type(layer) is Slopes]
    assert copy.name == "act"
    if to is convert.to_keras or (to is convert.fold and place is not in_norms_in_norms):
        assert not any(isinstance(layer, BatchNormalization) for layer in layers)


@pytest.mark.parametrize("to", [convert.from_keras, convert.to_synchronized])
@pytest.mark.parametrize("place", [behind_a_layer, shared_by_norms, nested])
def test_activations_that_are_layers_keep_the_paths_of_their_weights(place, to):
    model = randomised(place(keras.layers.PReLU()))
    assert [w.path for w in to(model).weights] == [w.path for w in model.weights]


@pytest.mark.parametrize("make", [keras.layers.PReLU, lambda **o: Slopes(3, **o)])
@pytest.mark.parametrize("to", [convert.fold, convert.to_keras, convert.from_keras])
def test_activations_of_other_layers_go_along(make, to):
    """Keras makes the weights of these in the first call that is not symbolic."""
    layers = keras.layers.Dense(5, activation=make(name="act")), keras.layers.BatchNormalization()
    model = keras.Sequential([keras.Input((5,)), *layers])
    model(X)
    converted_with_activation(to, model)


@pytest.mark.parametrize("to", [convert.fold, convert.to_keras])
def test_an_activation_that_is_a_layer_has_a_name_of_its_own(to):
    layers = [
        dense(),
        activated(keras.layers.PReLU(name="act"), "first"),
        keras.layers.ReLU(name="act_1"),
        activated(keras.layers.PReLU(name="act"), "second"),
        dense("act_3"),
        activated(keras.layers.PReLU(name="other"), "third"),
        keras.layers.ReLU(name="act"),
    ]
    converted = to(keras.Sequential([keras.Input((5,)), *layers]))
    names = [layer.name for layer in converted.layers if isinstance(layer, keras.layers.PReLU)]
    assert names == ["act_2", "act_4", "other"]


@pytest.mark.parametrize("to", [convert.fold, convert.to_keras])
def test_an_activation_that_is_a_layer_is_called_as_its_norm(to):
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
def test_masks_go_through_activations_that_are_layers(to):
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
