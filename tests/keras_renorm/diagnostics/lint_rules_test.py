"""Each rule at its limit and just beyond it, and the calls it is about. See also lint_test.py."""

import keras
import numpy as np
import pytest

from keras_renorm.diagnostics import lint_rules
from keras_renorm.layers import (
    BatchNormalization,
    BatchRenormalization,
    DomainBatchNormalization,
    DomainBatchRenormalization,
)
from keras_renorm.models import calls, is_batch_norm
from keras_renorm.schedules import Adaptive, LinearRamp

L = keras.layers
BATCH_NORMS = [BatchNormalization, L.BatchNormalization]
RENORMS = [BatchRenormalization, lambda **options: L.BatchNormalization(renorm=True, **options)]


def fixed_renorm(**options):
    return BatchRenormalization(r_max=3.0, d_max=5.0, **options)


def norm_calls(model):
    return [call for call in calls(model).calls if is_batch_norm(call.operation)]


def call_of(norm, shape=(5,), **options):
    """The one call of a norm on inputs of a shape."""
    x = keras.Input(shape)
    (call,) = norm_calls(keras.Model(x, norm(x, **options)))
    return call


@pytest.mark.parametrize(
    ("norms", "fewest"), [(BATCH_NORMS, 8), (RENORMS, 3)], ids=["norm", "renorm"]
)
@pytest.mark.parametrize("which", [0, 1], ids=["ours", "keras"])
def test_the_fewest_values_that_are_enough(norms, fewest, which):
    call = call_of(norms[which](name="norm"))
    assert lint_rules.few_values(call, lint_rules.Batch(fewest, 1)) is None
    finding = lint_rules.few_values(call, lint_rules.Batch(fewest - 1, 1))
    assert (finding.layer, finding.kind) == ("norm", "few values")
    assert f"of {fewest - 1} values per channel" in finding.message
    advice = "Raise the batch size."
    if fewest == 8:
        advice = "by keras_renorm.layers.BatchRenormalization (which needs 3)."
    assert finding.message.endswith(advice)


@pytest.mark.parametrize("values", [3, 5, 7])
def test_the_error_of_a_deviation_that_is_named(values, rng):
    """It is about 1/sqrt(2m): held against the deviations of many samples."""
    message = lint_rules.few_values(
        call_of(BatchNormalization()), lint_rules.Batch(values, 1)
    ).message
    named = float(message.split("an error of ")[1].split("%")[0]) / 100
    assert named == pytest.approx((2 * values) ** -0.5, abs=0.005)
    deviations = rng.normal(size=(values, 20_000)).std(axis=0, ddof=1)
    measured = np.sqrt(np.mean((deviations - 1) ** 2))
    assert named == pytest.approx(measured, rel=0.2)


@pytest.mark.parametrize(
    ("options", "shape", "batch", "replicas", "values"),
    [
        ({}, (5,), 16, 1, 16),
        ({}, (3, 4, 5), 16, 1, 192),
        ({"axis": 1}, (3, 4, 5), 16, 1, 320),
        ({}, (5,), 17, 4, 4),  # parts of 5, 4, 4 and 4
        ({}, (5,), 2, 4, 1),  # two of the parts are empty
        ({"synchronized": True}, (5,), 17, 4, 17),
        ({"virtual_batch_size": 4}, (5,), 16, 1, 4),
        ({"virtual_batch_size": 4}, (5,), 18, 1, 2),  # the last ghost holds the rest
        ({"virtual_batch_size": 16}, (3, 5), 16, 1, 48),
        ({"virtual_batch_size": 17}, (5,), 16, 1, 16),
        ({"virtual_batch_size": 4}, (5,), 24, 4, 2),  # of each replica's 6
        ({}, (None, 5), 16, 1, None),
    ],
)
def test_values_per_channel(options, shape, batch, replicas, values):
    call = call_of(BatchNormalization(**options), shape)
    assert lint_rules.values_per_channel(call, lint_rules.Batch(batch, replicas)) == values
    assert lint_rules.values_per_channel(call, None) is None


@pytest.mark.parametrize("kind", ["shared", "domain"])
@pytest.mark.parametrize("norm", [DomainBatchNormalization, DomainBatchRenormalization])
def test_values_of_a_domain(norm, kind):
    x, ids = keras.Input((3, 5)), keras.Input((), dtype="int32")
    layer = norm(4, batch_statistics=kind, population_statistics=kind)
    (by_ids,) = norm_calls(keras.Model([x, ids], layer(x, domain=ids)))
    one = keras.Input((), dtype="int32")
    (by_one,) = norm_calls(keras.Model([x, one], layer(x, domain=one[0])))
    part = 4 if kind == "domain" else 1
    assert lint_rules.values_per_channel(by_ids, lint_rules.Batch(16, 1)) == 48 // part
    assert lint_rules.values_per_channel(by_ids, lint_rules.Batch(3, 1)) == (3 if part == 4 else 9)
    assert (
        lint_rules.values_per_channel(call_of(layer, (3, 5), domain=1), lint_rules.Batch(16, 1))
        == 48
    )
    assert lint_rules.values_per_channel(by_one, lint_rules.Batch(16, 1)) == 48


def test_a_mask_of_the_examples_is_no_ids():
    x, mask = keras.Input((5,)), keras.Input((), dtype="bool")
    layer = DomainBatchNormalization(4, batch_statistics="domain", population_statistics="domain")
    (call,) = norm_calls(keras.Model([x, mask], layer(x, domain=1, mask=mask)))
    assert lint_rules.values_per_channel(call, lint_rules.Batch(16, 1)) == 16


@pytest.mark.parametrize(
    ("layer", "batch", "advice"),
    [
        (BatchNormalization(virtual_batch_size=2), (64, 1), "Choose a larger virtual_batch_size"),
        (BatchNormalization(), (8, 2), "Set synchronized=True, or raise the batch size."),
        (BatchNormalization(synchronized=True), (4, 2), "layers.BatchRenormalization (which needs"),
        (BatchRenormalization(), (4, 2), "Set synchronized=True, or raise the batch size."),
        (BatchRenormalization(synchronized=True), (2, 2), "passes through it. Raise the batch"),
        (L.BatchNormalization(), (1, 1), "statistics of 1 value per channel"),
    ],
)
def test_what_to_do_about_few_values(layer, batch, advice):
    finding = lint_rules.few_values(call_of(layer), lint_rules.Batch(*batch))
    assert advice in finding.message


def test_frozen_norms_need_no_values():
    for layer in (BatchNormalization(trainable=False), BatchNormalization(frozen_statistics=True)):
        assert lint_rules.few_values(call_of(layer), lint_rules.Batch(1, 1)) is None


@pytest.mark.parametrize("second", BATCH_NORMS + RENORMS)
@pytest.mark.parametrize(
    ("first", "named"),
    [
        (BatchNormalization(), True),
        (BatchNormalization(activation="linear"), True),
        (L.BatchNormalization(), True),
        (BatchNormalization(activation="relu"), False),
        (BatchNormalization(activation=L.PReLU()), False),
        (L.LayerNormalization(), False),
    ],
    ids=str,
)
def test_norm_after_norm(first, named, second):
    x = keras.Input((5,))
    first = type(first).from_config(first.get_config() | {"name": "first"})
    y = second(name="second")(first(x))
    finding = lint_rules.norm_after_norm(norm_calls(keras.Model(x, y))[-1])
    assert (finding is not None) == named
    if named:
        assert (finding.layer, finding.kind) == ("second", "norm after norm")


def test_a_norm_on_the_inputs_follows_nothing():
    call = call_of(BatchNormalization())
    assert lint_rules.norm_after_norm(call) is None
    assert lint_rules.useless_bias(call, [call]) is None


@pytest.mark.parametrize(
    ("layer", "named"),
    [
        (L.Dense(4), True),
        (L.Dense(4, use_bias=False), False),
        (L.Dense(4, trainable=False), False),
        (L.Dense(4, activation="tanh"), False),
        (L.Conv1D(4, 1), True),
        (L.Conv1D(6, 1, data_format="channels_first"), False),
        (L.EinsumDense("abc,cd->abd", (6, 4), bias_axes="bd"), False),
    ],
    ids=lambda value: value.name if isinstance(value, L.Layer) else str(value),
)
def test_useless_bias(layer, named):
    x = keras.Input((6, 6))
    layer = type(layer).from_config(layer.get_config() | {"name": "before"})
    model = keras.Model(x, BatchNormalization()(layer(x)))
    (call,) = norm_calls(model)
    finding = lint_rules.useless_bias(call, calls(model).calls)
    assert (finding is not None) == named
    if named:
        assert (finding.layer, finding.kind) == ("before", "useless bias")
        assert "its 4 values get no gradient" in finding.message


def test_a_bias_of_channels_first_before_a_norm_of_axis_1():
    x = keras.Input((6, 6))
    layer = L.Conv1D(4, 1, data_format="channels_first", name="before")
    model = keras.Model(x, BatchNormalization(axis=1)(layer(x)))
    (call,) = norm_calls(model)
    assert lint_rules.useless_bias(call, calls(model).calls).layer == "before"


def kinds(findings):
    return [(finding.layer, finding.kind) for finding in findings]


def test_a_norm_is_shared_by_nested_models():
    """It has a name in each of them, and in each it is called once."""
    norm = BatchNormalization(name="norm")
    towers = []
    for name in ("one", "two"):
        x = keras.Input((5,))
        towers.append(keras.Model(x, norm(L.ReLU()(x)), name=name))
    a, b = keras.Input((5,)), keras.Input((5,))
    calls = norm_calls(keras.Model([a, b], towers[0](a) + towers[1](b)))
    assert {call.name for call in calls} == {"one/norm", "two/norm"}
    (finding,) = lint_rules.shared(calls)
    assert (finding.layer, finding.kind) == (calls[0].name, "shared norm")
    assert f"{calls[0].name} is called on 2 inputs" in finding.message


@pytest.mark.parametrize(("kind", "findings"), [("domain", 0), ("shared", 1)])
def test_a_norm_with_statistics_for_each_input_is_not_shared(kind, findings):
    norm = DomainBatchNormalization(2, batch_statistics=kind, population_statistics=kind)
    inputs = [keras.Input((5,)) for _ in range(2)]
    model = keras.Model(inputs, [norm(x, domain=k) for k, x in enumerate(inputs)])
    assert len(list(lint_rules.shared(norm_calls(model)))) == findings


def test_norms_that_are_not_shared():
    """Called twice on one tensor, frozen, or two of one name in different models."""
    x = keras.Input((5,))
    twice, frozen = BatchNormalization(), BatchNormalization(trainable=False)
    y = twice(x) + twice(x) + frozen(frozen(x))
    for name in ("one", "two"):
        y = keras.Sequential([keras.Input((5,)), BatchNormalization(name="norm")], name=name)(y)
    assert list(lint_rules.shared(norm_calls(keras.Model(x, y)))) == []
    assert list(lint_rules.shared([])) == []


@pytest.mark.parametrize("norm", [*BATCH_NORMS, RENORMS[1], fixed_renorm])
@pytest.mark.parametrize(
    ("momentum", "num_steps", "rest"),
    [
        (0.05, 1, None),
        (0.0501, 1, "5%"),
        (0.5, 4, "6%"),  # 1/16
        (0.5, 5, None),  # 1/32
        (0.99, 298, "5%"),
        (0.99, 299, None),
        (0.99, None, None),
    ],
)
def test_the_momentum_leaves_at_most_a_twentieth_of_the_initial_values(
    norm, momentum, num_steps, rest
):
    found = list(lint_rules.settings("norm", norm(momentum=momentum), num_steps))
    found = [finding for finding in found if finding.kind == "momentum"]
    assert len(found) == (rest is not None)
    if found:
        assert found[0].layer == "norm"
        assert f"still make up {rest} of its moving statistics after {num_steps} " in str(found[0])


def test_adaptive_limits_forget_the_initial_values_at_once():
    layer = BatchRenormalization(momentum=0.99)
    assert isinstance(layer.r_max, Adaptive)
    assert list(lint_rules.settings("norm", layer, 100)) == []


def test_the_momentum_of_the_advice_forgets_in_300_steps():
    finding = next(lint_rules.settings("norm", BatchNormalization(momentum=1.0), None))
    assert "(0.99 forgets in 300 steps)" in finding.message
    assert 0.99**300 < 0.05 < 0.99**250


def test_settings_of_a_frozen_layer_do_not_matter():
    ramp = LinearRamp(1, 3, 0, 10)
    layer = BatchRenormalization(momentum=1.0, r_max=ramp, d_max=LinearRamp(0, 5, 0, 10))
    assert kinds(lint_rules.settings("norm", layer, 5)) == [
        ("norm", "momentum"),
        ("norm", "unfinished schedule"),
        ("norm", "unfinished schedule"),
    ]
    layer.trainable = False
    assert list(lint_rules.settings("norm", layer, 5)) == []


EVERY_NORM = [*BATCH_NORMS, *RENORMS, lambda **options: DomainBatchNormalization(2, **options)]


@pytest.mark.parametrize("norm", EVERY_NORM)
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize(
    ("statistic", "value", "shown"),
    [
        ("moving_variance", -0.2, "-0.2"),
        ("moving_variance", -1e-4, "-0.0001"),  # epsilon hides it
        ("moving_variance", np.nan, "nan"),
        ("moving_variance", np.inf, "inf"),
        ("moving_mean", np.nan, "nan"),
        ("moving_mean", -np.inf, "-inf"),
    ],
)
def test_statistics_that_none_can_be_are_named(norm, frozen, statistic, value, shown):
    layer = norm(name="norm", trainable=not frozen)
    layer.build((None, 4))
    assert list(lint_rules.broken_statistics("enc/norm", layer)) == []
    variable = getattr(layer, statistic)
    values = np.array(keras.ops.convert_to_numpy(variable))
    values[..., 2] = value
    variable.assign(values)
    (finding,) = lint_rules.broken_statistics("enc/norm", layer)
    assert (finding.layer, finding.kind) == ("enc/norm", "broken statistics")
    of = f"1 of {values.size} values" if values.size == 4 else f"2 of {values.size} values"
    assert f"enc/norm holds {shown} in its {statistic}, in {of}" in finding.message
    assert "keras_renorm.statistics.precise" in finding.message


def test_all_that_keras_keeps_for_its_renorm_is_looked_at():
    layer = L.BatchNormalization(renorm=True, name="norm")
    layer.build((None, 2))
    layer.renorm_stddev.assign([1.0, -3.0])
    layer.moving_stddev.assign([np.nan, 1.0])
    messages = [finding.message for finding in lint_rules.broken_statistics("norm", layer)]
    assert ["moving_stddev" in messages[0], "renorm_stddev" in messages[1]] == [True, True]


def test_statistics_of_any_size_and_of_layers_without_weights_are_no_fault():
    layer = BatchNormalization()
    assert list(lint_rules.broken_statistics("norm", layer)) == []
    layer.build((None, 3))
    layer.moving_variance.assign([0.0, 1e-30, 3e38])
    layer.moving_mean.assign([0.0, -3e38, 3e38])
    assert list(lint_rules.broken_statistics("norm", layer)) == []
