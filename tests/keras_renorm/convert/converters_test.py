import keras
import numpy as np
import pytest

from keras_renorm import convert, layers, schedules, statistics

X = np.random.default_rng(2).normal(1.0, 2.0, (6, 5)).astype("f4")


def sequential():
    return keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(4, kernel_regularizer="l2"),
            keras.layers.BatchNormalization(epsilon=0.01, momentum=0.9, gamma_regularizer="l1"),
            keras.layers.Dropout(0.5, seed=1),
            layers.BatchRenormalization(r_max=schedules.LinearRamp(1.0, 3.0, 2, 9), d_max=1.0),
            layers.BatchNormalization(synchronized=True, activation="relu", name="third"),
        ]
    )


def built_by_a_call():
    model = keras.Sequential([keras.layers.Dense(4), layers.BatchNormalization()])
    model(X)
    return model


def functional():
    """Nested models, a layer and a model used twice, operations, a lambda, a frozen part."""
    inputs = keras.Input((5,))
    shared = keras.layers.BatchNormalization(name="shared")
    inner = keras.Sequential([keras.Input((5,)), keras.layers.Dense(5), shared], name="inner")
    frozen = keras.Sequential([keras.Input((5,)), layers.BatchNormalization(), shared])
    hidden = inner(inputs)
    hidden = keras.ops.tanh(shared(hidden)) + inputs
    hidden = keras.layers.Lambda(lambda x: 2 * x)(inner(hidden))
    model = keras.Model(inputs, [frozen(hidden), hidden])
    model.compile("sgd", loss=lambda target, output: output)
    frozen.trainable = False
    inner.layers[0].trainable = False
    return model


def with_wrappers():
    pair = keras.Sequential([keras.Input((1,)), layers.BatchNormalization()])
    return keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Reshape((5, 1)),
            keras.layers.TimeDistributed(keras.layers.BatchNormalization()),
            keras.layers.TimeDistributed(pair),
        ]
    )


MODELS = [sequential, built_by_a_call, functional, with_wrappers]


@pytest.mark.parametrize("make", MODELS)
def test_every_norm_is_synchronized_and_back_and_nothing_else_changes(make, norms, randomised):
    model = randomised(make())
    before = model.get_weights()
    there = convert.to_synchronized(model)
    back = convert.to_unsynchronized(there)
    assert norms(model)
    for converted, synchronized in ((there, True), (back, False)):
        assert [norm.synchronized for norm in norms(converted)] == [synchronized] * len(
            norms(model)
        )
        assert all(isinstance(norm, layers.BatchNormalization) for norm in norms(converted))
        assert [w.path for w in converted.weights] == [w.path for w in model.weights]
        paths = [[w.path for w in m.trainable_weights] for m in (converted, model)]
        assert paths[0] == paths[1]
        flags = [[layer.trainable for layer in m._flatten_layers()] for m in (converted, model)]
        assert flags[0] == flags[1]
        for actual, desired in zip(converted.get_weights(), before, strict=True):
            np.testing.assert_array_equal(actual, desired)
        for actual, desired in zip(
            keras.tree.flatten(converted(X)), keras.tree.flatten(model(X)), strict=True
        ):
            np.testing.assert_allclose(actual, desired, rtol=1e-5, atol=1e-5)
        assert not converted.compiled
        converted.layers[-1].trainable = not converted.layers[-1].trainable
    for actual, desired in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(actual, desired)


def test_the_model_stays_compiled():
    model = functional()
    convert.to_synchronized(model)
    assert model.compiled
    assert model.evaluate(X, [X, X], verbose=0) is not None


def test_options_are_kept(norms):
    model = sequential()
    converted = convert.to_synchronized(model)
    for old, new in zip(norms(model), norms(converted), strict=True):
        kept = [
            {k: v for k, v in layer.get_config().items() if k != "synchronized"}
            for layer in (old, new)
        ]
        assert {key: kept[0][key] for key in kept[1]} == kept[1]
    assert [type(norm).__name__ for norm in norms(converted)] == [
        "BatchNormalization",
        "BatchRenormalization",
        "BatchNormalization",
    ]
    assert norms(converted)[1].r_max == norms(model)[1].r_max


def test_a_layer_used_twice_stays_one_layer(norms):
    converted = convert.to_synchronized(functional())
    assert len(norms(converted)) == 2
    assert converted.get_layer("inner").layers[-1] is converted.get_layer("shared")


def test_layers_without_weights_yet_are_kept():
    model = keras.Sequential([keras.layers.Normalization(), keras.layers.TextVectorization()])
    model.add(layers.BatchRenormalization())
    new_model = convert.from_keras(model)
    assert not new_model.built
    assert [type(layer) for layer in new_model.layers] == [type(one) for one in model.layers]


def test_a_model_without_weights_yet(norms):
    model = keras.Sequential([keras.layers.Dense(4), keras.layers.BatchNormalization()])
    converted = convert.to_synchronized(model)
    assert not converted.built
    assert [norm.synchronized for norm in norms(converted)] == [True]
    assert converted(X).shape == (6, 4)


def test_a_converted_model_loads(tmp_path, norms, randomised):
    converted = convert.to_synchronized(randomised(sequential()))
    converted.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert [norm.synchronized for norm in norms(loaded)] == [True] * 3
    np.testing.assert_array_equal(loaded(X), converted(X))


def test_an_application_of_keras(norms):
    model = keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, weights=None, classes=3)
    x = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("f4")
    converted = convert.to_synchronized(model)
    assert len(norms(converted)) == 52
    np.testing.assert_allclose(converted(x), model(x), atol=1e-6)


class Block(keras.layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norm = keras.layers.BatchNormalization(name="own")

    def call(self, x):
        return self.norm(x)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.norm = keras.layers.BatchNormalization()

    def call(self, x):
        return self.norm(x)


class OwnConstructor(keras.Model):
    def __init__(self, width):
        inputs = keras.Input((width,))
        super().__init__(inputs, keras.layers.BatchNormalization()(inputs))


class OwnStep(keras.Model):
    def train_step(self, data):
        return {}


def test_a_functional_model_of_another_class_keeps_it():
    inputs = keras.Input((5,))
    model = OwnStep(inputs, keras.layers.BatchNormalization()(inputs))
    assert type(convert.to_synchronized(model)) is OwnStep


def one_layer(layer):
    return keras.Sequential([keras.Input((5,), name="input"), layer], name="net")


REFUSED = {
    "subclassed": (
        Subclassed,
        TypeError,
        "The Subclassed 'subclassed.*' cannot be copied from its configuration .*unexpected "
        r"keyword argument 'trainable'\). Give a class of your own `get_config` and `from_config`",
    ),
    "no model": (
        lambda: 3,
        TypeError,
        "`model` must be a Keras model, received 3 of type int",
    ),
    "own constructor": (
        lambda: OwnConstructor(5),
        TypeError,
        "has the class OwnConstructor, which a copy would lose",
    ),
    "inside a layer": (
        lambda: one_layer(Block(name="block")),
        ValueError,
        "The BatchNormalization at 'net/block/own' cannot be replaced",
    ),
}


@pytest.mark.parametrize("to", [convert.to_synchronized, convert.to_unsynchronized])
@pytest.mark.parametrize(("make", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_converted_is_named(to, make, error, message):
    model = make()
    if isinstance(model, keras.Model):
        model(X)
    with pytest.raises(error, match=message):
        to(model)


def renormalized(**options):
    """A layer of Keras's with renorm, trained for some steps, and its model."""
    layer = keras.layers.BatchNormalization(renorm=True, momentum=0.9, **options)
    model = keras.Sequential([keras.Input((5,)), layer])
    for step in range(5):
        model(np.random.default_rng(step).normal(step, 2.0, (8, 5)).astype("f4"), training=True)
    return model, layer


def bits(model):
    return [w.tobytes() for w in model.get_weights()]


@pytest.mark.parametrize("make", MODELS)
def test_to_batch_renormalization_and_back_keeps_the_bits(make, norms, randomised):
    model = convert.to_batch_normalization(randomised(make()))
    there = convert.to_batch_renormalization(model)
    back = convert.to_batch_normalization(there)
    assert norms(model)
    assert {type(norm) for norm in norms(there)} == {layers.BatchRenormalization}
    assert {type(norm) for norm in norms(back)} == {layers.BatchNormalization}
    assert bits(back) == bits(model)
    configs = [[norm.get_config() for norm in norms(m)] for m in (back, model)]
    assert configs[0] == configs[1]
    outputs = [keras.tree.flatten(m(X)) for m in (back, there, model)]
    for after, between, before in zip(*outputs, strict=True):
        np.testing.assert_array_equal(after, before)
        np.testing.assert_array_equal(between, before)


def test_options_are_those_of_all_layers(norms):
    ramp = schedules.LinearRamp(1.0, 2.0, 3, 4)
    converted = convert.to_batch_renormalization(sequential(), r_max=ramp, d_max=0.5)
    assert [(norm.r_max, norm.d_max) for norm in norms(converted)] == [(ramp, 0.5)] * 3
    clipped = convert.to_batch_renormalization(converted, renorm_clipping={"rmax": 4.0})
    assert [(norm.r_max, norm.d_max) for norm in norms(clipped)] == [(4.0, np.inf)] * 3
    timed = convert.to_batch_renormalization(clipped, num_steps=26_000)
    assert [(norm.r_max, norm.d_max) for norm in norms(timed)] == [schedules.paper(26_000)] * 3
    kept = convert.to_batch_renormalization(clipped)
    assert [(norm.r_max, norm.d_max) for norm in norms(kept)] == [(4.0, np.inf)] * 3


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"epsilon": 1e-5}, ValueError, "keep 'epsilon' from the old ones, received epsilon=1e-05"),
        ({"gamma_initializer": "zeros"}, ValueError, "keep 'gamma_initializer'"),
        ({"r_max": 0.5}, ValueError, "`r_max`.*received"),
        ({"rmax": 3}, ValueError, "Unrecognized keyword arguments.*rmax"),
    ],
)
def test_options_that_layers_cannot_have_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        convert.to_batch_renormalization(sequential(), **options)


def test_a_counter_goes_along(norms):
    model = sequential()
    model(X, training=True)
    converted = convert.to_synchronized(model)
    assert int(norms(converted)[1].update_count) == 1


def test_domains_keep_their_statistics(norms, randomised):
    inputs, domain = keras.Input((5,)), keras.Input((), dtype="int32")
    norm = layers.DomainBatchNormalization(num_domains=2)
    model = randomised(keras.Model([inputs, domain], norm(inputs, domain=domain)))
    there = convert.to_batch_renormalization(model)
    assert type(norms(there)[0]) is layers.DomainBatchRenormalization
    back = convert.to_batch_normalization(there)
    assert type(norms(back)[0]) is layers.DomainBatchNormalization
    assert bits(back) == bits(model)
    ids = np.array([0, 1, 1, 0, 0, 1])
    np.testing.assert_array_equal(back([X, ids]), model([X, ids]))


@pytest.mark.parametrize("to", [convert.from_keras, convert.to_synchronized])
def test_renorm_of_keras_keeps_inference_and_limits(to, norms):
    model, layer = renormalized(renorm_clipping={"rmax": 3.0, "dmax": 5.0})
    converted = to(model)
    norm = norms(converted)[0]
    assert type(norm) is layers.BatchRenormalization
    assert (norm.r_max, norm.d_max, norm.momentum) == (3.0, 5.0, 0.9)
    for name in ("gamma", "beta", "moving_mean", "moving_variance"):
        np.testing.assert_array_equal(getattr(norm, name), getattr(layer, name))
    np.testing.assert_allclose(converted(X), model(X), rtol=1e-5, atol=1e-6)


def test_renorm_of_keras_trains_on_as_it_did(norms):
    model, layer = renormalized(renorm_momentum=0.9)
    converted = convert.from_keras(model)
    assert np.isinf([norms(converted)[0].r_max, norms(converted)[0].d_max]).all()
    for _ in range(3):
        np.testing.assert_allclose(
            converted(X, training=True), model(X, training=True), rtol=1e-4, atol=1e-5
        )
    np.testing.assert_allclose(norms(converted)[0].moving_mean, layer.renorm_mean, rtol=1e-5)


def test_renorm_of_keras_with_another_lower_limit_is_kept(norms):
    model, layer = renormalized(renorm_clipping={"rmax": 3.0, "rmin": 0.1}, name="other")
    with pytest.warns(UserWarning, match=r"other' stays as it is: `rmin` must be 1 / rmax"):
        converted = convert.from_keras(model)
    assert type(norms(converted)[0]) is type(layer)
    for actual, desired in zip(converted.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(actual, desired)


@keras.saving.register_keras_serializable("norms_test")
class Frozen(keras.layers.BatchNormalization):
    def call(self, inputs, training=None, mask=None):
        return super().call(inputs, training=False, mask=mask)


def test_a_subclass_is_kept(norms):
    model = keras.Sequential([keras.Input((5,)), Frozen(name="frozen")])
    with pytest.warns(UserWarning, match="Frozen layer '.*frozen' stays.*to a subclass"):
        assert type(norms(convert.from_keras(model))[0]) is Frozen


@keras.saving.register_keras_serializable("norms_test")
class Ours(layers.BatchNormalization):
    pass


def test_a_subclass_of_ours_is_synchronized_and_not_replaced(norms):
    model = keras.Sequential([keras.Input((5,)), Ours(name="ours")])
    converted = convert.to_synchronized(model)
    assert [(type(norm), norm.synchronized) for norm in norms(converted)] == [(Ours, True)]
    with pytest.warns(UserWarning, match="Ours layer '.*ours' stays.*to a subclass"):
        assert type(norms(convert.to_batch_renormalization(model))[0]) is Ours


def test_a_report_of_all_that_normalizes():
    model = keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.BatchNormalization(name="a"),
            keras.layers.LayerNormalization(name="b"),
            keras.layers.BatchNormalization(
                renorm=True, renorm_clipping={"rmax": 2, "rmin": 0}, name="c"
            ),
            layers.BatchRenormalization(name="d"),
        ],
        name="net",
    )
    reports = []
    convert.to_batch_renormalization(model, r_max=2, report=reports.append)
    (report,) = reports
    assert report.replaced == (
        convert.Change("net/a", "BatchNormalization", "BatchRenormalization"),
        convert.Change("net/d", "BatchRenormalization", "BatchRenormalization"),
    )
    assert [change.layer for change in report.kept] == ["net/b", "net/c"]
    assert report.kept[1].note.startswith("`rmin` must be 1 / rmax")


def test_to_keras_gives_layers_of_keras_only(norms, randomised):
    model = randomised(sequential())
    reports = []
    converted = convert.to_keras(model, report=reports.append)
    assert not any(type(x).__module__.startswith("keras_renorm") for x in converted.layers)
    assert [x.name for x in converted.layers[-2:]] == ["third", "third_activation"]
    assert [x.name for x in norms(converted)] == [x.name for x in norms(model)]
    assert norms(converted)[2].synchronized
    assert [change.note for change in reports[0].replaced] == [
        "without r_max, d_max",
        "activation in a layer of its own",
    ]
    assert bits(converted) == [w.numpy().tobytes() for w in model.weights if w.shape != ()]
    np.testing.assert_allclose(converted(X), model(X), rtol=1e-5, atol=1e-5)
    back = convert.from_keras(converted)
    np.testing.assert_array_equal(back(X), convert.from_keras(model)(X))


def test_to_keras_has_an_activation_that_is_a_layer_follow():
    norm = layers.BatchNormalization(activation=keras.layers.PReLU(name="slopes"), name="norm")
    reports = []
    converted = convert.to_keras(one_layer(norm), report=reports.append)
    assert [x.name for x in converted.layers] == ["norm", "slopes"]
    assert reports[0].replaced[0].note == "activation in a layer of its own"


@pytest.mark.parametrize("activation", [None, "relu"])
def test_to_keras_keeps_the_regularizer_of_the_output(activation):
    norm = layers.BatchNormalization(activity_regularizer="l2", activation=activation)
    model = one_layer(norm)
    converted = convert.to_keras(model)
    for each in (model, converted):
        each(X, training=True)
    assert len(converted.losses) == 1
    np.testing.assert_allclose(converted.losses, model.losses, rtol=1e-5)


def test_to_keras_tells_of_a_regularizer_of_an_activation_that_is_a_layer():
    slopes = keras.layers.PReLU(name="slopes")
    norm = layers.BatchNormalization(activity_regularizer="l2", activation=slopes)
    reports = []
    convert.to_keras(one_layer(norm), report=reports.append)
    assert reports[0].replaced[0].note == (
        "without activity_regularizer; activation in a layer of its own"
    )


def test_to_keras_in_a_functional_model(randomised):
    inputs = keras.Input((5,))
    norm = layers.BatchNormalization(activation="relu", name="norm")
    hidden = norm(inputs)
    model = randomised(keras.Model(inputs, [norm(keras.layers.Dense(5)(hidden)), hidden]))
    converted = convert.to_keras(model)
    assert len(converted.layers) == len(model.layers) + 1
    for actual, desired in zip(converted(X - 3), model(X - 3), strict=True):
        np.testing.assert_allclose(actual, desired, rtol=1e-5, atol=1e-5)
        assert np.min(actual) == 0


def test_to_keras_keeps_what_both_have(norms):
    model = keras.Sequential(
        [
            keras.Input((5,)),
            layers.BatchNormalization(
                axis=1,
                momentum=0.8,
                epsilon=0.02,
                scale=False,
                beta_regularizer=keras.regularizers.L2(0.1),
                beta_constraint="non_neg",
                dtype="mixed_float16",
                trainable=False,
            ),
        ]
    )
    norm = norms(convert.to_keras(model))[0]
    assert (norm.axis, norm.momentum, norm.epsilon, norm.scale) == (1, 0.8, 0.02, False)
    assert type(norm.beta_regularizer) is keras.regularizers.L2
    assert type(norm.beta_constraint) is keras.constraints.NonNeg
    assert norm.dtype_policy.name == "mixed_float16"
    assert not norm.trainable


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda holder: one_layer(layers.SkipInit(name="skip")),
            "SkipInit layer '.*skip' has no equivalent in Keras. Leave it out",
        ),
        (
            lambda holder: one_layer(
                holder(layers.BatchNormalization(activation="relu", name="norm"), name="holder")
            ),
            "'norm' would become two layers, and the Holder layer 'holder' around it has room for "
            "one.* put a keras.layers.Activation",
        ),
        (
            lambda holder: one_layer(
                holder(
                    layers.BatchNormalization(activation=keras.layers.PReLU(), name="a"),
                    name="holder",
                )
            ),
            "'a' would become two layers, and the Holder layer 'holder' around it has room for one",
        ),
        (
            lambda holder: keras.Sequential(
                [
                    keras.Input((5, 1)),
                    keras.layers.TimeDistributed(
                        layers.BatchNormalization(activation="relu", name="norm"), name="td"
                    ),
                ]
            ),
            "'norm' would become two layers, and the TimeDistributed layer 'td' around it has room "
            "for one",
        ),
    ],
)
def test_what_keras_has_not_is_refused(make, message, holder):
    with pytest.raises(ValueError, match=message):
        convert.to_keras(make(holder))


@pytest.mark.parametrize(
    "to", [convert.from_keras, convert.to_batch_renormalization, convert.to_keras]
)
def test_training_goes_on(to):
    x = np.random.default_rng(0).normal(size=(4, 6, 6, 3)).astype("f4")
    images = keras.Input((6, 6, 3))
    hidden = keras.layers.Conv2D(4, 3)(images)
    hidden = layers.BatchNormalization(activation="relu")(hidden)
    hidden = keras.layers.DepthwiseConv2D(3)(hidden)
    hidden = keras.layers.BatchNormalization()(hidden)
    model = keras.Model(images, keras.layers.Dense(3)(keras.layers.Flatten()(hidden)))
    model = to(model)
    before = model.get_weights()
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x, np.array([0, 1, 2, 0]), verbose=0)
    for variable, value in zip(model.weights, before, strict=True):
        # The bias has a gradient of 0: the norm after it takes the bias away again.
        if "conv" not in variable.path or "kernel" in variable.path:
            assert not np.array_equal(variable, value), variable.path
    assert all(np.isfinite(w).all() for w in model.get_weights())


@pytest.mark.parametrize("fits", [True, False])
@pytest.mark.parametrize("norm", [layers.BatchNormalization, keras.layers.BatchNormalization])
def test_limits_of_a_trained_net_open_as_its_statistics_fit(rng, norm, fits):
    model = keras.Sequential([keras.Input((6,)), norm(momentum=0.9)])
    for _ in range(60):
        model(rng.normal(2.0, 3.0, (64, 6)).astype("f4"), training=True)
    converted = convert.to_batch_renormalization(model, momentum=0.99).layers[0]
    np.testing.assert_array_equal(converted.moving_mean, model.layers[0].moving_mean)
    assert converted.current_limits() == (1.0, 0.0)
    shift = 0.0 if fits else 30.0
    before = np.array(converted.moving_mean)
    for step in range(20):
        converted(rng.normal(2.0 + shift, 3.0, (8, 6)).astype("f4"), training=True)
        if not step:  # the trained statistics stay
            assert np.abs(converted.moving_mean - before).max() < 0.01 * (shift + 9.0)
    limits = converted.current_limits()
    # The mean of 8 examples is off by 1 / sqrt(8) of their deviation: three times that is 1.06.
    assert limits.d_max > 0.5 if fits else limits.d_max < 0.1


def test_ghost_batches_have_no_place_in_keras(norms):
    norm = layers.BatchNormalization(virtual_batch_size=2, name="norm")
    model = keras.Sequential([keras.Input((5,)), norm], name="net")
    assert norms(convert.to_batch_renormalization(model))[0].virtual_batch_size == 2
    reports = []
    convert.to_keras(model, report=reports.append)
    assert reports[0].replaced[0].note == "without virtual_batch_size"
    with pytest.warns(UserWarning, match=r"'net/norm' stays as it is: .*virtual_batch_size"):
        convert.to_synchronized(model)


@pytest.mark.parametrize(
    ("policy", "note"),
    [
        ("float16", "moving statistics rounded to float16"),
        ("bfloat16", "moving statistics rounded to bfloat16"),
        ("mixed_float16", ""),
        ("float64", ""),
    ],
)
def test_statistics_that_keras_rounds_are_reported(policy, note):
    model = keras.Sequential([keras.Input((5,)), layers.BatchNormalization(dtype=policy)])
    reports = []
    convert.to_keras(model, report=reports.append)
    assert reports[0].replaced[0].note == note


def test_frozen_statistics_go_along_or_are_reported():
    """What `statistics.freeze` did: the copy must not train on the minibatch's moments."""
    model = keras.Sequential([keras.Input((5,)), keras.layers.BatchNormalization()])
    statistics.freeze(model, affine_trainable=False)
    ours = convert.to_batch_renormalization(model)
    assert ours.layers[0].frozen_statistics
    assert ours.trainable_variables == []
    reports = []
    convert.to_keras(ours, report=reports.append)
    assert reports[0].replaced[0].note == "without r_max, d_max, frozen_statistics"


def test_frozen_statistics_of_what_is_kept_go_along():
    model = keras.Sequential(
        [keras.Input((5,)), keras.layers.BatchNormalization(), layers.BatchNormalization()]
    )
    statistics.freeze(model, affine_trainable=False)
    kept = convert.to_keras(model, report=lambda report: None).layers[0]
    assert statistics.is_frozen(kept)
    assert kept.trainable_variables == []
    assert kept.trainable
    kept(X, training=True)
    np.testing.assert_array_equal(kept.moving_mean, np.zeros(5))


@pytest.mark.parametrize("built", [True, False])
@pytest.mark.parametrize("to", [convert.from_keras, convert.to_synchronized])
def test_frozen_statistics_go_along_into_a_class(to, built, norms, holder):
    model = one_layer(holder(keras.layers.BatchNormalization()))
    if not built:
        model = keras.Sequential([holder(keras.layers.BatchNormalization())])
    statistics.freeze(model)
    (norm,) = norms(to(model))
    assert isinstance(norm, layers.BatchNormalization)
    assert norm.frozen_statistics
    statistics.unfreeze(model)
    assert not statistics.is_frozen(norms(to(model))[0])


@pytest.mark.parametrize("renorm", [False, True])
def test_training_goes_on_from_the_statistics_of_a_trained_net(rng, renorm):
    """Those of Keras are no less worth to adaptive limits than those that they averaged."""
    norm = keras.layers.BatchNormalization(momentum=0.9, renorm=renorm)
    model = keras.Sequential([keras.Input((4,)), norm])
    for _ in range(50):
        model(rng.normal(5.0, 2.0, (32, 4)).astype("f4"), training=True)
    before = np.float64(keras.ops.convert_to_numpy(norm.moving_mean))
    new = convert.to_batch_renormalization(model)
    x = rng.normal(9.0, 2.0, (32, 4)).astype("f4")
    new(x, training=True)
    mean = np.float64(x).mean(0)
    after = keras.ops.convert_to_numpy(new.layers[-1].moving_mean)
    np.testing.assert_allclose(after, before + 0.1 * (mean - before), rtol=1e-5)
