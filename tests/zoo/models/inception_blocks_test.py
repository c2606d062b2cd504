import re

import keras
import numpy as np
import pytest

from zoo.models import inception_blocks
from zoo.models.head import Head
from zoo.models.normalization import create_normalizer

LAST, FIRST = (
    create_normalizer("none", data_format=layout) for layout in ("channels_last", "channels_first")
)


def test_a_tower_has_its_strides_and_padding_at_the_end():
    images = keras.Input((9, 9, 2))
    x = inception_blocks.tower(
        images, (3, 1), (4, (1, 3)), (5, 3), norm=LAST, name="a", strides=2, padding="valid"
    )
    x = inception_blocks.tower(x, (6, 3), norm=LAST, name="b", activation="sigmoid")
    model = keras.Model(images, x)
    names = ["a_1", "a_2", "a_3", "b"]
    convolutions = [model.get_layer(f"{name}_conv") for name in names]
    assert [la.output.shape[1:] for la in convolutions] == [
        *((9, 9, 3), (9, 9, 4)),
        *((4, 4, 5), (4, 4, 6)),
    ]
    assert [la.kernel_size for la in convolutions] == [(1, 1), (1, 3), (3, 3), (3, 3)]
    activations = [model.get_layer(f"{name}_activation").activation.__name__ for name in names]
    assert activations == ["relu", "relu", "relu", "sigmoid"]


@pytest.mark.parametrize("norm", [LAST, FIRST], ids=["last", "first"])
@pytest.mark.parametrize(("kind", "reduce"), [("avg", np.mean), ("max", np.max)])
def test_pooling_does_not_count_what_is_beyond_the_border(rng, norm, kind, reduce):
    # All below 0: a zero beyond the border would be the largest, and move the average.
    x = rng.uniform(-2, -1, size=(2, 4, 4, 3))
    expected = np.empty_like(x)
    for i, j in np.ndindex(4, 4):
        window = x[:, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
        expected[:, i, j] = reduce(window, axis=(1, 2))
    if norm is FIRST:
        x, expected = np.moveaxis(x, -1, 1), np.moveaxis(expected, -1, 1)
    y = inception_blocks.pool(x.astype(np.float32), kind, norm=norm, name="pool")
    np.testing.assert_allclose(y, expected, rtol=1e-5)


@pytest.mark.parametrize(("norm", "axis"), [(LAST, 3), (FIRST, 1)], ids=["last", "first"])
def test_channels_are_put_together(rng, norm, axis):
    x, y = (rng.normal(size=(2, 3, 3, 3)).astype(np.float32) for _ in range(2))
    both = inception_blocks.concatenate([x, y], norm=norm, name="both")
    np.testing.assert_array_equal(both, np.concatenate([x, y], axis))


def relu(x):
    return np.maximum(x, 0)


@pytest.mark.parametrize("norm", [LAST, FIRST], ids=["last", "first"])
def test_auxiliary_classifier_is_the_papers(rng, norm):
    shape = (9, 12, 2) if norm is LAST else (2, 9, 12)
    maps = keras.Input(shape)
    head = Head(num_classes=3, activation=None)
    outputs = inception_blocks.auxiliary_classifier(maps, norm=norm, head=head)
    model = keras.Model(maps, outputs)
    names = ("auxiliary_1_conv", "auxiliary_2_conv", "auxiliary_logits")
    weights = []
    for name in names:
        kernel, bias = model.get_layer(name).get_weights()
        weights.append((kernel.astype(np.float64), rng.normal(size=bias.shape)))
        model.get_layer(name).set_weights(weights[-1])

    x = rng.normal(size=(4, 9, 12, 2))
    # The windows of 5x5 begin at rows 0 and 3, and at columns 0, 3 and 6.
    y = np.array([[x[:, i : i + 5, j : j + 5].mean((1, 2)) for j in (0, 3, 6)] for i in (0, 3)])
    (project, bias1), (whole, bias2), (dense, bias3) = weights
    assert whole.shape == (2, 3, 128, 768)
    y = relu(np.einsum("ijbc,cd->bijd", y, project[0, 0]) + bias1)
    y = relu(np.einsum("bijd,ijdf->bf", y, whole) + bias2)
    expected = y @ dense + bias3
    images = x if norm is LAST else np.moveaxis(x, -1, 1)
    found = model(images.astype(np.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("norm", "shape"),
    [(LAST, (64, 65, 3)), (LAST, (65, None, 3)), (FIRST, (3, 65, 64)), (FIRST, (65, 65, 64))],
)
def test_images_too_small_for_the_auxiliary_head_are_named(norm, shape):
    message = (
        "needs images of a known height and width of 65 pixels or more, received input_shape="
        f"({', '.join(map(str, shape))}). Write auxiliary_head=False for others."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        inception_blocks.check_auxiliary_size(shape, norm=norm, least=65)


@pytest.mark.parametrize(("norm", "shape"), [(LAST, (65, 65, 3)), (FIRST, (3, 65, 65))])
def test_images_large_enough_for_the_auxiliary_head_pass(norm, shape):
    inception_blocks.check_auxiliary_size(shape, norm=norm, least=65)
