import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_renorm import layers
from keras_renorm.statistics import (
    PreciseReport,
    batch_statistics,
    freeze,
    precise,
    use_set,
)

SIZES = {"64": [64], "1": [1], "growing": [2, 2, 4, 8, 16, 32, 64]}
NORMS = {
    "bn": layers.BatchNormalization,
    "brn": layers.BatchRenormalization,
    "keras": keras.layers.BatchNormalization,
    "keras_renorm": lambda **options: keras.layers.BatchNormalization(renorm=True, **options),
}
every_norm = pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)


def pieces(x, sizes):
    """`x` in batches of `sizes`, over and over."""
    ends = np.cumsum(np.tile(sizes, len(x)))
    return [part for part in np.split(x, ends[ends < len(x)]) if len(part)]


def numpy(value):
    return keras.ops.convert_to_numpy(value)


def float64_moments(x, axis=-1):
    x = np.moveaxis(np.float64(x), axis, -1)
    x = x.reshape(-1, x.shape[-1])
    return x.mean(0), x.var(0)


def norms_of(model):
    return [layer for layer in model._flatten_layers() if hasattr(layer, "moving_mean")]


def assert_statistics(layer, x, tolerance=1e-6, axis=-1):
    """Mean within `tolerance` deviations or of itself, variance within `tolerance` of itself."""
    mean, variance = float64_moments(x, axis)
    allowed = tolerance * np.maximum(np.abs(mean), np.sqrt(variance))
    assert (np.abs(numpy(layer.moving_mean) - mean) <= allowed).all()
    np.testing.assert_allclose(numpy(layer.moving_variance), variance, rtol=tolerance)


def assert_self_consistent(model, x, tolerance=1e-6):
    """Each batch norm has the moments of what it receives in inference."""
    found = norms_of(model)
    inputs = keras.Model(model.inputs[0], [layer.input for layer in found])(x, training=False)
    for layer, received in zip(found, inputs, strict=True):
        assert_statistics(layer, numpy(received), tolerance)


def state(model):
    """All that a failed call must leave as it was."""
    return (
        [numpy(weight).tobytes() for weight in model.variables],
        [(sorted(vars(layer)), layer.trainable) for layer in model._flatten_layers()],
        [weight.trainable for weight in model.variables],
    )


def deep_model(norm):
    inputs = outputs = keras.Input((6, 5, 3))
    for i in range(2):
        conv = keras.layers.Conv2D(4, 3, padding="same")(outputs)
        branch = keras.layers.Dropout(0.5, seed=i)(keras.layers.ReLU()(norm()(conv)))
        outputs = branch if i == 0 else keras.layers.Add()([outputs, branch])
    return keras.Model(inputs, norm()(outputs))


def small_model(norm):
    dense = [keras.layers.Dense(4) for _ in range(2)]
    relu = keras.layers.ReLU()
    return keras.Sequential([keras.Input((3,)), dense[0], norm(), relu, dense[1], norm()])


@pytest.fixture
def images(rng):
    return (rng.normal(size=(70, 6, 5, 3)) * [1, 3, 0.1] + [0, 5, -2]).astype("f4")


@pytest.fixture
def rows(rng):
    return (rng.normal(size=(70, 3)) * [1, 3, 0.1] + [0, 5, -2]).astype("f4")


@every_norm
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_statistics_are_the_float64_moments_however_the_data_is_split(rng, norm, sizes, mean):
    x = (rng.normal(size=(140, 3, 4)) * [1, 2, 3, 0.5] + mean).astype("f4")
    model = keras.Sequential([keras.Input((3, 4)), norm()])
    report = precise(model, pieces(x, sizes), verbose=0)
    layer = model.layers[0]
    assert_statistics(layer, x)
    assert report == PreciseReport(140, 1, 0.0, (layer.path,), ())


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("norm", [NORMS["brn"], NORMS["keras"]], ids=["brn", "keras"])
@pytest.mark.parametrize("memory_budget", [0, 1e9])
def test_several_norms_have_the_moments_of_what_they_receive(images, norm, sizes, memory_budget):
    model = deep_model(norm)
    first = float64_moments(numpy(model.layers[1](images)))
    report = precise(model, pieces(images, sizes), memory_budget=memory_budget, verbose=0)
    assert (report.examples, report.sweeps, report.change) == (70, 1 if memory_budget else 3, 0.0)
    scale = np.abs(first[0]) + np.sqrt(first[1])
    assert (np.abs(numpy(norms_of(model)[0].moving_mean) - first[0]) <= 1e-6 * scale).all()
    np.testing.assert_allclose(numpy(norms_of(model)[0].moving_variance), first[1], rtol=1e-6)
    assert_self_consistent(model, images)


@pytest.mark.parametrize("norm", [NORMS["brn"], NORMS["keras_renorm"]], ids=["brn", "keras"])
def test_all_examples_in_one_batch_need_one_sweep(images, norm):
    model = deep_model(norm)
    assert precise(model, images, batch_size=len(images), verbose=0).sweeps == 1
    assert_self_consistent(model, images)


@pytest.mark.parametrize(
    ("options", "sweeps"),
    [({}, 1), ({"memory_budget": 0}, 3), ({"batch_size": 30}, 3), ({"memory_budget": 1e4}, 3)],
)
def test_one_sweep_does_within_the_budget_and_the_cost_is_said(images, capsys, options, sweeps):
    model = deep_model(layers.BatchNormalization)
    report = precise(model, images, verbose=2, **options)
    assert report.sweeps == sweeps
    printed = capsys.readouterr().out
    if "batch_size" in options:  # there was nothing to choose
        return
    said = "1 sweep" if sweeps == 1 else "3 sweeps or more"
    assert f"Statistics of 3 batch norms over 70 examples: {said}. One batch of all" in printed
    # Six times 6x5x4 values of 4 bytes for each of the 70 images.
    assert "takes about 0.0002 GB, and memory_budget is " in printed


@pytest.mark.parametrize("chosen", [slice(1), slice(1, None)])
def test_the_budget_does_not_change_the_result(images, chosen):
    model = deep_model(layers.BatchRenormalization)
    start, found = model.get_weights(), []
    for memory_budget in (0, 1e9):
        model.set_weights(start)
        norms = norms_of(model)[chosen]
        precise(model, pieces(images, [8]), layers=norms, memory_budget=memory_budget, verbose=0)
        found.append(model.get_weights())
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


def test_deep_nets_do_not_overflow_on_the_way(rng):
    x = rng.normal(size=(24, 8)).astype("f4")
    inputs = outputs = keras.Input((8,))
    for i in range(12):
        initial = keras.initializers.RandomNormal(stddev=1e3, seed=i)
        outputs = keras.layers.Dense(8, "relu", kernel_initializer=initial)(outputs)
        outputs = layers.BatchNormalization()(outputs)
    model = keras.Model(inputs, outputs)
    precise(model, x, batch_size=8, verbose=0)
    assert_self_consistent(model, x, tolerance=1e-5)


def test_only_the_statistics_change(rows):
    model = small_model(layers.BatchRenormalization)
    model(rows[:8], training=True)
    before = {weight.path: numpy(weight) for weight in model.variables}
    precise(model, rows, verbose=0)
    for weight in model.variables:
        changed = not np.array_equal(numpy(weight), before[weight.path])
        statistics = "moving_mean", "moving_variance", "deviations", "seen"
        assert changed == weight.path.endswith(statistics)


def test_every_statistic_of_keras_renorm_is_set(rng):
    x = rng.normal(3.0, 2.0, (50, 4)).astype("f4")
    layer = keras.layers.BatchNormalization(renorm=True, epsilon=0.1)
    model = keras.Sequential([keras.Input((4,)), layer])
    precise(model, x, verbose=0)
    mean, variance = float64_moments(x)
    for stddev in (layer.moving_stddev, layer.renorm_stddev):
        np.testing.assert_allclose(numpy(stddev), np.sqrt(variance + 0.1), rtol=1e-6)
    np.testing.assert_allclose(numpy(layer.renorm_mean), mean, rtol=1e-5)


@pytest.mark.parametrize("mean", [0.0, 5.0])
def test_the_mean_of_batch_variances_leaves_out_the_variance_between_batches(rng, mean):
    x = rng.normal(mean, 2.0, (30, 4)).astype("f4")
    model = keras.Sequential([keras.Input((4,)), layers.BatchNormalization()])
    batches = [x[:2], x[2:10], x[10:]]
    precise(model, batches, estimator="mean_of_batch_variances", verbose=0)
    within = sum(len(b) * np.float64(b).var(0) for b in batches) / 30
    layer = model.layers[0]
    np.testing.assert_allclose(numpy(layer.moving_variance), within, rtol=1e-6)
    np.testing.assert_allclose(numpy(layer.moving_mean), np.float64(x).mean(0), rtol=1e-5)
    assert (within < np.float64(x).var(0)).all()


def test_a_single_pass_is_the_paper_s_estimate(rng):
    x = rng.normal(size=(24, 4)).astype("f4")
    first, second = layers.BatchRenormalization(epsilon=0.1), layers.BatchNormalization()
    dense = keras.layers.Dense(3)
    model = keras.Sequential([keras.Input((4,)), first, dense, second])
    report = precise(model, pieces(x, [4]), passes="single", verbose=0)
    assert report.sweeps == 1
    assert_statistics(first, x)
    parts = [np.float64(b) for b in pieces(x, [4])]
    normalized = np.concatenate([(b - b.mean(0)) / np.sqrt(b.var(0) + 0.1) for b in parts])
    received = normalized @ np.float64(numpy(dense.kernel)) + numpy(dense.bias)
    np.testing.assert_allclose(numpy(second.moving_mean), received.mean(0), atol=1e-6)
    np.testing.assert_allclose(numpy(second.moving_variance), received.var(0), rtol=1e-5)


@pytest.mark.parametrize("num_samples", [1, 64, 65, 190])
def test_takes_num_samples_exactly(rng, num_samples):
    x = rng.normal(size=(200, 4)).astype("f4")
    model = keras.Sequential([keras.Input((4,)), layers.BatchNormalization()])
    assert precise(model, pieces(x, [64]), num_samples, verbose=0).examples == num_samples
    np.testing.assert_allclose(
        numpy(model.layers[0].moving_mean), np.float64(x[:num_samples]).mean(0), atol=1e-6
    )


def test_all_calls_of_a_shared_layer_count(rng):
    a, b = (rng.normal(size=(20, 4)).astype("f4") + shift for shift in (0, 3))
    shared = layers.BatchNormalization()
    inputs = keras.Input((4,)), keras.Input((4,))
    model = keras.Model(inputs, [shared(x) for x in inputs])
    precise(model, [((a, b),)], verbose=0)
    assert_statistics(shared, np.concatenate([a, b]))


def test_a_layer_that_feeds_itself_settles(rng):
    x = rng.normal(size=(64, 4)).astype("f4")
    shared, dense = layers.BatchNormalization(), keras.layers.Dense(4)
    inputs = keras.Input((4,))
    middle = dense(shared(inputs))
    model = keras.Model(inputs, shared(middle))
    report = precise(model, x, verbose=0)
    assert 1 < report.sweeps < 50
    assert report.change <= 1e-6
    received = np.concatenate([x, numpy(keras.Model(inputs, middle)(x))])
    assert_statistics(shared, received, 1e-5)


def test_says_when_a_layer_that_feeds_itself_does_not_settle(rng):
    # The layer is fed the sine of 40 times what it gives out: no variance fits for long.
    shared = layers.BatchNormalization(epsilon=1e-6)
    inputs = keras.Input((1,))
    model = keras.Model(inputs, shared(keras.ops.sin(40 * shared(inputs))))
    with pytest.warns(UserWarning, match="called several times depends on itself"):
        report = precise(model, rng.normal(size=(32, 1)).astype("f4"), tolerance=0.0, verbose=0)
    assert report.change > 0


def test_nested_models_and_frozen_layers(rng):
    x = rng.normal(2.0, 3.0, (40, 4)).astype("f4")
    inner = keras.Sequential([keras.Input((4,)), layers.BatchNormalization()])
    outer = keras.Sequential([keras.Input((4,)), inner, keras.layers.BatchNormalization()])
    outer.trainable = False
    freeze(outer)
    precise(outer, x, verbose=0)
    assert_statistics(inner.layers[0], x)
    assert_statistics(outer.layers[1], numpy(inner(x)))


def test_only_the_named_layers_change(rng):
    x = rng.normal(2.0, 3.0, (40, 4)).astype("f4")
    first, second = layers.BatchNormalization(), layers.BatchNormalization()
    model = keras.Sequential([keras.Input((4,)), first, second])
    assert precise(model, x, layers=[second], verbose=0).layers == (second.path,)
    np.testing.assert_array_equal(numpy(first.moving_mean), np.zeros(4))
    assert_statistics(second, numpy(first(x)))


def test_layers_that_inference_does_not_call_are_named(rng):
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.main, self.head = layers.BatchNormalization(), layers.BatchNormalization()

        def call(self, x, training=None):
            x = self.main(x)
            return self.head(x, training=True) if training else x

    model, x = Model(), rng.normal(1.0, 2.0, (40, 4)).astype("f4")
    model(x, training=True)
    before = numpy(model.head.moving_mean)
    report = precise(model, x, verbose=0)
    assert (report.layers, report.skipped) == ((model.main.path,), (model.head.path,))
    np.testing.assert_array_equal(numpy(model.head.moving_mean), before)
    assert_statistics(model.main, x)


@pytest.mark.parametrize("axis", [1, 2, -1])
def test_any_axis(rng, axis):
    x = rng.normal(1.0, 2.0, (40, 3, 5, 4)).astype("f4")
    model = keras.Sequential([keras.Input((3, 5, 4)), layers.BatchNormalization(axis=axis)])
    precise(model, x, verbose=0)
    assert_statistics(model.layers[0], x, axis=axis)


@pytest.mark.parametrize("norm", [NORMS["bn"], NORMS["keras"]], ids=["bn", "keras"])
def test_masked_positions_do_not_count(rng, norm):
    x = rng.normal(1.0, 2.0, (40, 6, 4)).astype("f4")
    for row, length in zip(x, rng.integers(1, 7, 40), strict=True):
        row[length:] = -7.0
    model = keras.Sequential([keras.Input((6, 4)), keras.layers.Masking(-7.0), norm()])
    precise(model, x, verbose=0)
    assert_statistics(model.layers[-1], x[x[..., 0] != -7.0])


def test_domains(rng):
    x, ids = rng.normal(1.0, 2.0, (40, 4)).astype("f4"), rng.integers(0, 2, 40).astype("i4")
    inputs = {
        "x": keras.Input((4,), name="x"),
        "ids": keras.Input((), name="ids", dtype="int32"),
    }
    norm = layers.DomainBatchNormalization(3)
    model = keras.Model(inputs, norm(inputs["x"], domain=inputs["ids"]))
    precise(model, {"x": x, "ids": ids}, verbose=0)
    for k in range(2):
        mean, variance = float64_moments(x[ids == k])
        np.testing.assert_allclose(numpy(norm.moving_mean)[k], mean, rtol=1e-5)
        np.testing.assert_allclose(numpy(norm.moving_variance)[k], variance, rtol=1e-6)
    np.testing.assert_array_equal(numpy(norm.moving_variance)[2], np.ones(4))


def test_inference_after_it_is_batch_statistics_of_the_whole(rows):
    model = small_model(layers.BatchRenormalization)
    precise(model, rows, verbose=0)
    with batch_statistics(model):
        expected = numpy(model(rows))
    np.testing.assert_allclose(numpy(model(rows)), expected, atol=1e-5)


def test_half_precision_models(rng):
    x = rng.normal(3.0, 2.0, (64, 4)).astype("f4")
    norm = layers.BatchNormalization(dtype="mixed_float16")
    precise(keras.Sequential([keras.Input((4,)), norm]), x, verbose=0)
    assert_statistics(norm, x.astype("f2"))


def test_models_that_run_eagerly(rows):
    model = small_model(layers.BatchNormalization)
    model.compile("sgd", "mse", run_eagerly=True)
    precise(model, rows, verbose=0)
    assert_self_consistent(model, rows)


def raising(batches):
    yield from batches
    raise OSError("the disk is gone")


NAN = np.full((4, 3), np.nan, "f4")


@pytest.mark.parametrize(
    ("dataset", "options", "error", "message"),
    [
        (lambda x: [x[:64], x[64:]], {"num_samples": 71}, ValueError, "after 70 examples, but num"),
        (lambda x: raising([x, x]), {}, OSError, "the disk is gone"),
        (lambda x: [], {}, ValueError, "holds no examples"),
        (lambda x: x[:0], {}, ValueError, "holds no examples"),
        (lambda x: [x[:8], NAN], {}, ValueError, "are not finite in the examples 8 to 11"),
        (lambda x: NAN, {"batch_size": 4}, ValueError, "are not finite in the examples 0 to 3"),
        (lambda x: x[..., :2], {}, ValueError, "expected axis -1"),
    ],
    ids=["early", "raises", "empty", "none", "nan", "nan at once", "wrong shape"],
)
@pytest.mark.parametrize(
    ("norm", "passes"),
    [("brn", "exact"), ("keras", "exact"), ("brn", "single")],
)
def test_a_failure_leaves_the_model_as_it_was(rows, norm, passes, dataset, options, error, message):
    model = small_model(NORMS[norm])
    norms_of(model)[1].trainable = False
    model(rows[:8], training=True)
    before = state(model)
    with pytest.raises(error, match=re.escape(message)):
        precise(model, dataset(rows), passes=passes, verbose=0, **options)
    assert state(model) == before


def test_a_nan_that_arises_inside_names_the_layer(rng):
    x = rng.normal(size=(16, 4)).astype("f4")
    second = layers.BatchNormalization(name="second")
    log = keras.layers.Lambda(keras.ops.log)
    model = keras.Sequential([keras.Input((4,)), layers.BatchNormalization(), log, second])
    before = state(model)
    with pytest.raises(ValueError, match=r"inputs of the batch norm '.*second' are not finite"):
        precise(model, x, verbose=0)
    assert state(model) == before


def test_all_masked(rng):
    model = keras.Sequential([keras.Input((3, 4)), keras.layers.Masking(), NORMS["bn"]()])
    with pytest.raises(ValueError, match="are masked, so they have no statistics"):
        precise(model, np.zeros((8, 3, 4), "f4"), verbose=0)


def test_a_norm_in_a_compiled_loop_is_refused(rng):
    class Loop(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.norm = layers.BatchNormalization()

        def build(self, shape):
            self.norm.build(shape)

        def call(self, x):
            return tf.while_loop(lambda i, x: i < 2, lambda i, x: (i + 1, self.norm(x)), [0, x])[1]

    model = keras.Sequential([keras.Input((4,)), Loop()])
    with pytest.raises(ValueError, match="called in a loop or a branch of the compiled graph"):
        precise(model, rng.normal(size=(8, 4)).astype("f4"), verbose=0)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"estimator": "best"}, ValueError, "must be one of 'total', 'mean_of_batch_variances'"),
        ({"passes": None}, ValueError, "must be one of 'exact', 'single'; received"),
        ({"verbose": 3}, ValueError, "`verbose` must be one of 'auto', 0, 1, 2; received"),
        ({"verbose": np.ones(3)}, ValueError, r"must be one of .*received verbose=array\(\[1"),
        ({"estimator": np.ones(3)}, ValueError, "`estimator` must be one of 'total', .* received"),
        ({"passes": np.array(["exact"] * 2)}, ValueError, "`passes` must be one of 'exact'"),
        ({"layers": np.ones(3)}, TypeError, "`layers` must be a list of batch norms, received arr"),
        ({"tolerance": -1}, ValueError, "`tolerance` must be at least 0"),
        (
            {"num_samples": 0},
            ValueError,
            "`num_samples` must be at least 1, received num_samples=0",
        ),
        ({"num_samples": 2.0}, TypeError, "`num_samples` must be an integer, received 2.0"),
        ({"batch_size": 0}, ValueError, "`batch_size` must be at least 1"),
        (
            {"layers": ["norm"]},
            TypeError,
            r"`layers` must hold layers, received the name 'norm'\. Write layers=\[model\.get",
        ),
        (
            {"layers": [7]},
            ValueError,
            "`layers` must be batch norms of the model 'model', received 7",
        ),
        ({"layers": []}, ValueError, r"`layers` must hold at least one .*\. It has \['norm'\]\."),
        ({"layers": "norm"}, TypeError, "`layers` must be a list of batch norms, received 'norm'"),
        (
            {"layers": layers.BatchNormalization(name="one")},
            TypeError,
            r"received <BatchNormalization name=one.* write layers=\[layer\]",
        ),
    ],
)
def test_bad_arguments(rng, options, error, message):
    norm = layers.BatchNormalization(name="norm")
    model = keras.Sequential([keras.Input((4,)), norm], name="model")
    with pytest.raises(error, match=message):
        precise(model, np.ones((8, 4), "f4"), **options)


def test_bad_models():
    with pytest.raises(TypeError, match="`model` must be a Keras model or layer, received 3"):
        precise(3, np.ones((8, 4)))
    with pytest.raises(ValueError, match="The model 'plain' holds no batch norm"):
        precise(keras.Sequential([keras.layers.Dense(2)], name="plain"), np.ones((8, 4)))
    with pytest.raises(ValueError, match="'new' has no weights yet"):
        precise(keras.Sequential([layers.BatchNormalization(name="new")]), np.ones((8, 4)))


@pytest.mark.parametrize(("verbose", "expected"), [(0, ""), (1, "24/24"), (2, "24/24")])
def test_progress(rng, capsys, verbose, expected):
    norms = [layers.BatchNormalization() for _ in range(3)]
    model = keras.Sequential([keras.Input((4,)), *norms])
    precise(model, rng.normal(size=(8, 4)).astype("f4"), batch_size=4, verbose=verbose)
    printed = capsys.readouterr().out
    assert (expected in printed) if expected else printed == ""


@pytest.mark.parametrize(("verbose", "shown"), [("auto", True), (1, True), (2, False), (0, False)])
def test_reading_shows_its_progress(rng, capsys, verbose, shown):
    model = keras.Sequential([keras.Input((4,)), layers.BatchNormalization()])
    x = rng.normal(size=(16, 4)).astype("f4")
    for dataset, is_read in ((x, False), ([x, x], False), ((x for _ in range(5)), True)):
        precise(model, dataset, verbose=verbose)
        printed = capsys.readouterr().out
        assert ("Reading examples:" in printed) == (is_read and shown)
        assert ("80/80" in printed) == (is_read and verbose != 0)


@pytest.mark.parametrize("verbose", [1, 2])
def test_progress_through_a_dataset_of_unknown_length(rng, capsys, verbose):
    model = keras.Sequential([keras.Input((4,)), layers.BatchNormalization()])
    batches = iter(np.split(rng.normal(size=(16, 4)).astype("f4"), 4))
    precise(model, batches, passes="single", verbose=verbose)
    assert "16/16" in capsys.readouterr().out


@pytest.mark.parametrize("passes", ["exact", "single"])
@pytest.mark.parametrize("norm", [NORMS["bn"], NORMS["keras"]], ids=["bn", "keras"])
def test_double_precision_models(rng, norm, passes):
    x = rng.normal(3.0, 2.0, (64, 4))
    model = keras.Sequential(
        [keras.Input((4,), dtype="float64")] + [norm(dtype="float64") for _ in range(2)]
    )
    precise(model, x, batch_size=64 if passes == "single" else 8, passes=passes, verbose=0)
    first, second = model.layers
    assert_statistics(first, x, 1e-13)
    if passes == "exact":
        assert_statistics(second, numpy(first(x)), 1e-13)


def test_keras_own_mask_reaches_domains(rng):
    inputs, ids = keras.Input((5, 3)), keras.Input((), dtype="int32")
    norm = layers.DomainBatchNormalization(2)
    model = keras.Model([inputs, ids], norm(keras.layers.Masking()(inputs), domain=ids))
    x = rng.normal(3.0, 2.0, (8, 5, 3)).astype("float32")
    x[:, 3:] = 0.0
    domains = np.arange(8) % 2
    precise(model, [((x, domains),)], verbose=0)
    for k in range(2):
        mean, variance = float64_moments(x[domains == k, :3])
        np.testing.assert_allclose(numpy(norm.moving_mean)[k], mean, rtol=1e-6)
        np.testing.assert_allclose(numpy(norm.moving_variance)[k], variance, rtol=1e-6)


def lagging_model(norm):
    """Trained with minibatches, while its moving averages lag."""
    model = keras.Sequential([keras.Input((4,)), norm()], name="lagging")
    model.layers[0].moving_mean.assign(np.full(4, 1.0))
    return model


LAGGING = {
    "open": lambda: layers.BatchRenormalization(r_max=3.0, d_max=5.0),
    "closed": lambda: layers.BatchRenormalization(r_max=1.0, d_max=0.0),
    "bn": layers.BatchNormalization,
    "keras": keras.layers.BatchNormalization,
}


def test_statistics_far_from_those_of_training_are_warned_of_and_taken_back(rng):
    model, x = lagging_model(LAGGING["open"]), rng.normal(size=(400, 4)).astype("f4")
    before = model.get_weights()
    message = (
        r"moving averages: outputs in training are 0\.00 deviations from inference with these, "
        r"and (0\.9\d|1\.0\d) with the new statistics\. If the examples are like those of "
        r"training, .* `keras_renorm\.statistics\.use_set"
        r'\(model, "before_precise"\)` brings them back\.$'
    )
    with pytest.warns(UserWarning, match=message):
        precise(model, x, verbose=0)
    assert_statistics(model.layers[0], x)
    use_set(model, "before_precise")
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)


@pytest.mark.parametrize("norm", list(LAGGING.values())[1:], ids=list(LAGGING)[1:])
def test_nothing_is_warned_of_where_training_agrees_with_the_moments(rng, norm):
    model = lagging_model(norm)
    precise(model, rng.normal(size=(400, 4)).astype("f4"), verbose=0)  # warnings are errors


def test_a_warning_needs_no_weights_of_other_norms(rng):
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.main, self.head = LAGGING["open"](), layers.BatchNormalization()
            self.main.build((None, 4))
            self.main.moving_mean.assign(np.full(4, 1.0))
            self.built = True  # except for the head

        def call(self, x):
            return self.main(x)

    model, x = Model(), rng.normal(size=(400, 4)).astype("f4")
    with pytest.warns(UserWarning, match=r"are likely to cost accuracy\.$"):
        precise(model, x, layers=[model.main], verbose=0)


@pytest.mark.parametrize("passes", ["exact", "single"])
def test_ragged_examples_count_by_their_values(rng, passes):
    x = rng.normal(2.0, 3.0, size=(9, 4)).astype("float32")
    ragged = tf.RaggedTensor.from_row_lengths(x, [2, 0, 4, 3])
    inputs = keras.Input((None, 4), ragged=True)
    model = keras.Model(inputs, layers.BatchRenormalization()(inputs))
    report = precise(model, ragged, passes=passes, verbose=0)
    assert report.examples == 4
    assert_statistics(model.layers[-1], x)


def test_a_list_of_inputs_is_told_from_one_of_batches(rng):
    x = rng.normal(2.0, 3.0, size=(8, 4)).astype("float32")
    norm, inputs = layers.BatchNormalization(), [keras.Input((4,), name=name) for name in "ab"]
    model = keras.Model(inputs, keras.layers.Add()([norm(inputs[0]), inputs[1]]), name="net")
    with pytest.raises(TypeError, match=r"list of 2 arrays\. .* 'net' has 2 inputs\. Give a dict"):
        precise(model, [x, 2 * x], verbose=0)
    for dataset in ({"a": x, "b": 2 * x}, [((x, 2 * x),)]):
        precise(model, dataset, verbose=0)
        assert_statistics(norm, x)
