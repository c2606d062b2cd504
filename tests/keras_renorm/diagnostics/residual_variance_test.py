"""Variances against NumPy's, the law of 1/l, SkipInit's zeros, and a branch that explodes."""

import keras
import numpy as np
import pytest

from keras_renorm.diagnostics import residual_variance
from keras_renorm.layers import BatchNormalization, BatchRenormalization, SkipInit

L = keras.layers


def convolution(filters):
    return L.Conv2D(filters, 3, padding="same", kernel_initializer="he_normal")


def resnet(blocks, norm=None, alpha=None, width=16, add=None):
    """A pre-activation ResNet of blocks of two convolutions, whose skip path begins at about 1."""
    add = add or (lambda x, branch, name: L.Add(name=name)([x, branch]))
    images = keras.Input((8, 8, 3))
    x = convolution(width)(images)
    if norm:
        x = norm()(x)
    for block in range(1, blocks + 1):
        branch = x
        for _ in range(2):
            if norm:
                branch = norm()(branch)
            branch = convolution(width)(L.ReLU()(branch))
        if alpha is not None:
            branch = SkipInit(alpha)(branch)
        x = add(x, branch, f"block{block}")
    return keras.Model(images, L.GlobalAveragePooling2D()(x), name="resnet")


@pytest.fixture
def images(rng):
    return rng.normal(size=(16, 8, 8, 3)).astype("float32")


def weights(model):
    return [np.copy(keras.ops.convert_to_numpy(v)) for v in model.variables]


def test_the_ratio_falls_as_1_over_l_in_100_blocks(images):
    """De & Smith 2020, section 3: at initialisation branch/skip is about 1/l."""
    model = resnet(100, BatchNormalization)
    before = weights(model)
    report = residual_variance(model, images)
    assert report.exponent == pytest.approx(-1, abs=0.1)
    index = np.array([block.index for block in report.blocks])
    np.testing.assert_array_equal(index, np.arange(1, 101))
    # The law itself: ratio * l is the same in all blocks, up to the noise of 16 channels.
    law = np.array([block.ratio for block in report.blocks]) * index
    assert 0.75 < np.median(law) < 1.25
    assert report.findings == ()
    for old, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, keras.ops.convert_to_numpy(variable))


def test_skip_init_gives_zero(images):
    report = residual_variance(resnet(20, alpha=0.0), images)
    assert [block.branch for block in report.blocks] == [0.0] * 20
    assert [block.ratio for block in report.blocks] == [0.0] * 20
    assert report.exponent is None
    assert "Every branch is 0" in report.notes[0]
    assert report.findings == ()


def test_skip_init_of_inverse_sqrt_depth_does_not_explode(images):
    report = residual_variance(resnet(20, alpha=20**-0.5), images)
    assert report.findings == ()
    assert report.blocks[-1].skip < 10 * report.blocks[0].skip


def test_branches_of_full_size_explode_and_are_named(images):
    report = residual_variance(resnet(20, alpha=1.0), images)
    (finding,) = report.findings
    assert finding.kind == "exploding skip path"
    assert "The variance on the skip path of resnet grows from" in finding.message
    assert "End each branch with keras_renorm.layers.SkipInit()" in finding.message


def test_variances_are_numpys(rng):
    x = keras.Input((6,))
    branch = L.Dense(6, use_bias=False, name="branch")(x)
    model = keras.Model(x, L.Add(name="add")([branch, x]))
    batch = rng.normal(2.0, 3.0, size=(50, 6)).astype("float32")
    (block,) = residual_variance(model, batch).blocks
    expected = batch.astype("float64") @ model.get_layer("branch").kernel.numpy()
    assert block.skip == pytest.approx(np.var(batch.astype("float64")), rel=1e-6)
    assert block.branch == pytest.approx(np.var(expected), rel=1e-5)
    assert block.ratio == pytest.approx(
        np.var(expected) / np.var(batch.astype("float64")), rel=1e-5
    )


def test_a_plus_counts_as_an_addition(images):
    plus = resnet(3, L.BatchNormalization, add=lambda x, branch, name: branch + x)
    assert [block.index for block in residual_variance(plus, images).blocks] == [1, 2, 3]


def test_a_projection_is_the_skip_path_and_a_norm_on_it_begins_anew(rng):
    x = images = keras.Input((8, 8, 4))
    for stage in range(2):
        for _ in range(3):
            x = L.Add()([L.Dense(4)(L.ReLU()(BatchNormalization()(x))), x])
        pre = L.ReLU()(BatchNormalization()(x))
        branch = L.Dense(4)(L.ReLU()(BatchNormalization()(L.Dense(4)(pre))))
        x = L.Add(name=f"projected{stage}")([branch, L.Dense(4, name=f"projection{stage}")(pre)])
    model = keras.Model(images, x)
    batch = rng.normal(size=(8, 8, 8, 4)).astype("float32")
    report = residual_variance(model, batch)
    assert [block.index for block in report.blocks] == [1, 2, 3, 1, 2, 3, 4, 1]
    watch = keras.Model(images, model.get_layer("projection0").output)
    with keras.StatelessScope():
        skip = watch(batch, training=True)
    assert report.blocks[3].skip == pytest.approx(np.var(np.array(skip, "float64")), rel=1e-5)


def test_nested_and_shared_blocks(rng):
    x = keras.Input((4,))
    inner = keras.Model(x, L.Add(name="add")([x, L.Dense(4, activation="relu")(x)]), name="block")
    outer = keras.Input((4,))
    model = keras.Model(outer, inner(inner(outer)))
    batch = rng.normal(size=(32, 4)).astype("float32")
    report = residual_variance(model, batch)
    assert [block.block for block in report.blocks] == ["block/add (call 1)", "block/add (call 2)"]
    assert [block.index for block in report.blocks] == [1, 2]
    assert report.blocks[1].skip == pytest.approx(
        np.var(np.array(inner(batch), "float64")), rel=1e-5
    )


def test_dropout_is_left_out_and_named(rng):
    x = keras.Input((4,))
    branch = L.Dropout(0.9, name="drop")(L.Dense(4, name="dense")(x))
    model = keras.Model(x, L.Add()([x, branch]))
    batch = rng.normal(size=(64, 4)).astype("float32")
    report = residual_variance(model, batch)
    branch = keras.ops.convert_to_numpy(model.get_layer("dense")(batch))
    assert report.blocks[0].branch == pytest.approx(np.var(branch.astype("float64")), rel=1e-5)
    assert "Left out, because they are random in training: drop." in report.notes


def test_equal_paths_and_unknown_graphs_are_said_so(rng):
    x = keras.Input((4,))
    model = keras.Model(x, L.Add(name="sum")([L.Dense(4)(x), L.Dense(4)(x)]))
    report = residual_variance(model, rng.normal(size=(8, 4)))
    assert report.blocks == ()
    assert "Left out, because neither input is the shorter path: sum." in report.notes

    class Own(keras.Model):
        def call(self, inputs):
            return inputs + inputs

    own = Own(name="own")
    own(np.ones((2, 4), "float32"))
    assert "The order of the layers in 'own' (Own) is unknown" in str(
        residual_variance(own, np.ones((2, 4)))
    )


def test_an_unbuilt_model_is_refused():
    model = keras.Sequential([L.Dense(3)], name="new")
    with pytest.raises(ValueError, match="The model 'new' has no weights yet"):
        residual_variance(model, np.ones((2, 3), "float32"))


def test_table_scalars_and_plot(images, tmp_path):
    report = residual_variance(resnet(5, BatchRenormalization), images)
    lines = str(report).splitlines()
    assert lines[0].split() == ["block", "l", "skip", "branch", "branch/skip"]
    assert lines[5].split()[:2] == ["block5", "5"]
    scalars = report.scalars()
    assert scalars["residual_variance/skip/block5"] == report.blocks[4].skip
    assert scalars["residual_variance/exponent"] == report.exponent
    figure = report.plot(tmp_path / "blocks.png")
    np.testing.assert_array_equal(
        figure.axes[0].lines[0].get_ydata(), [block.skip for block in report.blocks]
    )
    assert (tmp_path / "blocks.png").stat().st_size > 1000


def test_blocks_that_a_models_own_call_leaves_out_are_named(rng):
    class Half(keras.Model):
        def call(self, x, training=None):
            return self.get_layer("first")(x, training=training)

    x = keras.Input((5,))
    first = keras.Sequential([keras.Input((5,)), BatchNormalization()], name="first")
    hidden = L.Add(name="never")([x, first(x)])
    report = residual_variance(Half(x, hidden), rng.normal(size=(8, 5)))
    assert report.blocks == ()
    assert "Left out, because the model's own `call` skips them: never." in report.notes


def test_skip_paths_of_their_own_are_not_held_against_each_other(rng):
    """A small one before a large one is no growth, nor is one of a constant."""
    inputs = [keras.Input((5,)) for _ in range(3)]
    sums = [x + BatchNormalization()(x) for x in inputs]
    data = [scale * rng.normal(size=(8, 5)).astype("f4") for scale in (1e-6, 0.0, 1e3)]
    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0]):
        model = keras.Model([inputs[i] for i in order], [sums[i] for i in order])
        report = residual_variance(model, [data[i] for i in order])
        assert len(report.blocks) == 3
        assert report.findings == ()


def test_inputs_that_are_not_finite_are_named(images):
    images[0, 0, 0, 0] = np.nan
    (finding,) = residual_variance(resnet(3, BatchNormalization), images).findings
    assert finding.kind == "not finite"
    assert "is nan at its first block, block1: the inputs or the weights before it" in str(finding)


def test_a_batch_without_examples_is_refused(images):
    with pytest.raises(ValueError, match="`x` holds no examples"):
        residual_variance(resnet(2), images[:0])
