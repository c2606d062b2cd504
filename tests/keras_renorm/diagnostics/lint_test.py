"""Every planted fault is named, and a healthy model has none."""

import json
import warnings

import keras
import numpy as np
import pytest

from keras_renorm.diagnostics import lint
from keras_renorm.layers import BatchNormalization, BatchRenormalization, DomainBatchNormalization
from keras_renorm.schedules import LinearRamp

L = keras.layers


def kinds(report):
    return [(finding.layer, finding.kind) for finding in report.findings]


def healthy():
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            L.Conv2D(4, 3, use_bias=False, name="conv"),
            BatchNormalization(name="bn"),
            L.ReLU(),
            L.Conv2D(4, 3, use_bias=False),
            BatchRenormalization(name="brn"),
            L.ReLU(),
            L.GlobalAveragePooling2D(),
            L.Dense(2),
        ]
    )


def test_nothing_is_named_in_a_healthy_model():
    report = lint(healthy(), batch_size=8, num_steps=1000)
    assert report.findings == ()
    assert report.notes == ()
    assert [(n.layer, n.kind, n.positions, n.values) for n in report.norms] == [
        ("bn", "BN", 36, 288),
        ("brn", "BRN", 16, 128),
    ]
    assert report.scalars()["lint/values_per_channel/bn"] == 288.0
    assert "Findings: none." in str(report)
    assert json.loads(json.dumps(report.to_dict()))["norms"][0]["values"] == 288
    same = lint(healthy(), batch_size=np.int64(8), num_steps=np.int32(1000))
    assert json.dumps(same.to_dict()) == json.dumps(report.to_dict())


@pytest.mark.parametrize(
    "layer",
    [
        L.Conv2D(4, 3),
        L.Conv2DTranspose(4, 3),
        L.DepthwiseConv2D(3),
        L.SeparableConv2D(4, 3),
        L.Dense(4),
        L.EinsumDense("bhwc,cd->bhwd", (8, 8, 4), bias_axes="d"),
    ],
    ids=lambda layer: type(layer).__name__,
)
@pytest.mark.parametrize("norm", [BatchNormalization, BatchRenormalization, L.BatchNormalization])
def test_useless_bias(layer, norm):
    layer = type(layer).from_config(layer.get_config() | {"name": "before"})
    model = keras.Sequential([keras.Input((8, 8, 3)), layer, norm(name="norm")])
    report = lint(model)
    assert kinds(report) == [("before", "useless bias")]
    message = str(report.findings[0])
    assert "before has a bias, and the normalization norm directly after it" in message
    einsum = isinstance(layer, L.EinsumDense)
    remedy = "without bias_axes" if einsum else "with use_bias=False"
    assert f"Build before {remedy}. Its beta is the bias." in message


def test_useless_bias_gets_no_gradient(rng):
    import tensorflow as tf

    model = keras.Sequential([keras.Input((5,)), L.Dense(4), BatchNormalization(), L.Dense(3)])
    with tf.GradientTape() as tape:
        y = model(rng.normal(size=(16, 5)).astype("float32"), training=True)
        loss = tf.reduce_sum(y**2)
    kernel, bias = tape.gradient(loss, [model.layers[0].kernel.value, model.layers[0].bias.value])
    assert np.max(np.abs(bias)) < 1e-5 * np.max(np.abs(kernel))
    assert kinds(lint(model)) == [(model.layers[0].name, "useless bias")]


def test_useless_bias_without_centre_says_so():
    model = keras.Sequential([keras.Input((5,)), L.Dense(4), BatchNormalization(center=False)])
    assert "set center=True" in str(lint(model).findings[0])


def test_a_useless_bias_before_several_norms_is_named_once():
    x = keras.Input((5,))
    y = L.Dense(4, name="before")(x)
    norms = [BatchNormalization(name=f"norm_{i}") for i in range(2)]
    report = lint(keras.Model(x, [norm(y) for norm in norms]))
    assert kinds(report) == [("before", "useless bias")]
    assert (
        "the normalizations norm_0 and norm_1 directly after it subtract it"
        in report.findings[0].message
    )


def biases_that_are_used():
    vector = keras.Input((5,))
    norm = BatchNormalization()
    yield vector, norm(L.Dense(4, activation="relu")(vector))
    yield vector, norm(L.ReLU()(L.Dense(4)(vector)))
    dense = L.Dense(4)(vector)
    yield vector, L.Add()([dense, BatchNormalization()(dense)])
    dense = L.Dense(4)(vector)
    yield vector, [dense, BatchNormalization()(dense)]
    yield vector, BatchNormalization(trainable=False)(L.Dense(4)(vector))
    yield vector, BatchNormalization(frozen_statistics=True)(L.Dense(4)(vector))
    shared = L.Dense(5)
    yield vector, shared(BatchNormalization()(shared(vector)))
    image = keras.Input((6, 6, 3))
    y = L.Conv2D(4, 3)(image)
    yield image, [BatchNormalization()(y), BatchNormalization(axis=1)(y)]


def test_biases_that_are_used_are_not_named():
    count = 0
    for inputs, outputs in biases_that_are_used():
        named = kinds(lint(keras.Model(inputs, outputs)))
        assert [kind for _, kind in named if kind == "useless bias"] == []
        count += 1
    assert count == 8


@pytest.mark.parametrize(
    ("options", "arguments", "phrase"),
    [
        ({}, {"batch_size": 4}, "statistics of 4 values per channel, and so a standard deviation"),
        ({}, {"batch_size": 1}, "1 value per channel, at which almost no gradient"),
        ({}, {"batch_size": 16, "replicas": 8}, "Set synchronized=True, or raise the batch size"),
        ({"virtual_batch_size": 4}, {"batch_size": 64}, "statistics of 4 values per channel"),
        ({"virtual_batch_size": 64}, {"batch_size": 129}, "Choose a larger virtual_batch_size"),
    ],
)
def test_few_values(options, arguments, phrase):
    model = keras.Sequential([keras.Input((5,)), BatchNormalization(name="bn", **options)])
    report = lint(model, **arguments)
    assert kinds(report) == [("bn", "few values")]
    assert phrase in str(report.findings[0])
    enough = [] if options.get("virtual_batch_size") != 4 else kinds(report)
    assert kinds(lint(model, batch_size=4096)) == enough


def test_few_values_for_renormalization_are_two():
    model = keras.Sequential([keras.Input((5,)), BatchRenormalization(name="brn")])
    assert kinds(lint(model, batch_size=3)) == []
    assert kinds(lint(model, batch_size=2)) == [("brn", "few values")]


def test_synchronized_values_are_of_all_replicas():
    model = keras.Sequential([keras.Input((5,)), BatchNormalization(synchronized=True)])
    assert kinds(lint(model, batch_size=16, replicas=8)) == []


def test_two_values_pass_almost_no_gradient(rng):
    """What the rule for two values claims: with m=2 the sums that vanish leave nothing."""
    import tensorflow as tf

    layer = BatchRenormalization(r_max=3.0, d_max=5.0, epsilon=1e-6)
    sizes = []
    for rows in (2, 3):
        x = tf.constant(rng.normal(size=(rows, 64)).astype("float32"))
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(layer(x, training=True) * rng.normal(size=(rows, 64)))
        sizes.append(np.median(np.abs(tape.gradient(loss, x))))
    assert sizes[0] < 1e-3 * sizes[1]


def test_norm_after_norm():
    model = keras.Sequential(
        [keras.Input((5,)), BatchNormalization(name="first"), L.BatchNormalization(name="second")]
    )
    report = lint(model)
    assert kinds(report) == [("second", "norm after norm")]
    assert "second normalises the output of first" in str(report.findings[0])
    between = keras.Sequential(
        [keras.Input((5,)), BatchNormalization(activation="relu"), BatchNormalization()]
    )
    assert kinds(lint(between)) == []


def test_a_norm_that_is_shared_by_several_inputs():
    bn = BatchNormalization(name="bn")
    a, b = keras.Input((5,)), keras.Input((5,))
    report = lint(keras.Model([a, b], L.Add()([bn(a), bn(b)])))
    assert kinds(report) == [("bn", "shared norm")]
    assert "bn is called on 2 inputs" in str(report.findings[0])
    assert [norm.call for norm in report.norms] == [1, 2]


def test_a_norm_in_a_nested_model_that_is_called_twice():
    inner = keras.Sequential([keras.Input((5,)), L.Dense(4), BatchNormalization(name="bn")])
    inner.name = "tower"
    a, b = keras.Input((5,)), keras.Input((5,))
    report = lint(keras.Model([a, b], L.Add()([inner(a), inner(b)])))
    assert ("tower/bn", "shared norm") in kinds(report)
    assert (f"tower/{inner.layers[0].name}", "useless bias") in kinds(report)


@pytest.mark.parametrize("names", ["ab", "ba", "abc"])
def test_a_nested_model_that_takes_a_list_and_is_given_a_dictionary(names):
    """Keras hands the entries over by the names of the inputs."""
    a, b = keras.Input((4, 3), name="a"), keras.Input((7, 5), name="b")
    norms = [BatchNormalization(name=f"norm_{name}") for name in "ba"]
    inner = keras.Model([b, a], [norms[0](b), norms[1](a)], name="inner")
    inputs = {"a": keras.Input((4, 3)), "b": keras.Input((7, 5)), "c": keras.Input((2,))}
    outputs = inner({name: inputs[name] for name in names})
    model = keras.Model([inputs[name] for name in names], outputs)
    found = {norm.layer: norm.positions for norm in lint(model).norms}
    assert found == {"inner/norm_a": 4, "inner/norm_b": 7}


@pytest.mark.parametrize(
    ("batch", "population"), [("shared", "domain"), ("domain", "shared")], ids=str
)
def test_inconsistent_domains(batch, population):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The layer warns, too.
        layer = DomainBatchNormalization(
            2, batch_statistics=batch, population_statistics=population, name="bn"
        )
    x, domain = keras.Input((5,)), keras.Input((), dtype="int32")
    report = lint(keras.Model([x, domain], layer(x, domain=domain)))
    assert kinds(report) == [("bn", "inconsistent domains")]
    assert f"Set population_statistics={batch!r}" in str(report.findings[0])


@pytest.mark.parametrize("kind", ["shared", "domain"])
def test_consistent_domains(kind):
    layer = DomainBatchNormalization(2, batch_statistics=kind, population_statistics=kind)
    x, domain = keras.Input((5,)), keras.Input((), dtype="int32")
    assert kinds(lint(keras.Model([x, domain], layer(x, domain=domain)))) == []


@pytest.mark.parametrize(
    ("momentum", "phrase"),
    [
        (1.0, "with which its moving statistics never move"),
        (0.0, "are those of the last minibatch alone"),
        (0.999, "still make up 37% of its moving statistics after 1000 steps"),
    ],
)
def test_momentum(momentum, phrase):
    model = keras.Sequential([keras.Input((5,)), BatchNormalization(momentum=momentum)])
    report = lint(model, num_steps=1000)
    assert [finding.kind for finding in report.findings] == ["momentum"]
    assert phrase in str(report.findings[0])


@pytest.mark.parametrize("num_steps", [149, 150])
def test_a_norm_that_is_called_twice_a_step_forgets_twice_as_fast(num_steps):
    norm = BatchNormalization(momentum=0.99)
    inputs = [keras.Input((5,)) for _ in range(2)]
    report = lint(keras.Model(inputs, [norm(x) for x in inputs]), num_steps=num_steps)
    named = [kind for _, kind in kinds(report)]
    assert named == ["shared norm"] + ["momentum"] * (0.99 ** (2 * num_steps) > 0.05)


def test_a_schedule_that_does_not_end():
    layer = BatchRenormalization(
        r_max=1.0, d_max=LinearRamp(0, 5, 1000, 4000), momentum=0.9, name="brn"
    )
    model = keras.Sequential([keras.Input((5,)), layer])
    assert kinds(lint(model, num_steps=4000)) == []
    report = lint(model, num_steps=2000)
    assert kinds(report) == [("brn", "unfinished schedule")]
    assert "d_max is 1.67 after 2000 steps, and would become 5" in str(report.findings[0])
    layer.update_count.assign(2000)
    layer.moving_mean.assign(np.ones(5))
    assert kinds(lint(model, num_steps=2000)) == []
    assert kinds(lint(model, num_steps=1000)) == [("brn", "unfinished schedule")]


@pytest.mark.parametrize("norm", [BatchNormalization, BatchRenormalization, L.BatchNormalization])
def test_trained_statistics_hold_no_initial_values(rng, norm):
    options = {"r_max": 3.0, "d_max": 5.0} if norm is BatchRenormalization else {}
    model = keras.Sequential([keras.Input((5,)), norm(**options)])
    assert "momentum" in [kind for _, kind in kinds(lint(model, num_steps=100))]
    model(rng.normal(2.0, 1.0, (16, 5)).astype("f4"), training=True)
    assert kinds(lint(model, num_steps=100)) == []


@pytest.mark.parametrize(
    ("r_max", "d_max", "named"),
    [
        (1.5, 0.5, None),
        (1.6, 0.0, "r_max=1.6 and d_max=0"),
        (1.0, 0.6, "r_max=1 and d_max=0.6"),
        (float("inf"), float("inf"), "r_max=inf and d_max=inf"),
        (LinearRamp(3, 1, 0, 10), 0.0, "r_max=3 and d_max=0"),
        (LinearRamp(1, 3, 0, 10), 0.0, None),
    ],
)
def test_limits_that_are_open_before_there_are_statistics(rng, r_max, d_max, named):
    layer = BatchRenormalization(r_max=r_max, d_max=d_max, momentum=0.5, name="brn")
    model = keras.Sequential([keras.Input((5,)), layer])
    report = lint(model)
    assert kinds(report) == ([("brn", "open limits")] if named else [])
    assert named is None or f"brn begins with {named} while" in str(report.findings[0])
    model(rng.normal(2.0, 1.0, (16, 5)).astype("f4"), training=True)
    assert kinds(lint(model)) == []


@pytest.mark.parametrize(
    "inner",
    [
        BatchNormalization(name="norm"),
        L.BatchNormalization(name="norm"),
        keras.Sequential([L.Dense(4, use_bias=False), BatchRenormalization(name="norm")]),
    ],
    ids=["ours", "keras", "within"],
)
def test_a_norm_by_frames(inner):
    model = keras.Sequential([keras.Input((7, 5)), L.TimeDistributed(inner, name="frames")])
    report = lint(model)
    assert ("frames", "norm by frames") in kinds(report)
    message = next(str(found) for found in report.findings if found.kind == "norm by frames")
    assert "frames calls the normalization norm on each frame by itself" in message
    for layer in model.layers[0].layer._flatten_layers():
        layer.trainable = False
    assert kinds(lint(model)) == []
    dense = keras.Sequential([keras.Input((7, 5)), L.TimeDistributed(L.Dense(3))])
    assert kinds(lint(dense)) == []


def on_axes(axis, data_format, *layers):
    shape = (8, 8, 3) if data_format == "channels_last" else (3, 8, 8)
    conv = L.Conv2D(4, 3, use_bias=False, data_format=data_format, name="conv")
    norm = BatchNormalization(axis=axis, name="norm")
    return keras.Sequential([keras.Input(shape), conv, *layers, norm])


@pytest.mark.parametrize("between", [(), (L.ReLU(), L.Dropout(0.5))], ids=["next", "later"])
@pytest.mark.parametrize(
    ("data_format", "right", "wrong"),
    [("channels_last", (-1, 3), (1, 2)), ("channels_first", (1, -3), (-1, 2))],
)
def test_an_axis_that_is_not_that_of_the_channels(data_format, right, wrong, between):
    for axis in right:
        assert kinds(lint(on_axes(axis, data_format, *between))) == []
    for axis in wrong:
        report = lint(on_axes(axis, data_format, *between))
        assert kinds(report) == [("norm", "wrong axis")]
        message = str(report.findings[0])
        assert f"norm has axis={axis}, and conv beside it data_format='{data_format}'" in message
        assert (
            f"takes the 6 positions along that axis for channels. Write axis={right[0]}" in message
        )


def test_an_axis_beside_layers_after_it_and_behind_moved_axes():
    image = keras.Input((6, 6, 3))
    before = L.MaxPooling2D(data_format="channels_last", name="pool")(
        BatchNormalization(axis=1)(image)
    )
    assert [kind for _, kind in kinds(lint(keras.Model(image, before)))] == ["wrong axis"]
    convolved = L.Conv2D(4, 3, use_bias=False, data_format="channels_last")(image)
    for moved in (L.Permute((3, 1, 2))(convolved), L.Reshape((4, 4, 4))(convolved)):
        assert kinds(lint(keras.Model(image, BatchNormalization(axis=1)(moved)))) == []
    ops = keras.ops
    for moved in (
        ops.transpose(convolved, (0, 3, 1, 2)),
        ops.moveaxis(convolved, -1, 1),
        ops.einsum("bhwc->bchw", convolved),
        L.Lambda(lambda x: ops.transpose(x, (0, 3, 1, 2)))(convolved),
        L.EinsumDense("bhwc,cd->bdhw", (4, 4, 4))(convolved),
    ):
        assert kinds(lint(keras.Model(image, BatchNormalization(axis=1)(moved)))) == []
    frames = keras.Input((4, 3, 8, 8))
    recurrent = L.ConvLSTM2D(5, 3, data_format="channels_first", return_sequences=True)(frames)
    assert kinds(lint(keras.Model(frames, BatchNormalization(axis=2)(recurrent)))) == []
    added = BatchNormalization(axis=1)(ops.relu(convolved + convolved))
    assert [kind for _, kind in kinds(lint(keras.Model(image, added)))] == ["wrong axis"]
    vector = keras.Input((6,))
    assert kinds(lint(keras.Model(vector, BatchNormalization(axis=1)(vector)))) == []


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__(name="own")
        self.bn = BatchNormalization(momentum=1.0, name="bn")

    def call(self, inputs, training=None):
        return self.bn(inputs, training=training)


def test_a_graph_that_is_not_known_is_said_so():
    model = Subclassed()
    report = lint(model)
    assert kinds(report) == [("bn", "momentum")]
    assert "The order of the layers in 'own' (Subclassed) is unknown" in report.notes[0]
    x = keras.Input((5,))
    outer = keras.Model(x, model(x))
    assert kinds(lint(outer)) == [("own/bn", "momentum")]
    assert "The order of the layers in 'own' (Subclassed) is unknown" in lint(outer).notes[0]
    unbuilt = keras.Sequential([BatchNormalization()])
    assert "the Sequential model is not built" in lint(unbuilt).notes[0]


def test_what_was_not_checked_is_said_so():
    assert lint(keras.Sequential([keras.Input((5,)), L.Dense(2)])).notes == (
        "The model has no batch normalization layers.",
        "Values per channel were not checked: give batch_size.",
        "Schedules and momentum were not held against the training: give num_steps.",
    )


@pytest.mark.parametrize("argument", ["batch_size", "num_steps", "replicas"])
def test_arguments_out_of_range(argument):
    with pytest.raises(ValueError, match=f"`{argument}` must be at least 1, received {argument}=0"):
        lint(healthy(), **{argument: 0})
    with pytest.raises(TypeError, match=f"`{argument}` must be an integer, received 2.5 of type"):
        lint(healthy(), **{argument: 2.5})


def test_what_is_no_model_is_refused():
    with pytest.raises(TypeError, match=r"must be a Keras model.*give keras.Sequential\("):
        lint(BatchNormalization())


def domains(ids, **options):
    inputs = keras.Input((5,))
    norm = DomainBatchNormalization(4, name="norm", **options)
    outputs = norm(inputs, domain=1 if ids is None else ids)
    return keras.Model([inputs] if ids is None else [inputs, ids], outputs)


def test_an_id_per_example_splits_the_batch():
    """Of 16 examples of 4 domains each has 4, fewer than the 8 that batch norm needs."""
    ids = keras.Input((), dtype="int32")
    report = lint(domains(ids), batch_size=16)
    assert [norm.values for norm in report.norms] == [4]
    assert kinds(report) == [("norm", "few values")]
    assert "DomainBatchRenormalization (which needs 3)" in str(report.findings[0])
    shared = {"batch_statistics": "shared", "population_statistics": "shared"}
    for model in (domains(ids, **shared), domains(None)):
        report = lint(model, batch_size=16)
        assert [norm.values for norm in report.norms] == [16]
        assert report.findings == ()


def test_findings_of_many_layers_are_printed_together():
    model = keras.Sequential(
        [keras.Input((5,))]
        + [
            layer
            for i in range(6)
            for layer in (L.Dense(4, name=f"dense{i}"), BatchNormalization(), L.ReLU())
        ]
    )
    report = lint(model)
    assert len(report.findings) == 6
    text = " ".join(str(report).split())
    assert "dense2 has a bias" in text
    assert "dense3 has a bias" not in text
    assert "The same (useless bias) in 3 more: dense3, dense4, dense5." in text


def test_plot(tmp_path):
    path = tmp_path / "lint.png"
    figure = lint(healthy(), batch_size=8).plot(path)
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert heights == [288, 128]
    assert path.stat().st_size > 1000


def test_statistics_that_none_can_be_are_found_also_inside_ones_own_classes():
    class Own(keras.Model):
        def __init__(self):
            super().__init__(name="own")
            self.norm = BatchRenormalization(name="norm")

        def call(self, x, training=None):
            return self.norm(x, training=training)

    model = Own()
    model(np.zeros((2, 4), "f4"))
    assert "Findings: none." in str(lint(model))
    model.norm.moving_variance.assign([1.0, -0.2, 1.0, 1.0])
    (finding,) = lint(model).findings
    assert finding.message.startswith("norm holds -0.2 in its moving_variance, in 1 of 4 values:")
