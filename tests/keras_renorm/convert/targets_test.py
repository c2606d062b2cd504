import keras
import numpy as np
import pytest

from keras_renorm import convert, layers

L = keras.layers
BN = layers.BatchNormalization


def test_dropout_may_stand_between(stack, folded, notes):
    parts = L.Conv2D(4, 3, name="conv"), L.SpatialDropout2D(0.5), L.Identity(), BN()
    new_model, report = folded(stack(*parts, shape=(6, 6, 3)))
    assert len(new_model.layers) == 3
    assert "folded into net/conv" in notes(report).values()


def test_channels_first(stack, folded, norms, notes):
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
def test_channels_first_where_keras_adds_biases_to_the_wrong_axis(width, stack, folded, notes):
    """Keras's `ops.add` takes the width for the channels if there are as many."""
    conv = L.Conv2D(4, 3, use_bias=False, data_format="channels_first", name="conv")
    model = stack(conv, L.BatchNormalization(axis=1, name="norm"), shape=(3, 6, width))
    _, report = folded(model)
    assert notes(report) == {"norm": "affine: Keras may add the bias of conv to the wrong axis"}


def test_channels_first_used_by_another_model_at_another_width(folded, notes):
    conv = L.Conv2D(6, 3, padding="same", data_format="channels_first", name="conv")
    conv(keras.Input((4, 7, 9)))
    inputs = keras.Input((4, 7, 6))
    model = keras.Model(inputs, L.BatchNormalization(axis=1, name="norm")(conv(inputs)))
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
def test_other_norms_become_an_affine(
    before, options, reason, kind, stack, folded, sample, norms, notes
):
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


def test_what_overflows_float16_is_not_folded(stack, notes):
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
    assert notes(reports[0]) == {"norm": "a mean beyond 64 deviations"}
    model.layers[1].moving_mean.assign([0, 0, 0])
    convert.fold(model, report=reports.append)
    assert notes(reports[1]) == {"norm": "affine: the kernel would overflow float16"}
