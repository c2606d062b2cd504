import subprocess
import sys

import keras
import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from keras_renorm import convert, layers

L = keras.layers
BN = layers.BatchNormalization


def randomised(model):
    """Statistics and weights far from those of a new model, but of its order."""
    values = np.random.default_rng(1)
    for variable in model.weights:
        if "moving_variance" in variable.path or "gamma" in variable.path:
            variable.assign(values.uniform(0.5, 2.0, variable.shape))
        elif "kernel" in variable.path:
            # In place of a deviation of 0.05 of some initializers; the outputs are of order 1.
            fan_in = np.prod(variable.shape) / variable.shape[-1]
            variable.assign(values.normal(0.0, fan_in**-0.5, variable.shape))
        else:
            variable.assign(values.normal(0.0, 1.0, variable.shape))
    return model


def sample(model, seed=0):
    values = np.random.default_rng(seed)
    shapes = [tuple(size or 6 for size in x.shape) for x in model.inputs]
    arrays = [values.normal(0.5, 2.0, shape).astype("f4") for shape in shapes]
    return arrays if len(arrays) > 1 else arrays[0]


def folded(model):
    """The folded model and the report, after a comparison of their outputs."""
    reports = []
    before = model.get_weights()
    new_model = convert.fold(model, report=reports.append)
    x = sample(model)
    for actual, desired in zip(
        keras.tree.flatten(new_model(x)), keras.tree.flatten(model(x)), strict=True
    ):
        assert actual.dtype == desired.dtype
        assert np.std(desired) > 0.1
        np.testing.assert_allclose(actual, desired, rtol=1e-5, atol=1e-5)
    for actual, desired in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(actual, desired)
    return new_model, reports[0]


def norms(model):
    kinds = BN, L.BatchNormalization
    return [layer for layer in model._flatten_layers() if isinstance(layer, kinds)]


def notes(report):
    return {c.layer.split("/")[-1]: c.note for c in report.replaced + report.kept}


def stack(*parts, shape):
    return randomised(keras.Sequential([keras.Input(shape), *parts], name="net"))


KINDS = {
    "dense": (lambda **o: L.Dense(6, **o), (5,)),
    "dense on maps": (lambda **o: L.Dense(6, **o), (4, 3, 5)),
    "conv 1d": (lambda **o: L.Conv1D(6, 3, padding="causal", dilation_rate=2, **o), (7, 4)),
    "conv 2d": (lambda **o: L.Conv2D(6, (3, 2), strides=2, padding="same", **o), (7, 8, 4)),
    "grouped": (lambda **o: L.Conv2D(6, 3, groups=2, **o), (7, 8, 4)),
    "conv 3d": (lambda **o: L.Conv3D(5, 2, **o), (4, 5, 4, 3)),
    "depthwise 1d": (lambda **o: L.DepthwiseConv1D(3, depth_multiplier=2, **o), (7, 4)),
    "depthwise 2d": (lambda **o: L.DepthwiseConv2D(3, depth_multiplier=3, **o), (7, 8, 4)),
    "separable 1d": (lambda **o: L.SeparableConv1D(6, 3, depth_multiplier=2, **o), (7, 4)),
    "separable 2d": (lambda **o: L.SeparableConv2D(6, 3, **o), (7, 8, 4)),
    "transposed 1d": (lambda **o: L.Conv1DTranspose(6, 3, strides=2, **o), (7, 4)),
    "transposed 2d": (lambda **o: L.Conv2DTranspose(6, 3, strides=2, **o), (5, 4, 4)),
    "transposed 3d": (lambda **o: L.Conv3DTranspose(4, 2, **o), (3, 3, 4, 3)),
}
# With each norm, whether the layer has a bias.
NORMS = {
    "keras": (L.BatchNormalization, True),
    "keras, no parameters": (lambda: L.BatchNormalization(center=False, scale=False), False),
    "relu": (lambda: BN(activation="relu", epsilon=0.01), False),
    "renorm": (lambda: layers.BatchRenormalization(scale=False), True),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", NORMS)
def test_a_norm_is_folded_into_each_kind_of_layer(kind, norm):
    make, shape = KINDS[kind]
    make_norm, use_bias = NORMS[norm]
    layer = make(use_bias=use_bias, name="layer")
    model = stack(layer, make_norm(), shape=shape)
    new_model, report = folded(model)
    assert norms(new_model) == []
    assert [x.name for x in new_model.layers] == ["layer"]
    assert len(new_model.weights) == len(layer.weights) + (not use_bias)
    assert list(notes(report).values()) == ["folded into net/layer"]
    assert keras.activations.serialize(new_model.layers[0].activation) == (
        "relu" if norm == "relu" else "linear"
    )


def test_folded_layers_agree_with_float64():
    model = stack(
        L.Conv2D(4, (3, 2), name="conv"),
        BN(activation="relu", name="first"),
        L.Dense(5, use_bias=False, name="dense"),
        L.BatchNormalization(name="second"),
        shape=(6, 5, 3),
    )
    x = sample(model)
    w = {v.path.removeprefix("net/"): np.float64(v.numpy()) for v in model.weights}

    def normalised(x, name):
        deviation = np.sqrt(w[f"{name}/moving_variance"] + 1e-3)
        centred = x - w[f"{name}/moving_mean"]
        return w[f"{name}/gamma"] * centred / deviation + w[f"{name}/beta"]

    windows = sliding_window_view(np.float64(x), (3, 2), axis=(1, 2))
    y = np.einsum("nxyckl,klco->nxyo", windows, w["conv/kernel"]) + w["conv/bias"]
    y = np.maximum(normalised(y, "first"), 0) @ w["dense/kernel"]
    new_model, _ = folded(model)
    assert len(new_model.layers) == 2
    np.testing.assert_allclose(new_model(x), normalised(y, "second"), rtol=1e-5, atol=1e-5)


def test_an_activation_that_is_a_layer_stands_in_the_place_of_its_norm():
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


def test_an_activation_that_is_a_layer_follows_an_affine():
    norm = BN(activation=L.PReLU(name="slopes"), name="norm")
    new_model, report = folded(stack(norm, shape=(5,)))
    assert [x.name for x in new_model.layers] == ["norm", "slopes"]
    assert notes(report) == {"norm": "affine: follows the input"}


def test_an_activation_that_is_a_layer_stays_in_a_norm_that_stays():
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


def test_regularizers_and_constraints_go():
    layer = L.Dense(3, kernel_regularizer="l2", kernel_constraint="max_norm")
    new_model, _ = folded(stack(layer, BN(), shape=(4,)))
    assert new_model.losses == []
    assert new_model.layers[0].kernel_constraint is None


def test_dropout_may_stand_between():
    parts = L.Conv2D(4, 3, name="conv"), L.SpatialDropout2D(0.5), L.Identity(), BN()
    new_model, report = folded(stack(*parts, shape=(6, 6, 3)))
    assert len(new_model.layers) == 3
    assert "folded into net/conv" in notes(report).values()


def test_channels_first():
    parts = (
        L.Conv2D(4, 3, data_format="channels_first", name="conv"),
        BN(axis=1, name="first"),
        L.DepthwiseConv2D(2, data_format="channels_first", name="depthwise"),
        BN(axis=1, name="second"),
        L.ReLU(),
        BN(axis=1, name="third"),
    )
    new_model, report = folded(stack(*parts, shape=(3, 6, 9)))
    assert notes(report) == {
        "first": "folded into net/conv",
        "second": "folded into net/depthwise",
        "third": "affine: follows ReLU",
    }
    assert norms(new_model)[0].axis == 1


@pytest.mark.parametrize("width", [None, 6])
def test_channels_first_where_keras_adds_biases_to_the_wrong_axis(width):
    """Keras's `ops.add` takes the width for the channels if there are as many."""
    conv = L.Conv2D(4, 3, use_bias=False, data_format="channels_first", name="conv")
    model = stack(conv, L.BatchNormalization(axis=1, name="norm"), shape=(3, 6, width))
    _, report = folded(model)
    assert notes(report) == {"norm": "affine: Keras may add the bias of conv to the wrong axis"}


NOT_FOLDED = {
    "first": ([], {}, "follows the input"),
    "padding between": (
        [lambda: L.Conv2D(4, 3), lambda: L.ZeroPadding2D(1)],
        {},
        "follows ZeroPadding2D",
    ),
    "activation": (
        [lambda: L.Conv2D(4, 3, activation="relu", name="conv")],
        {},
        "conv has an activation",
    ),
    "axis": ([lambda: L.Conv2D(4, 3, name="conv")], {"axis": 1}, "axis 1 is not that of conv's"),
    "dtype": (
        [lambda: L.Conv2D(4, 3, dtype="mixed_float16", name="conv")],
        {},
        "conv computes in float16",
    ),
    "other layer": ([lambda: L.EinsumDense("bxyc,cd->bxyd", (6, 6, 4))], {}, "follows EinsumDense"),
}


@pytest.mark.parametrize(("before", "options", "reason"), NOT_FOLDED.values(), ids=NOT_FOLDED)
@pytest.mark.parametrize("kind", [L.BatchNormalization, layers.BatchRenormalization])
def test_other_norms_become_an_affine(before, options, reason, kind):
    parts = [make() for make in before]
    model = stack(*parts, kind(name="norm", **options), shape=(6, 6, 3))
    new_model, report = folded(model)
    assert notes(report)["norm"].startswith(f"affine: {reason}")
    (norm,) = norms(new_model)
    assert type(norm) is L.BatchNormalization
    assert not norm.trainable
    weights = norm.get_weights()
    new_model(sample(model), training=True)
    for actual, desired in zip(norm.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(actual, desired)


def test_the_renorm_of_keras_becomes_an_affine_of_four_weights():
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
    return randomised(keras.Model([images, other], {"a": out, "b": [conv, BN(name="on")(conv)]}))


def test_a_functional_model():
    new_model, report = folded(functional())
    assert notes(report) == {
        "after_shared": "affine: a shared layer",
        "twice": "affine: a shared layer",
        "branched": "affine: the output of depthwise is used elsewhere, too",
        "inner_norm": "folded into inner/in_inner",
        "out": "folded into last",
        "on": "affine: the output of is_output is used elsewhere, too",
    }
    assert new_model.get_layer("branched_activation").activation is keras.activations.relu
    assert new_model.get_layer("last").activation is keras.activations.tanh
    assert sorted(norm.name for norm in norms(new_model)) == sorted(
        ["after_shared", "twice", "branched", "on"]
    )


def test_a_call_for_training_stays():
    inputs = keras.Input((5,))
    hidden = L.Dense(4)(inputs)
    hidden = BN(name="asked")(hidden, training=True)
    hidden = L.Dense(4)(hidden)
    hidden = L.Dropout(0.5, seed=1)(hidden, training=True)
    model = randomised(keras.Model(inputs, BN(name="after")(hidden)))
    reports = []
    new_model = convert.fold(model, report=reports.append)
    assert notes(reports[0]) == {
        "asked": "called with `training`, so not in inference",
        "after": "affine: follows Dropout",
    }
    assert [type(norm) for norm in norms(new_model)] == [BN, L.BatchNormalization]
    # In inference mode, as with trainable=False, it would not be.
    assert [norm.trainable for norm in norms(new_model)] == [True, False]


def test_a_call_for_training_computes_the_same():
    inputs = keras.Input((5,))
    model = randomised(keras.Model(inputs, BN()(L.Dense(4)(inputs), training=True)))
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
def test_a_call_for_training_of_what_holds_a_norm_computes_the_same(make, other_calls):
    layer = make()
    inputs = keras.Input((2, 4, 5) if isinstance(layer, L.TimeDistributed) else (4, 5))
    outputs = [layer(inputs) for _ in range(other_calls)] + [layer(inputs, training=True)]
    model = randomised(keras.Model(inputs, outputs))
    reports = []
    new_model = convert.fold(model, report=reports.append)
    assert notes(reports[0]) == {"norm": "called with `training`, so not in inference"}
    x = sample(model)
    for actual, desired in zip(
        keras.tree.flatten(new_model(x)), keras.tree.flatten(model(x)), strict=True
    ):
        np.testing.assert_allclose(actual, desired, rtol=1e-5, atol=1e-5)


def test_dropout_in_a_model_called_for_training_drops():
    inputs = keras.Input((4, 5))
    norm = BN(name="norm", trainable=False)
    outputs = network(L.Dense(3), L.Dropout(0.5, seed=1), norm)(inputs, training=True)
    reports = []
    convert.fold(randomised(keras.Model(inputs, outputs)), report=reports.append)
    assert notes(reports[0]) == {"norm": "affine: follows Dropout"}


def test_a_model_called_for_inference_is_folded_whatever_it_asks_inside():
    inputs = keras.Input((4, 5))
    model = keras.Model(inputs, functional_network(training=True)(inputs, training=False))
    _, report = folded(randomised(model))
    assert [change.note.split()[0] for change in report.replaced] == ["folded"]


def test_wrappers():
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


def test_a_layer_used_in_a_wrapper_too_is_shared():
    dense = L.Dense(3, name="dense")
    inputs = keras.Input((4, 5))
    outputs = [BN()(dense(inputs)), L.TimeDistributed(dense)(inputs)]
    _, report = folded(randomised(keras.Model(inputs, outputs)))
    assert list(notes(report).values()) == ["affine: a shared layer"]


def test_a_mask_goes_through():
    model = stack(L.Masking(), L.Dense(4), BN(), BN(), L.GRU(3), shape=(5, 3))
    x = sample(model)
    x[:, 2:4] = 0
    new_model, report = folded(model)
    assert [change.after for change in report.replaced] == ["", "BatchNormalization"]
    np.testing.assert_allclose(new_model(x), model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float64"])
def test_dtype_policies(policy):
    parts = L.Conv2D(4, 3, dtype=policy), BN(dtype=policy), L.ReLU(dtype=policy)
    model = stack(*parts, shape=(6, 6, 3))
    new_model = convert.fold(model)
    assert new_model.layers[0].dtype_policy.name == policy
    actual, desired = (keras.ops.cast(m(sample(model)), "float64") for m in (new_model, model))
    tolerance = {"mixed_float16": 4e-3, "mixed_bfloat16": 4e-2, "float64": 1e-12}[policy]
    np.testing.assert_allclose(actual, desired, rtol=tolerance, atol=2 * tolerance)


def test_what_overflows_float16_is_not_folded():
    model = stack(
        L.Dense(3, dtype="mixed_float16", name="dense"),
        BN(dtype="mixed_float16", name="norm"),
        shape=(4,),
    )
    model.layers[0].kernel.assign(np.full((4, 3), 2e4))
    model.layers[1].moving_mean.assign([2e4, 0, 0])
    model.layers[1].moving_variance.assign([1e-3, 1, 1])
    reports = []
    convert.fold(model, report=reports.append)
    (change,) = reports[0].replaced + reports[0].kept
    assert change.after == "BatchNormalization" or "mean" in change.note
    model.layers[1].moving_mean.assign([0, 0, 0])
    convert.fold(model, report=reports.append)
    assert notes(reports[1]) == {"norm": "affine: the kernel would overflow float16"}


def test_a_norm_of_a_large_mean_stays():
    model = stack(BN(name="norm"), shape=(3,))
    model.layers[0].moving_mean.assign([0, 1e6, 0])
    model.layers[0].moving_variance.assign([1, 1, 1])
    x = np.array([[0, 1e6 + 1, 0], [1, 1e6 - 2, 1]], "f4")
    reports = []
    new_model = convert.fold(model, report=reports.append)
    assert notes(reports[0]) == {"norm": "a mean beyond 64 deviations"}
    np.testing.assert_array_equal(new_model(x), model(x))


def test_channels_without_numbers_stay_so():
    model = stack(L.Dense(4), L.BatchNormalization(), L.ReLU(), BN(), shape=(5,))
    model.layers[1].moving_variance.assign([1, np.nan, np.inf, -3])
    model.layers[3].moving_mean.assign([np.nan, 0, 0, 0])
    x = sample(model)
    new_model = convert.fold(model)
    np.testing.assert_allclose(new_model(x), model(x), rtol=1e-5, atol=1e-5)
    assert np.isnan(new_model(x)).any()


def test_an_application_of_keras():
    model = keras.applications.MobileNetV2(
        (32, 32, 3), alpha=0.35, weights=None, classes=3, classifier_activation=None
    )
    randomised(model)
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


def test_a_folded_model_loads_without_this_package(tmp_path):
    model = functional()
    slopes = BN(activation=L.PReLU())(L.Conv2D(2, 1)(model.outputs[0]))
    model = randomised(keras.Model(model.inputs, {"a": model.outputs, "b": slopes}))
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


def test_norms_of_other_kinds_stay():
    inputs, domain = keras.Input((5,)), keras.Input((), dtype="int32")
    hidden = L.Dense(4)(inputs)
    hidden = layers.DomainBatchNormalization(num_domains=2, name="domains")(hidden, domain=domain)
    hidden = Own(name="own")(L.Dense(3)(hidden))
    model = randomised(keras.Model([inputs, domain], L.GroupNormalization(3, name="g")(hidden)))
    reports = []
    new_model = convert.fold(model, report=reports.append)
    assert [change.layer for change in reports[0].kept] == ["domains", "own", "g"]
    assert [change.note for change in reports[0].kept] == ["an affine for each domain", "", ""]
    assert reports[0].replaced == ()
    x = [sample(model)[0], np.array([0, 1, 1, 0, 0, 1])]
    np.testing.assert_allclose(new_model(x), model(x), rtol=1e-5, atol=1e-5)


def test_a_model_without_weights_is_refused():
    model = keras.Sequential([L.Dense(3), BN()], name="net")
    with pytest.raises(ValueError, match=r"'net' has no weights yet.*model.build\(input_shape\)"):
        convert.fold(model)


@keras.saving.register_keras_serializable("folding_test")
class Both(keras.Model):
    """A functional model that adds what comes before its norm."""

    def call(self, x, training=None):
        return super().call(x, training=training) + self.get_layer("dense")(x)


def test_nothing_is_folded_where_a_class_calls_the_layers_itself():
    inputs = keras.Input((5,))
    model = randomised(Both(inputs, BN(name="norm")(L.Dense(4, name="dense")(inputs))))
    _, report = folded(model)
    assert [change.after for change in report.replaced] == ["BatchNormalization"]


def test_a_layer_that_a_class_calls_too_is_shared():
    inputs, dense = keras.Input((5,)), L.Dense(5, name="dense")
    both = Both(inputs, BN()(dense(inputs)))
    _, report = folded(randomised(keras.Model(inputs, [BN()(dense(inputs)), both(inputs)])))
    assert list(notes(report).values()) == [
        "affine: a shared layer",
        "affine: called by another class",
    ]
