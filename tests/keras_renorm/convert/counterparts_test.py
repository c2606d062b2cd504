import keras
import numpy as np
import pytest

from keras_renorm import layers, schedules, statistics
from keras_renorm.convert import counterparts

L = keras.layers
BN = layers.BatchNormalization
BRN = layers.BatchRenormalization
DomainBN = layers.DomainBatchNormalization
DomainBRN = layers.DomainBatchRenormalization


@keras.saving.register_keras_serializable("counterparts_test")
class Own(BN):
    pass


@keras.saving.register_keras_serializable("counterparts_test")
class OwnOfKeras(L.BatchNormalization):
    pass


class PixelNormalization(L.Layer):
    """A layer that normalises, by its name only."""


OTHERS = {
    "domains": lambda: DomainBN(num_domains=2),
    "domains, renorm": lambda: DomainBRN(num_domains=2),
    "subclass": Own,
    "subclass of Keras's": OwnOfKeras,
    "layer norm": L.LayerNormalization,
    "dense": lambda: L.Dense(3, activation="relu"),
}
# All options that Keras and we have in common, none at its default.
COMMON = {
    "name": "norm",
    "trainable": False,
    "axis": 1,
    "momentum": 0.8,
    "epsilon": 0.02,
    "center": False,
    "scale": False,
}
OBJECTS = {
    "beta_initializer": keras.initializers.Constant(2.0),
    "gamma_initializer": keras.initializers.Constant(3.0),
    "moving_mean_initializer": keras.initializers.Constant(4.0),
    "moving_variance_initializer": keras.initializers.Constant(5.0),
    "beta_regularizer": keras.regularizers.L1(0.1),
    "gamma_regularizer": keras.regularizers.L2(0.2),
    "beta_constraint": keras.constraints.NonNeg(),
    "gamma_constraint": keras.constraints.MaxNorm(1.5),
}
VECTORS = ("gamma", "beta", "moving_mean", "moving_variance")


def assert_has_options(layer, policy):
    """That a layer has `COMMON`, `OBJECTS` and a dtype policy."""
    assert {key: getattr(layer, key) for key in COMMON} == COMMON
    for key, value in OBJECTS.items():
        assert type(getattr(layer, key)) is type(value), key
        assert getattr(layer, key).get_config() == value.get_config(), key
    assert layer.dtype_policy.name == policy


def built(layer, shape=(None, 4)):
    layer.build(shape)
    return layer


def bits(layer):
    values = {name: getattr(layer, name) for name in VECTORS}
    return {
        name: (value.dtype, keras.ops.convert_to_numpy(value).tobytes())
        for name, value in values.items()
    }


def filled(layer):
    """A layer whose vectors are all different."""
    for start, name in enumerate(VECTORS):
        vector = getattr(layer, name)
        values = 0.1 + start + np.arange(np.prod(vector.shape)) / 7
        vector.assign(values.reshape(vector.shape))
    return layer


def test_each_layer_has_its_counterpart():
    assert list(counterparts.RENORM_OF.items()) == [(BN, BRN), (DomainBN, DomainBRN)]
    assert list(counterparts.PLAIN_OF.items()) == [(BRN, BN), (DomainBRN, DomainBN)]


@pytest.mark.parametrize("make", [L.BatchNormalization, BN, BRN])
def test_norms_of_one_affine_are_told(make):
    assert counterparts.is_one_affine(make())


def test_a_batch_norm_of_keras_with_renorm_is_one():
    assert counterparts.is_one_affine(L.BatchNormalization(renorm=True))


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
def test_other_layers_are_not_one_affine(make):
    assert not counterparts.is_one_affine(make())


@pytest.mark.parametrize("other", [None, BN, "BatchNormalization"])
def test_what_is_no_layer_is_not_one_affine(other):
    assert not counterparts.is_one_affine(other)


@pytest.mark.parametrize("kind", [BN, BRN])
@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "float64"])
def test_as_keras_keeps_what_both_have(kind, policy):
    keras_layer = counterparts.as_keras(kind(**COMMON, **OBJECTS, dtype=policy))
    assert type(keras_layer) is L.BatchNormalization
    assert_has_options(keras_layer, policy)
    assert not keras_layer.renorm
    assert not keras_layer.synchronized


@pytest.mark.parametrize("kind", [BN, BRN])
def test_as_keras_of_the_defaults(kind):
    """Configurations leave defaults out, so that Keras's must be the same."""
    keras_layer = counterparts.as_keras(kind())
    assert (keras_layer.axis, keras_layer.momentum, keras_layer.epsilon) == (-1, 0.99, 1e-3)
    assert keras_layer.center
    assert keras_layer.scale
    assert keras_layer.trainable
    keras_layer.build((None, 4))
    values = [keras.ops.convert_to_numpy(getattr(keras_layer, name)).tolist() for name in VECTORS]
    assert values == [[1.0] * 4, [0.0] * 4, [0.0] * 4, [1.0] * 4]


def test_as_keras_leaves_out_what_keras_has_not():
    ramp = schedules.LinearRamp(1.0, 3.0, 2, 9)
    options = {"activation": "relu", "virtual_batch_size": 2, "frozen_statistics": True}
    keras_layer = counterparts.as_keras(BRN(r_max=ramp, d_max=1.0, name="norm", **options))
    assert keras_layer.name == "norm"
    assert not keras_layer.renorm
    for name in ("r_max", "d_max", "activation", "virtual_batch_size"):
        assert not hasattr(keras_layer, name)
    assert not statistics.is_frozen(keras_layer)


def test_as_keras_keeps_the_moments_of_all_replicas():
    assert counterparts.as_keras(BN(synchronized=True)).synchronized


@pytest.mark.parametrize("make", [*OTHERS.values(), L.BatchNormalization])
def test_keras_has_nothing_for_other_layers(make):
    assert counterparts.as_keras(make()) is None


@pytest.mark.parametrize("kind", [BN, BRN])
def test_keras_computes_in_inference_what_ours_does_and_the_activation_follows(kind):
    norm = built(kind(epsilon=1.0, activation="relu"), (None, 2))
    for name, values in zip(VECTORS, ([2, 5], [1, 1], [3, 10], [3, 24]), strict=True):
        getattr(norm, name).assign(values)
    keras_layer, follows = (
        built(counterparts.as_keras(norm), (None, 2)),
        counterparts.activation_after(norm),
    )
    counterparts.hand_over_norm(norm, keras_layer)
    # The deviations are sqrt(3 + 1) = 2 and sqrt(24 + 1) = 5: y = x - 3 + 1 and x - 10 + 1.
    y = keras_layer(np.array([[5, 8], [0, 12]], "f4"))
    np.testing.assert_allclose(y, [[3, -1], [-2, 3]], atol=1e-5)
    np.testing.assert_allclose(follows(y), [[3, 0], [0, 3]], atol=1e-5)


@pytest.mark.parametrize("kind", [BN, BRN])
def test_a_function_follows_as_a_layer(kind):
    norm = kind(activation="relu", name="norm", dtype="mixed_float16")
    layer = counterparts.activation_after(norm)
    assert type(layer) is L.Activation
    assert layer.activation is keras.activations.relu
    assert layer.name == "norm_activation"
    assert layer.dtype_policy.name == "mixed_float16"


def test_the_activation_of_domains_and_subclasses_follows():
    for norm in (DomainBN(num_domains=2, activation="tanh"), Own(activation="tanh")):
        assert counterparts.activation_after(norm).activation is keras.activations.tanh


def test_an_activation_that_is_a_layer_is_given_as_it_is():
    slopes = L.PReLU(name="slopes")
    assert counterparts.activation_after(BN(activation=slopes)) is slopes


@pytest.mark.parametrize(
    "layer",
    [BN(), BN(activation="linear"), L.BatchNormalization(), L.Dense(3, activation="relu")],
    ids=["default", "linear", "Keras's", "no norm"],
)
def test_nothing_follows(layer):
    assert counterparts.activation_after(layer) is None


@pytest.mark.parametrize(
    "activation", [None, BN().activation, L.Dense(3).activation, L.Activation("linear").activation]
)
def test_linear_activations(activation):
    assert counterparts.is_linear(activation)


@pytest.mark.parametrize(
    "activation", [keras.activations.relu, keras.activations.tanh, L.PReLU(), lambda x: 2 * x]
)
def test_other_activations(activation):
    assert not counterparts.is_linear(activation)


PAIRS = {
    "to ours": (L.BatchNormalization, BN),
    "to Keras's": (BRN, L.BatchNormalization),
    "renorm of Keras's": (lambda **o: L.BatchNormalization(renorm=True, **o), BRN),
    "domains": (lambda **o: DomainBN(num_domains=2, **o), lambda **o: DomainBRN(2, **o)),
}


@pytest.mark.parametrize(("make_old", "make_new"), PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_weights_go_over_by_their_names(make_old, make_new, dtype):
    old, new = filled(built(make_old(dtype=dtype))), built(make_new(dtype=dtype))
    before = bits(old)
    assert len({value for _, value in before.values()}) == 4
    counterparts.hand_over_norm(old, new)
    assert bits(new) == before
    assert bits(old) == before


def test_statistics_that_half_precision_does_not_hold_are_refused():
    old, new = BN(dtype="float16", name="norm"), L.BatchNormalization(dtype="float16")
    for layer in (old, new):
        layer.build((None, 2))
    old.moving_variance.assign([1.0, 1e6])
    problem = r"'norm' has 1e\+06 in its moving_variance, which is too large for the new layer's"
    with pytest.raises(ValueError, match=problem):
        counterparts.hand_over_norm(old, new)
    old.moving_mean.assign([0.0, -65504.0])
    old.moving_variance.assign([np.inf, 6e4])
    counterparts.hand_over_norm(old, new)
    np.testing.assert_array_equal(new.moving_variance.numpy(), np.float16([np.inf, 6e4]))


def test_float64_statistics_of_any_size_go_over():
    old, new = BN(dtype="float64"), L.BatchNormalization(dtype="float64")
    for layer in (old, new):
        layer.build((None, 2))
    old.moving_variance.assign([1.0, 1e39])
    counterparts.hand_over_norm(old, new)
    np.testing.assert_array_equal(new.moving_variance.numpy(), [1.0, 1e39])


def test_weights_go_over_bit_for_bit():
    """With the sign of zero, the payload of NaN, and numbers too small for a full mantissa."""
    values = np.array([0x80000000, 0x7FC00001, 0x00000001, 0xFF800000], "u4").view("f4")
    old, new = built(BN()), built(BRN())
    for name in VECTORS:
        getattr(old, name).assign(values)
    counterparts.hand_over_norm(old, new)
    for name in VECTORS:
        actual = keras.ops.convert_to_numpy(getattr(new, name))
        np.testing.assert_array_equal(actual.view("u4"), values.view("u4"))


def test_the_copy_has_variables_of_its_own():
    old, new = filled(built(BN())), built(BN())
    counterparts.hand_over_norm(old, new)
    before = bits(old)
    new.gamma.assign(np.zeros(4))
    assert bits(old) == before


@pytest.mark.parametrize("parameter", ["center", "scale"])
def test_a_parameter_that_neither_has_is_left_out(parameter):
    old, new = (built(kind(**{parameter: False})) for kind in (L.BatchNormalization, BN))
    old.moving_mean.assign([1, 2, 3, 4])
    counterparts.hand_over_norm(old, new)
    assert {"center": new.beta, "scale": new.gamma}[parameter] is None
    assert len(new.weights) == 3
    np.testing.assert_array_equal(new.moving_mean, [1, 2, 3, 4])


def test_the_count_of_updates_goes_over():
    ramp = schedules.LinearRamp(1.0, 3.0, 2, 6)
    old, new = (built(BRN(r_max=ramp, d_max=1.0)) for _ in range(2))
    old.update_count.assign(4)
    counterparts.hand_over_norm(old, new)
    assert int(new.update_count) == 4
    assert new.current_limits().r_max == 2.0  # halfway


@pytest.mark.parametrize("make", [BN, lambda: BRN(r_max=3.0, d_max=1.0), L.BatchNormalization])
def test_a_count_of_updates_that_the_other_has_not_stays(make):
    ramp = schedules.LinearRamp(1.0, 3.0, 2, 6)
    counting, other = built(BRN(r_max=ramp, d_max=1.0)), built(make())
    counting.update_count.assign(3)
    counterparts.hand_over_norm(other, counting)
    assert int(counting.update_count) == 3
    counterparts.hand_over_norm(counting, other)
    assert len(other.weights) == 4


@pytest.mark.parametrize("trained", [["gamma", "beta"], ["gamma"], ["beta"], []])
def test_whether_parameters_are_trained_goes_over(trained):
    old, new = built(L.BatchNormalization()), built(BN())
    for name in ("gamma", "beta"):
        getattr(old, name).trainable = name in trained
    counterparts.hand_over_norm(old, new)
    assert [variable.name for variable in new.trainable_variables] == trained
    assert new.trainable


def test_parameters_of_a_layer_that_is_not_trained_are_not():
    new = built(BN(trainable=False))
    counterparts.hand_over_norm(built(L.BatchNormalization()), new)
    assert not any(variable.trainable for variable in new.variables)
    assert not new.trainable


def test_statistics_are_never_trained():
    new = built(BN())
    counterparts.hand_over_norm(built(L.BatchNormalization()), new)
    assert [variable.name for variable in new.non_trainable_variables] == [
        "moving_mean",
        "moving_variance",
    ]


def test_normalizations_are_told_by_class_and_name():
    model = keras.Sequential(
        [
            keras.Input((4, 4)),
            L.Dense(4),
            L.BatchNormalization(name="keras"),
            L.Dropout(0.5),
            BRN(name="renorm"),
            Own(name="subclass"),
            layers.SkipInit(),
            L.LayerNormalization(name="layer"),
            L.GroupNormalization(2, name="group"),
            PixelNormalization(name="named"),
            L.TimeDistributed(BN(name="wrapped")),
            keras.Sequential([keras.Input((4, 4)), BN(name="nested")]),
        ]
    )
    names = [layer.name for layer in counterparts.normalizations(model)]
    assert sorted(names) == sorted(
        ["keras", "renorm", "subclass", "layer", "group", "named", "wrapped", "nested"]
    )


def test_normalizations_of_domains_are_told():
    inputs, domain = keras.Input((5,)), keras.Input((), dtype="int32")
    norm = DomainBRN(num_domains=2)
    assert counterparts.normalizations(
        keras.Model([inputs, domain], norm(inputs, domain=domain))
    ) == [norm]


def test_a_normalization_that_is_used_often_is_given_once():
    shared = BN()
    inner = keras.Sequential([keras.Input((5,)), shared])
    inputs = keras.Input((5,))
    outputs = shared(inner(shared(inner(inputs))))
    assert counterparts.normalizations(keras.Model(inputs, outputs)) == [shared]


def test_normalizations_of_one_name_are_all_given():
    norms = [BN(name="norm") for _ in range(2)]
    model = keras.Sequential([keras.Sequential([keras.Input((5,)), norm]) for norm in norms])
    assert {id(layer) for layer in counterparts.normalizations(model)} == {
        id(norm) for norm in norms
    }


def test_a_model_without_normalizations_has_none():
    assert counterparts.normalizations(keras.Sequential([keras.Input((5,)), L.Dense(3)])) == []


@pytest.mark.parametrize(("renorm", "kind"), [(False, BN), (True, BRN)])
@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "float64"])
def test_as_ours_keeps_the_options(renorm, kind, policy):
    old = L.BatchNormalization(**COMMON, **OBJECTS, renorm=renorm, dtype=policy)
    ours = counterparts.as_ours(old)
    assert type(ours) is kind
    assert_has_options(ours, policy)
    assert ours.activation is keras.activations.linear
    assert ours.virtual_batch_size is None
    assert not ours.synchronized
    assert not ours.frozen_statistics


def test_as_ours_keeps_the_moments_of_all_replicas():
    assert counterparts.as_ours(L.BatchNormalization(synchronized=True)).synchronized


@pytest.mark.parametrize(
    ("clipping", "limits"),
    [
        (None, (np.inf, np.inf)),
        ({}, (np.inf, np.inf)),
        ({"rmax": 3.0}, (3.0, np.inf)),
        ({"dmax": 5.0}, (np.inf, 5.0)),
        ({"rmax": 4.0, "rmin": 0.25, "dmax": 5.0}, (4.0, 5.0)),
    ],
)
def test_as_ours_keeps_the_limits_of_renorm(clipping, limits):
    old = L.BatchNormalization(renorm=True, renorm_clipping=clipping)
    ours = counterparts.as_ours(old)
    assert (ours.r_max, ours.d_max) == limits


def test_as_ours_leaves_the_limits_of_a_layer_without_renorm():
    assert type(counterparts.as_ours(L.BatchNormalization(renorm_clipping={"rmax": 3.0}))) is BN


def test_as_ours_has_one_momentum():
    old = L.BatchNormalization(renorm=True, momentum=0.9, renorm_momentum=0.5)
    assert counterparts.as_ours(old).momentum == 0.9


@pytest.mark.parametrize("renorm", [False, True])
def test_as_ours_keeps_statistics_frozen(renorm):
    old = L.BatchNormalization(renorm=renorm)
    statistics.freeze(old)
    assert counterparts.as_ours(old).frozen_statistics
    statistics.unfreeze(old)
    assert not counterparts.as_ours(old).frozen_statistics


@pytest.mark.parametrize("make", [*OTHERS.values(), BN, BRN])
def test_ours_has_nothing_for_other_layers(make):
    assert counterparts.as_ours(make()) is None


def test_without_gives_the_rest_and_leaves_the_configuration():
    config = {"a": 1, "b": None, "c": [3]}
    rest = counterparts.without(config, "a", "b", "absent")
    assert rest == {"c": [3]}
    assert config == {"a": 1, "b": None, "c": [3]}


def test_without_any_key_is_a_copy():
    config = {"a": 1}
    rest = counterparts.without(config)
    assert rest == config
    assert rest is not config
