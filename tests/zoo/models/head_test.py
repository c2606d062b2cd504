import keras
import numpy as np
import pytest

from zoo.models.head import Head


def make_head(activation):
    features = keras.Input((6,))
    return keras.Model(features, Head(num_classes=3, activation=activation)(features))


def test_logits_and_probabilities(rng):
    weights = [rng.normal(size=(6, 3)), rng.normal(size=3)]
    x = rng.normal(size=(5, 6))
    logits = x @ weights[0] + weights[1]
    exponentials = np.exp(logits)
    for activation, expected in (
        (None, logits),
        ("softmax", exponentials / exponentials.sum(axis=1, keepdims=True)),
        ("sigmoid", 1 / (1 + np.exp(-logits))),
    ):
        head = make_head(activation)
        head.set_weights(weights)
        np.testing.assert_allclose(head(x.astype(np.float32)), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("policy", "dtype"), [("mixed_float16", "float32"), ("float64", "float64")]
)
def test_it_computes_in_the_type_of_its_variables(policy, dtype):
    keras.config.set_dtype_policy(policy)
    try:
        head = make_head("softmax")
    finally:
        keras.config.set_dtype_policy("float32")
    # exp(-20) = 2e-9 is 0 in float16, whose smallest number is 6e-8.
    head.set_weights([np.diag([20.0] * 6)[:, :3], np.zeros(3)])
    probabilities = head(np.eye(6)[:1])
    assert probabilities.dtype == dtype
    np.testing.assert_allclose(probabilities[0, 1:], np.exp(-20.0), rtol=1e-2)


MAPS = np.random.default_rng(1).normal(size=(2, 3, 4, 5)).astype(np.float32)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        (None, MAPS),
        ("avg", MAPS.mean(axis=(1, 2))),
        ("max", MAPS.max(axis=(1, 2))),
    ],
)
def test_without_a_top_the_features_come_out(data_format, pooling, expected):
    first = data_format == "channels_first"
    maps = MAPS.transpose(0, 3, 1, 2) if first else MAPS
    features = keras.Input(maps.shape[1:])
    head = Head(include_top=False, pooling=pooling, dropout_rate=0.5, data_format=data_format)
    model = keras.Model(features, head(features))
    assert not model.weights
    if first and pooling is None:
        expected = maps
    np.testing.assert_allclose(model(maps, training=True), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pooling", [None, "avg"])
def test_vectors_are_pooled_already(pooling):
    features = keras.Input((6,))
    assert Head(include_top=False, pooling=pooling)(features) is features


def test_maps_are_averaged_before_they_are_classified(rng):
    features = keras.Input((3, 4, 5))
    model = keras.Model(features, Head(num_classes=2, activation=None)(features))
    kernel, bias = rng.normal(size=(5, 2)), rng.normal(size=2)
    model.set_weights([kernel, bias])
    assert [layer.name for layer in model.layers[1:]] == ["pool", "logits"]
    expected = MAPS.mean(axis=(1, 2)) @ kernel + bias
    np.testing.assert_allclose(model(MAPS), expected, rtol=1e-5, atol=1e-6)


def test_dropout_drops_features_in_training_only(rng):
    features = keras.Input((1000,))
    model = keras.Model(features, Head(num_classes=1, activation=None, dropout_rate=0.2)(features))
    model.set_weights([np.ones((1000, 1)), np.zeros(1)])
    ones = np.ones((50, 1000), np.float32)
    np.testing.assert_allclose(model(ones, training=False), 1000.0)
    # Dropout divides what it keeps by 0.8, so the sum of 1000 varies by sqrt(1000 * 0.25) = 16.
    sums = np.asarray(model(ones, training=True))
    assert np.mean(sums) == pytest.approx(1000, abs=10)
    assert np.std(sums) == pytest.approx(16, rel=0.4)


def test_a_second_classifier_has_names_of_its_own():
    features = keras.Input((6,))
    head = Head(num_classes=3, dropout_rate=0.1)
    outputs = [head.classify(features), head.classify(features, prefix="auxiliary_")]
    names = [layer.name for layer in keras.Model(features, outputs).layers[1:]]
    plain = ["dropout", "logits", "predictions"]
    assert sorted(names) == sorted(plain + [f"auxiliary_{name}" for name in plain])
