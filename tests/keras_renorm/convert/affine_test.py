import keras
import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from keras_renorm import convert, layers

L = keras.layers
BN = layers.BatchNormalization

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
def test_a_norm_is_folded_into_each_kind_of_layer(kind, norm, stack, folded, norms, notes):
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


def test_folded_layers_agree_with_float64(stack, folded, sample):
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


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float64"])
def test_dtype_policies(policy, stack, sample):
    parts = L.Conv2D(4, 3, dtype=policy), BN(dtype=policy), L.ReLU(dtype=policy)
    model = stack(*parts, shape=(6, 6, 3))
    new_model = convert.fold(model)
    assert new_model.layers[0].dtype_policy.name == policy
    actual, desired = (keras.ops.cast(m(sample(model)), "float64") for m in (new_model, model))
    tolerance = {"mixed_float16": 4e-3, "mixed_bfloat16": 4e-2, "float64": 1e-12}[policy]
    np.testing.assert_allclose(actual, desired, rtol=tolerance, atol=2 * tolerance)


def test_a_norm_of_a_large_mean_stays(stack, notes):
    model = stack(BN(name="norm"), shape=(3,))
    model.layers[0].moving_mean.assign([0, 1e6, 0])
    model.layers[0].moving_variance.assign([1, 1, 1])
    x = np.array([[0, 1e6 + 1, 0], [1, 1e6 - 2, 1]], "f4")
    reports = []
    new_model = convert.fold(model, report=reports.append)
    assert notes(reports[0]) == {"norm": "a mean beyond 64 deviations"}
    np.testing.assert_array_equal(new_model(x), model(x))


def test_channels_without_numbers_stay_so(stack, sample):
    model = stack(L.Dense(4), L.BatchNormalization(), L.ReLU(), BN(), shape=(5,))
    model.layers[1].moving_variance.assign([1, np.nan, np.inf, -3])
    model.layers[3].moving_mean.assign([np.nan, 0, 0, 0])
    x = sample(model)
    new_model = convert.fold(model)
    np.testing.assert_allclose(new_model(x), model(x), rtol=1e-5, atol=1e-5)
    assert np.isnan(new_model(x)).any()
