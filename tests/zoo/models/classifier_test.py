import keras
import numpy as np
import pytest

from zoo.models.classifier import classifier


def make_head(activation):
    features = keras.Input((6,))
    return keras.Model(features, classifier(features, 3, activation))


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
