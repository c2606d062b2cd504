import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_renorm import convert, layers

L = keras.layers
BN = layers.BatchNormalization


def test_an_activation_that_is_a_layer_stands_in_the_place_of_its_norm(stack, folded):
    layer = L.Conv2D(4, 3, name="conv")
    norm = BN(activation=L.PReLU(shared_axes=[1, 2], name="slopes"), name="norm")
    model = stack(layer, L.SpatialDropout2D(0.5, name="drop"), norm, shape=(6, 6, 3))
    new_model, report = folded(model)
    assert [x.name for x in new_model.layers] == ["conv", "drop", "slopes"]
    assert new_model.layers[0].activation is keras.activations.linear
    assert report.replaced == (
        convert.Change("net/norm", "BatchNormalization", "PReLU", "folded into net/conv"),
    )
    assert "net/norm  BatchNormalization -> PReLU (folded into net/conv)" in str(report)


def test_an_activation_that_is_a_layer_follows_an_affine(stack, folded, notes):
    norm = BN(activation=L.PReLU(name="slopes"), name="norm")
    new_model, report = folded(stack(norm, shape=(5,)))
    assert [x.name for x in new_model.layers] == ["norm", "slopes"]
    assert notes(report) == {"norm": "affine: follows the input"}


def test_an_activation_that_is_a_layer_stays_in_a_norm_that_stays(stack, sample):
    norm = BN(activation=L.PReLU(name="slopes"), name="norm")
    model = stack(norm, L.Reshape((5, 1)), L.TimeDistributed(BN(activation=L.PReLU())), shape=(5,))
    norm.moving_mean.assign([0, 1e6, 0, 0, 0])
    reports = []
    new_model = convert.fold(model, report=reports.append)
    assert [change.note for change in reports[0].kept] == [
        "a mean beyond 64 deviations",
        "its activation has no room in the layer around it",
    ]
    x = sample(model)
    np.testing.assert_array_equal(new_model(x), model(x))


def test_regularizers_and_constraints_go(stack, folded):
    layer = L.Dense(3, kernel_regularizer="l2", kernel_constraint="max_norm")
    new_model, _ = folded(stack(layer, BN(), shape=(4,)))
    assert new_model.losses == []
    assert new_model.layers[0].kernel_constraint is None


def test_what_is_trained_of_a_layer_stays(stack, folded):
    model = stack(L.Dense(3), BN(), L.Dense(3), shape=(4,))
    model.layers[0].kernel.trainable = model.layers[2].bias.trainable = False
    new_model, _ = folded(model)
    assert [v.trainable for v in new_model.weights] == [False, True, True, False]


def test_the_renorm_of_keras_becomes_an_affine_of_four_weights(stack, folded):
    model = stack(L.BatchNormalization(renorm=True), shape=(5,))
    new_model, _ = folded(model)
    assert len(new_model.weights) == 4


def functional():
    """Two outputs, a branch, a shared convolution, a shared norm, a nested model used twice."""
    images, other = keras.Input((8, 8, 3), name="images"), keras.Input((8, 8, 3), name="other")
    shared = L.Conv2D(4, 3, padding="same", name="shared")
    twice = BN(name="twice")
    inner = keras.Sequential(
        [keras.Input((8, 8, 4)), L.Conv2D(4, 1, name="in_inner"), BN(name="inner_norm")],
        name="inner",
    )
    first = BN(name="after_shared")(shared(images))
    second = twice(L.Conv2D(4, 3, padding="same", name="conv2")(shared(other)))
    branch = L.DepthwiseConv2D(3, padding="same", name="depthwise")(first)
    branched = BN(name="branched", activation="relu")(branch)
    total = L.Add(name="total")([branch, branched, inner(second)])
    total = inner(twice(total))
    last = L.Conv2D(5, 1, name="last")(total)
    out = BN(name="out", activation="tanh")(last)
    conv = L.Conv2D(5, 1, name="is_output")(total)
    return keras.Model([images, other], {"a": out, "b": [conv, BN(name="on")(conv)]})


def test_a_functional_model(folded, spread, norms, notes):
    new_model, report = folded(spread(functional()))
    assert notes(report) == {
        "after_shared": "affine: a shared layer",
        "twice": "affine: a shared layer",
        "branched": "affine: the output of depthwise is also used elsewhere",
        "inner_norm": "folded into inner/in_inner",
        "out": "folded into last",
        "on": "affine: the output of is_output is also used elsewhere",
    }
    assert new_model.get_layer("branched_activation").activation is keras.activations.relu
    assert new_model.get_layer("last").activation is keras.activations.tanh
    assert sorted(norm.name for norm in norms(new_model)) == sorted(
        ["after_shared", "twice", "branched", "on"]
    )


def test_wrappers(stack, folded, norms):
    """A network at each time step is folded; a norm or its activation in a wrapper stays."""
    network = keras.Sequential([keras.Input((6, 3)), L.Conv1D(4, 3), BN(), L.Flatten()])
    model = stack(
        L.TimeDistributed(network),
        L.TimeDistributed(BN(name="alone")),
        L.TimeDistributed(BN(name="with_activation", activation="relu")),
        shape=(2, 6, 3),
    )
    new_model, report = folded(model)
    assert [type(norm) for norm in norms(new_model)] == [L.BatchNormalization, BN]
    assert [change.layer.split("/")[-1] for change in report.kept] == ["with_activation"]
    assert [change.note for change in report.kept] == [
        "its activation has no room in the layer around it"
    ]


def test_a_mask_goes_through(stack, folded, sample):
    model = stack(L.Masking(), L.Dense(4), BN(), BN(), L.GRU(3), shape=(5, 3))
    x = sample(model)
    x[:, 2:4] = 0
    new_model, report = folded(model)
    assert [change.after for change in report.replaced] == ["", "BatchNormalization"]
    np.testing.assert_allclose(new_model(x), model(x), rtol=1e-5, atol=1e-5)


def test_an_application_of_keras(folded, spread, norms):
    model = keras.applications.MobileNetV2(
        (32, 32, 3), alpha=0.35, weights=None, classes=3, classifier_activation=None
    )
    spread(model)
    new_model, report = folded(model)
    assert len(report.replaced) == 52
    assert norms(new_model) == []


LOAD = """
import sys
sys.modules["keras_renorm"] = None
import keras, numpy as np
model = keras.saving.load_model(sys.argv[1] + "/model.keras")
data = np.load(sys.argv[1] + "/data.npz")
outputs = keras.tree.flatten(model([data["x0"], data["x1"]]))
for i, output in enumerate(outputs):
    np.testing.assert_allclose(output, data[f"y{i}"], rtol=1e-5, atol=1e-5)
print("equal", len(outputs))
"""


def test_a_folded_model_loads_without_this_package(tmp_path, sample, spread):
    model = functional()
    slopes = BN(activation=L.PReLU())(L.Conv2D(2, 1)(model.outputs[0]))
    model = spread(keras.Model(model.inputs, {"a": model.outputs, "b": slopes}))
    x = sample(model)
    y = keras.tree.flatten(model(x))
    arrays = {f"x{i}": v for i, v in enumerate(x)} | {f"y{i}": v for i, v in enumerate(y)}
    np.savez(tmp_path / "data.npz", **arrays)
    convert.fold(model).save(tmp_path / "model.keras")
    result = subprocess.run(
        [sys.executable, "-c", LOAD, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.stdout == "equal 4\n", result.stderr


@keras.saving.register_keras_serializable("folding_test")
class Own(BN):
    pass


def test_norms_of_other_kinds_stay(sample, spread):
    inputs, domain = keras.Input((5,)), keras.Input((), dtype="int32")
    hidden = L.Dense(4)(inputs)
    hidden = layers.DomainBatchNormalization(num_domains=2, name="domains")(hidden, domain=domain)
    hidden = Own(name="own")(L.Dense(3)(hidden))
    model = spread(keras.Model([inputs, domain], L.GroupNormalization(3, name="g")(hidden)))
    reports = []
    new_model = convert.fold(model, report=reports.append)
    assert [change.layer for change in reports[0].kept] == ["domains", "own", "g"]
    assert [change.note for change in reports[0].kept] == ["an affine for each domain", "", ""]
    assert reports[0].replaced == ()
    x = [sample(model)[0], np.array([0, 1, 1, 0, 0, 1])]
    np.testing.assert_allclose(new_model(x), model(x), rtol=1e-5, atol=1e-5)


def test_a_model_without_weights_is_refused():
    model = keras.Sequential([L.Dense(3), BN()], name="net")
    with pytest.raises(ValueError, match=r"'net' has no weights yet.*`model\(x\)`"):
        convert.fold(model)


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


@keras.saving.register_keras_serializable("folding_test")
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
    # In Keras, the outer call's value overrides it.
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


@keras.saving.register_keras_serializable("folding_test")
class Maker(L.Layer):
    """A layer that makes its norm itself, so that its configuration does not hold it."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norm = BN()

    def call(self, x):
        return self.norm(x)


def test_the_advice_for_a_norm_that_stays_says_that_folding_copies():
    model = network(Maker())
    with pytest.raises(ValueError, match=r"cannot be replaced.*`fold` can only copy"):
        convert.fold(model)


@keras.saving.register_keras_serializable("folding_test")
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
