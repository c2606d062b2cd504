import re

import keras
import numpy as np
import pytest

import zoo

WIDE_RESNET_10_2 = """
    stem_conv
    stage1_block1_preact_norm stage1_block1_0_conv
    stage1_block1_1_conv stage1_block1_1_norm stage1_block1_2_conv
    stage2_block1_preact_norm stage2_block1_0_conv
    stage2_block1_1_conv stage2_block1_1_norm stage2_block1_2_conv
    stage3_block1_preact_norm stage3_block1_0_conv
    stage3_block1_1_conv stage3_block1_1_norm stage3_block1_2_conv
    post_norm logits
"""


def outputs_of(model, *names):
    return keras.Model(model.input, [model.get_layer(name).output for name in names])


# Zagoruyko & Komodakis 2016, tables 4 and 5, give millions; 36 479 194 is what their PyTorch
# replications count for 28-10.
@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("wide_resnet_40_1", 0.6),
        ("wide_resnet_40_2", 2.2),
        ("wide_resnet_40_4", 8.9),
        ("wide_resnet_16_8", 11.0),
        ("wide_resnet_28_10", 36.5),
    ],
)
def test_parameters_and_depth_are_the_papers(name, millions, trainable_parameters, multiply_adds):
    model = zoo.create_model(name, norm="batch_norm")
    assert round(trainable_parameters(model) / 1e6, 1) == millions
    # The paper's depth counts every convolution, those of the three shortcuts included. At width 1
    # the first of these is not needed.
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    depth, width = map(int, name.split("_")[2:])
    assert len(convolutions) == depth - (width == 1)
    if name == "wide_resnet_28_10":
        assert trainable_parameters(model) == 36_479_194
        # Papers that compare their nets with it give 5.2 x 10^9.
        assert multiply_adds(model) / 1e9 == pytest.approx(5.2, abs=0.06)


def test_layer_names_are_stable(weighted_layers):
    model = zoo.create_model("wide_resnet_10_2", input_shape=(8, 8, 3))
    assert sorted(weighted_layers(model)) == sorted(WIDE_RESNET_10_2.split())
    assert {layer.name for layer in model.layers if not layer.weights} == {
        *("images", "pool", "predictions"),
        *("stage1_block1_out", "stage2_block1_out", "stage3_block1_out"),
        *("stage2_block1_1_pad", "stage3_block1_1_pad"),
    }


@pytest.mark.slow
def test_166_blocks_a_stage_are_built(trainable_parameters, alphas):
    options = {"norm": "skip_init", "norm_options": {"initial_value": "inverse_sqrt_depth"}}
    model = zoo.create_model("wide_resnet_1000_2", **options)
    assert model.get_layer("stage3_block166_out").output.shape == (None, 8, 8, 128)
    assert alphas(model) == pytest.approx([498**-0.5] * 498)
    # Two 3x3 convolutions with biases a block, the first of a stage from 16, 32 and 64 channels.
    expected = 3 * 16 * 9 + 16 + 128 * 10 + 10 + 498
    for before, filters in ((16, 32), (32, 64), (64, 128)):
        inner = filters * filters * 9 + filters
        expected += before * filters * 10 + 2 * filters + (2 * 166 - 1) * inner
    assert trainable_parameters(model) == expected


def variances(norm, options=None):
    """Variance over batch, positions and channels after each of 6 blocks of one stage."""
    model = zoo.create_model("wide_resnet_40_4", norm=norm, norm_options=options)
    names = [f"stage1_block{block}_out" for block in range(1, 7)]
    images = np.random.default_rng(0).normal(size=(8, 32, 32, 3)).astype(np.float32)
    return np.array([np.var(y) for y in outputs_of(model, *names)(images, training=True)])


def test_variances_grow_as_the_paper_says():
    # De & Smith 2020, section 2: linearly where the branches are normalized, by a factor where
    # they are not, and hardly at all with alpha = 1 / sqrt(number of blocks).
    normalized = variances("batch_norm")
    np.testing.assert_allclose(np.diff(normalized), 1.0, rtol=0.3)
    plain = variances("none")
    assert np.all(plain[1:] / plain[:-1] > 1.5)
    scaled = variances("skip_init", {"initial_value": "inverse_sqrt_depth"})
    assert np.all(scaled[1:] / scaled[:-1] < 1.2)
    zero = variances("skip_init")
    np.testing.assert_array_equal(zero[1:], zero[:-1])


def test_a_net_without_norms_has_biases_and_dropout():
    model = zoo.create_model("wide_resnet_10_1", norm="skip_init", input_shape=(8, 8, 3))
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    assert len(convolutions) == 9
    assert all(layer.use_bias for layer in convolutions)
    assert model.get_layer("dropout").rate == 0.2
    for norm in ("batch_norm", "none"):
        model = zoo.create_model("wide_resnet_10_1", norm=norm, input_shape=(8, 8, 3))
        assert not [layer for layer in model.layers if layer.name == "dropout"]


def test_a_block_adds_branch_and_shortcut(rng):
    model = zoo.create_model("wide_resnet_16_1", norm="none", input_shape=(7, 8, 3))
    names = [f"stage1_block2_{end}" for end in ("preact_activation", "1_conv", "2_conv", "out")]
    parts = outputs_of(model, "stage1_block1_out", *names)
    x, active, first, second, y = parts(rng.normal(size=(2, 7, 8, 3)).astype(np.float32))
    np.testing.assert_array_equal(active, np.maximum(x, 0))
    kernel, bias = model.get_layer("stage1_block2_1_conv").get_weights()
    padded = np.pad(active, ((0, 0), (1, 1), (1, 1), (0, 0)))
    at_corner = np.einsum("bhwc,hwcf->bf", padded[:, :3, :3], kernel) + bias
    np.testing.assert_allclose(first[:, 0, 0], at_corner, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(y, x + second, rtol=1e-6)


@pytest.mark.parametrize(
    ("depth", "nearest"), [(1, 10), (9, 10), (12, 10), (14, 16), (17, 16), (29, 28), (999, 1000)]
)
def test_a_depth_that_does_not_fit_is_refused(depth, nearest):
    message = (
        r"The depth D of wide_resnet_D_W must be 6n\+4 \(10, 16, 22, 28, \.\.\.\), received "
        rf"{depth}\. The nearest is wide_resnet_{nearest}_2\."
    )
    with pytest.raises(ValueError, match=message):
        zoo.create_model(f"wide_resnet_{depth}_2")


@pytest.mark.parametrize("name", ["wide_resnet_16_0", "wide_resnet_016_2", "wide_resnet_16"])
def test_what_is_no_number_is_no_name(name):
    with pytest.raises(ValueError, match=rf"Unknown model '{name}'\. Did you mean 'wide_resnet_16"):
        zoo.create_model(name)


@pytest.mark.parametrize(
    ("depth", "width", "weights"), [(100_000, 100_000, "1.6e+19"), (100_000, 1, "1.6e+09"),
                                    (10, 1000, "9.7e+10")]
)  # fmt: skip
def test_a_model_that_no_memory_holds_is_refused(depth, width, weights):
    message = (
        f"wide_resnet_{depth}_{width} has about {weights} weights: a depth may be at most 4000, "
        "and the weights 2.1e+09, which is 9 GB. Choose a smaller depth or width."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        zoo.create_model(f"wide_resnet_{depth}_{width}")
