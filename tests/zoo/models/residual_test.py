import keras
import numpy as np
import pytest

import zoo
from zoo.models.normalization import create_normalizer
from zoo.models.residual import Block, end_branch, residual_blocks

SMALL = {"input_shape": (8, 8, 3), "num_classes": 3, "classifier_activation": None}
FAMILIES = {"resnet20": 9, "resnet18": 8, "resnet50": 16, "resnet50v2": 16, "wide_resnet_16_2": 6}


def dropped(model):
    """The layers of stochastic depth, by their place."""
    return [layer for layer in model.layers if layer.name.endswith("_stochastic_depth")]


def make_end(rate, channels_first=False, norm="none", **options):
    """A model that is the end of one branch, of three channels."""
    images = keras.Input((3, 4, 5) if channels_first else (4, 5, 3))
    normalizer = create_normalizer(norm, options)
    return keras.Model(images, end_branch(images, Block(1, 1, 1, rate), normalizer, "block"))


def test_the_rate_rises_linearly_to_the_last_block():
    blocks = list(residual_blocks((2, 1, 2), 0.5, first_stage=2))
    places = [(block.stage, block.number) for block in blocks]
    assert places == [(2, 1), (2, 2), (3, 1), (4, 1), (4, 2)]
    assert [block.depth for block in blocks] == [5] * 5
    # Huang et al. 2016, equation 4: the survival of block l of L is 1 - l / L * (1 - p_L).
    survival = [1 - number / 5 * (1 - 0.5) for number in range(1, 6)]
    assert [1 - block.drop_rate for block in blocks] == pytest.approx(survival, abs=1e-12)
    assert {block.drop_rate for block in residual_blocks((2, 3), 0.0)} == {0.0}


@pytest.mark.parametrize("name", FAMILIES)
def test_each_branch_of_each_family_ends_with_it(name):
    count = FAMILIES[name]
    model = zoo.create_model(name, stochastic_depth_rate=0.4, **SMALL)
    layers = dropped(model)
    expected = [0.4 * number / count for number in range(1, count + 1)]
    assert [layer.rate for layer in layers] == pytest.approx(expected)
    plain = zoo.create_model(name, **SMALL)
    assert not dropped(plain)
    for layer in layers:
        block = layer.name.removesuffix("_stochastic_depth")
        (added,) = [m for m in model.layers if m.name in (f"{block}_add", f"{block}_out")][:1]
        # The branch comes second, and nothing stands between its end and the sum.
        assert added.input[1] is layer.output
        assert added.input[0] is not layer.output
    names = [layer.name for layer in model.layers if layer not in layers]
    assert sorted(names) == sorted(layer.name for layer in plain.layers)


@pytest.mark.parametrize("channels_first", [False, True])
def test_a_branch_is_dropped_by_example_or_scaled(rng, channels_first):
    keras.utils.set_random_seed(3)
    model = make_end(0.3, channels_first)
    x = rng.normal(size=(4000, *model.input_shape[1:])).astype(np.float32)
    y = keras.ops.convert_to_numpy(model(x, training=True))
    kept = np.any(y != 0, axis=(1, 2, 3))
    expected = x.astype(np.float64) * (kept / (1 - 0.3))[:, None, None, None]
    np.testing.assert_allclose(y, expected, rtol=1e-6)
    # The share of 4,000 has a deviation of sqrt(0.3 * 0.7 / 4000) = 0.0072.
    assert np.mean(kept) == pytest.approx(0.7, abs=0.03)
    again = keras.ops.convert_to_numpy(model(x, training=True))
    assert np.any(np.any(again != 0, axis=(1, 2, 3)) != kept)
    np.testing.assert_array_equal(model(x, training=False), x)


def test_the_mean_over_draws_is_the_branch(rng):
    keras.utils.set_random_seed(0)
    model = make_end(0.5)
    x = rng.normal(size=(1, 4, 5, 3)).astype(np.float32)
    y = keras.ops.convert_to_numpy(model(np.repeat(x, 10_000, axis=0), training=True))
    np.testing.assert_allclose(y.astype(np.float64).mean(0), x[0], rtol=0.05)


def test_a_scaled_branch_is_dropped_whole(rng):
    keras.utils.set_random_seed(1)
    model = make_end(0.5, norm="skip_init", initial_value=2.0)
    x = rng.normal(size=(50, 4, 5, 3)).astype(np.float32)
    y = keras.ops.convert_to_numpy(model(x, training=True))
    kept = np.any(y != 0, axis=(1, 2, 3))
    assert 0 < kept.sum() < 50
    np.testing.assert_allclose(y, 4 * x * kept[:, None, None, None], rtol=1e-6)


def test_a_dropped_block_is_its_shortcut(rng):
    keras.utils.set_random_seed(2)
    model = zoo.create_model("resnet20", norm="none", stochastic_depth_rate=0.9, **SMALL)
    names = ("stage3_block2_out", "stage3_block3_2_conv", "stage3_block3_out")
    parts = keras.Model(model.input, [model.get_layer(name).output for name in names])
    x = rng.normal(size=(200, 8, 8, 3)).astype(np.float32)
    shortcut, branch, y = (np.asarray(part, np.float64) for part in parts(x, training=True))
    formula = [np.maximum(shortcut + share * branch, 0) for share in (0, 1 / (1 - 0.9))]
    gaps = [np.abs(y - each).max(axis=(1, 2, 3)) for each in formula]
    # A branch of zeros would fit both.
    assert np.all(np.abs(formula[1] - formula[0]).max(axis=(1, 2, 3)) > 1e-2)
    assert np.all(np.minimum(*gaps) < 1e-4)
    assert 0 < np.sum(gaps[1] < 1e-4) < 60


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_it_is_saved_and_does_not_change_inference(rng, tmp_path):
    keras.utils.set_random_seed(4)
    model = zoo.create_model("resnet20", stochastic_depth_rate=0.5, **SMALL)
    plain = zoo.create_model("resnet20", **SMALL)
    plain.set_weights(model.get_weights())
    x = rng.uniform(size=(6, 8, 8, 3)).astype(np.float32)
    np.testing.assert_array_equal(model(x, training=False), plain(x, training=False))
    model(x, training=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert [layer.rate for layer in dropped(loaded)] == [layer.rate for layer in dropped(model)]
    np.testing.assert_array_equal(loaded(x, training=False), model(x, training=False))


@pytest.mark.parametrize(
    ("name", "rate", "error", "message"),
    [
        ("resnet20", 1.0, ValueError, r"`stochastic_depth_rate` must be a number of at least 0 a"),
        ("resnet50v2", -0.1, ValueError, r"`stochastic_depth_rate` must be .*, received -0\.1\."),
        ("resnet18", "0.2", TypeError, r"`stochastic_depth_rate` must be .*, received '0\.2'\."),
        ("wide_resnet_16_2", True, TypeError, r"`stochastic_depth_rate` must be .*, received Tr"),
        ("mlp", 0.2, ValueError, r"Unknown option 'stochastic_depth_rate' for model 'mlp'\. It is "
         r"for resnet101, resnet101v2, resnet110, .*, wide_resnet_40_4\. Allowed are "),
        ("inception_v3", 0.0, ValueError, r"Unknown option 'stochastic_depth_rate' for model 'in"),
    ],
)  # fmt: skip
def test_wrong_rates_are_named(name, rate, error, message):
    with pytest.raises(error, match=message):
        zoo.create_model(name, stochastic_depth_rate=rate)
