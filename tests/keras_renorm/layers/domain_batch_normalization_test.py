import itertools
import re
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_renorm import layers, schedules
from keras_renorm.ops import reference

DOMAINS, EPSILON, MOMENTUM = 3, 1e-3, 0.7
KINDS = list(itertools.product(("shared", "domain"), repeat=3))
PLAIN, RENORM = layers.DomainBatchNormalization, layers.DomainBatchRenormalization
LIMITS = {PLAIN: {"r_max": 1.0, "d_max": 0.0}, RENORM: {"r_max": 1.5, "d_max": 0.5}}
both = pytest.mark.parametrize("layer_class", [PLAIN, RENORM])
every_kind = pytest.mark.parametrize("kinds", KINDS, ids="-".join)
# Compiling takes seconds: one case for each way through the op.
COMPILED = [KINDS[0], KINDS[3], KINDS[4], KINDS[6]]


def make(layer_class, kinds=("domain", "domain", "shared"), **options):
    """A layer; one whose kinds of statistics differ warns, and nothing else does."""
    names = ("batch_statistics", "population_statistics", "affine")
    options = dict(zip(names, kinds, strict=True)) | options
    if layer_class is RENORM and "r_max" not in options:
        options |= LIMITS[RENORM]
    with warnings.catch_warnings():
        if kinds[0] != kinds[1]:
            warnings.filterwarnings("ignore", message=".*breaks a rule")
        return layer_class(DOMAINS, momentum=MOMENTUM, epsilon=EPSILON, **options)


def randomise(layer, rng):
    """Gives a built layer weights that are neither zeros nor ones."""
    layer.moving_mean.assign(rng.normal(size=layer.moving_mean.shape))
    layer.moving_variance.assign(rng.uniform(0.5, 4.0, layer.moving_variance.shape))
    layer.gamma.assign(rng.normal(1.0, 0.3, layer.gamma.shape))
    layer.beta.assign(rng.normal(size=layer.beta.shape))


class Expected:
    """A training step in float64, from each domain's examples as a batch of their own.

    Channels last; `mask` has the inputs' shape.
    """

    def __init__(self, layer, x, ids, dy, mask=None):
        self.layer, self.x, self.ids, self.dy = layer, x.astype("f8"), ids, dy.astype("f8")
        self.mask = np.ones(x.shape, bool) if mask is None else np.broadcast_to(mask, x.shape)
        self.y, self.dx = np.full(x.shape, np.nan), np.zeros(x.shape)
        self.dgamma, self.dbeta = (np.zeros(v.shape) for v in (layer.gamma, layer.beta))
        self.present = [k for k in range(DOMAINS) if np.any(ids == k)]
        for k in self.present:
            self.add(k)
        self.mean, self.variance = self.statistics()

    def row(self, name, k):
        value = np.asarray(getattr(self.layer, name), "f8")
        return value[k] if value.ndim == 2 else value

    def add(self, k):
        """Adds what domain k's examples give and get."""
        shared = self.layer.batch_statistics == "shared"
        batch = slice(None) if shared else self.ids == k
        own = (self.ids == k)[batch].reshape(-1, *(1 for _ in self.x.shape[1:]))
        x, dy, mask = self.x[batch], np.where(own, self.dy[batch], 0), self.mask[batch]
        gamma, beta = self.row("gamma", k), self.row("beta", k)
        moving = self.row("moving_mean", k), np.sqrt(self.row("moving_variance", k) + EPSILON)
        step = reference.forward(
            x, gamma, beta, *moving, **LIMITS[type(self.layer)],
            alpha=1 - MOMENTUM, epsilon=EPSILON, mask=mask,
        )  # fmt: skip
        gradients = reference.backward(dy, x, gamma, step, mask)
        self.y[self.ids == k] = step.y[own.reshape(-1)]
        self.dx[batch] += gradients.dx
        into = k if self.dgamma.ndim == 2 else slice(None)
        self.dgamma[into] += gradients.dgamma
        self.dbeta[into] += gradients.dbeta

    def statistics(self):
        """Moving mean and variance after the step."""
        if self.layer.population_statistics == "domain":
            rows = [self.updated(k, *self.moments(self.ids == k)[:2]) for k in range(DOMAINS)]
            return tuple(np.stack(values) for values in zip(*rows, strict=True))
        if self.layer.batch_statistics == "shared":
            return self.updated(None, *self.moments(slice(None))[:2])
        found = [self.moments(self.ids == k) for k in self.present]
        counts = [count for _, _, count in found]
        mean, variance = (np.average([f[i] for f in found], axis=0, weights=counts) for i in (0, 1))
        return self.updated(None, mean, variance)

    def moments(self, batch):
        return reference.moments(self.x[batch], self.mask[batch])

    def updated(self, k, mean, variance):
        old = self.row("moving_mean", k), self.row("moving_variance", k)
        if k is not None and k not in self.present:
            return old
        new_mean = old[0] + (1 - MOMENTUM) * (mean - old[0])
        if isinstance(self.layer, PLAIN) and not isinstance(self.layer, RENORM):
            return new_mean, reference.moving_variance(old[1], variance, MOMENTUM)
        sigma, sigma_b = np.sqrt(old[1] + EPSILON), np.sqrt(variance + EPSILON)
        return new_mean, (sigma + (1 - MOMENTUM) * (sigma_b - sigma)) ** 2 - EPSILON


def train(layer, x, domain, dy, mask=None):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, domain=domain, training=True, mask=mask)
    return y, tape.gradient(y, [x, layer.gamma, layer.beta], output_gradients=dy)


def assert_close(actual, desired, rtol=1e-5):
    desired = np.asarray(desired)
    np.testing.assert_allclose(actual, desired, rtol=0, atol=rtol * np.abs(desired).max())


def assert_step(layer, run, x, ids, dy, domain, mask=None, axis=-1):
    """Runs a step and holds output, gradients and statistics against the reference."""
    expected = Expected(layer, x, ids, dy, None if mask is None else mask[..., None])
    x, dy = (tf.constant(np.moveaxis(a, -1, axis)) for a in (x, dy))
    y, (dx, dgamma, dbeta) = run(layer, x, domain, dy, mask)
    valid = expected.mask
    assert_close(np.moveaxis(y.numpy(), axis, -1)[valid], expected.y[valid])
    assert_close(np.moveaxis(dx.numpy(), axis, -1), expected.dx)
    assert_close(tf.convert_to_tensor(dgamma), expected.dgamma)
    assert_close(tf.convert_to_tensor(dbeta), expected.dbeta)
    assert_close(layer.moving_mean, expected.mean)
    assert_close(layer.moving_variance, expected.variance)


def data(rng, ids, shape=(5, 4)):
    """Inputs whose moments differ much between domains, and gradients."""
    ids = np.asarray(ids)
    offset = np.array([0.0, -4.0, 6.0])[ids].reshape(-1, *(1 for _ in shape))
    scale = np.array([1.0, 0.3, 5.0])[ids].reshape(-1, *(1 for _ in shape))
    x = offset + scale * rng.normal(size=(len(ids), *shape))
    return x.astype("f4"), ids, rng.normal(size=x.shape).astype("f4")


@pytest.mark.slow
@both
@pytest.mark.parametrize(
    ("kinds", "jit"), [(kinds, False) for kinds in KINDS] + [(kinds, True) for kinds in COMPILED]
)
def test_an_id_per_example_equals_a_batch_of_its_own(rng, layer_class, kinds, jit):
    layer = make(layer_class, kinds)
    layer.build((None, 5, 4))
    randomise(layer, rng)
    run = tf.function(train, jit_compile=True) if jit else train
    for ids in ([0, 1, 2, 2, 0, 1, 1, 0], [2, 0, 2, 2, 0, 0, 2, 0]):  # 1 is absent from the second
        x, ids, dy = data(rng, ids)
        assert_step(layer, run, x, ids, dy, tf.constant(ids))


@both
@pytest.mark.parametrize(
    ("kinds", "traced"), [(kinds, False) for kinds in KINDS] + [(kinds, True) for kinds in COMPILED]
)
def test_one_id_for_all_equals_a_batch_of_its_own(rng, layer_class, kinds, traced):
    layer = make(layer_class, kinds)
    layer.build((None, 5, 4))
    randomise(layer, rng)
    run = tf.function(train) if traced else train
    for k in (2, 0):
        x, ids, dy = data(rng, [k] * 8)
        assert_step(layer, run, x, ids, dy, tf.constant(k) if traced else k)


@both
@every_kind
def test_masks_and_another_axis(rng, layer_class, kinds):
    layer = make(layer_class, kinds, axis=1)
    layer.build((None, 4, 5, 3))
    randomise(layer, rng)
    x, ids, dy = data(rng, [0, 2, 1, 1, 0, 2], (5, 3, 4))
    # Keras's masks lack the last dimension, here one of two of space; True for whole examples.
    mask = np.ones((6, 1, 1), bool)
    mask[1] = False
    wide = np.broadcast_to(mask, (6, 5, 3))
    x[1] = np.nan
    expected = Expected(layer, x, ids, dy, wide[..., None])
    moved, moved_dy = (tf.constant(np.moveaxis(a, -1, 1)) for a in (x, dy))
    y, (dx, dgamma, _) = train(layer, moved, tf.constant(ids), moved_dy, tf.constant(mask))
    assert_close(np.moveaxis(y.numpy(), 1, -1)[expected.mask], expected.y[expected.mask])
    assert_close(np.moveaxis(dx.numpy(), 1, -1), expected.dx)
    assert_close(tf.convert_to_tensor(dgamma), expected.dgamma)
    assert_close(layer.moving_mean, expected.mean)
    assert_close(layer.moving_variance, expected.variance)


@both
@every_kind
def test_inference_uses_the_statistics_of_the_kind(rng, layer_class, kinds):
    layer = make(layer_class, kinds)
    layer.build((None, 5, 4))
    randomise(layer, rng)
    x, ids, _ = data(rng, [0, 1, 2, 2, 0, 1])
    expected = Expected(layer, x, ids, np.zeros_like(x))  # for its rows
    names = ("gamma", "beta", "moving_mean", "moving_variance")
    graph = tf.function(layer, input_signature=None)
    for k in range(DOMAINS):
        *affine, variance = (expected.row(name, k) for name in names)
        desired = reference.inference(x, *affine, np.sqrt(variance + EPSILON))
        assert_close(layer(x, domain=k), desired)
        assert_close(graph(x, domain=tf.constant(k)), desired)
        for y in (layer(x, domain=ids), graph(x, domain=tf.constant(ids))):
            assert_close(y.numpy()[ids == k], desired[ids == k])


@both
def test_unknown_batch_sizes_and_an_empty_batch(rng, layer_class):
    layer = make(layer_class)
    layer.build((None, 4))
    signature = [tf.TensorSpec((None, 4)), tf.TensorSpec((None,), tf.int64)]
    run = tf.function(lambda x, i: layer(x, domain=i, training=True), input_signature=signature)
    for ids in ([0, 1, 2, 1], [2, 2, 0, 1, 1, 0]):
        x, ids, dy = data(rng, ids, (4,))
        expected = Expected(layer, x, ids, dy)
        assert_close(run(x, ids), expected.y)
        assert_close(layer.moving_variance, expected.variance)
    before = layer.get_weights()
    assert run(np.zeros((0, 4), "f4"), np.zeros(0, "i8")).shape == (0, 4)
    for old, new in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)
    with pytest.raises(tf.errors.InvalidArgumentError):  # one id is not one for each of 4
        run(x[:4], np.zeros(1, "i8"))


@both
@pytest.mark.parametrize("training", [False, True])
def test_ids_out_of_range_stop_a_graph(rng, layer_class, training):
    layer = make(layer_class)
    x = tf.constant(rng.normal(size=(4, 3)).astype("f4"))
    run = tf.function(lambda x, ids: layer(x, domain=ids, training=training))
    run(x, tf.constant([0, 2, 1, 1]))
    before = layer.get_weights()
    for ids in ([0, 3, 1, 1], [0, 2, 1, -1], 3):
        message = r"`domain` must hold ids in \[0, 2\], for num_domains=3; received"
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            run(x, tf.constant(ids))
    for old, new in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)


@pytest.mark.parametrize("kinds", COMPILED)
@pytest.mark.parametrize("layer_class", [PLAIN, RENORM])
def test_ids_out_of_range_in_what_cannot_stop_are_seen_and_leave_no_trace(rng, layer_class, kinds):
    layer, clean = make(layer_class, kinds), make(layer_class, kinds)
    for one in (layer, clean):
        one.build((None, 5, 4))
    run = tf.function(train, jit_compile=True)
    x, ids, dy = data(rng, [0, 1, 2, 2, 0, 1, 1, 0])
    wrong = ids.astype("i8")
    wrong[3], wrong[5] = -1, 2**32  # 2**32 is 0 as a 32-bit integer
    valid = ids == wrong
    y, (dx, *_) = run(layer, tf.constant(x), tf.constant(wrong), tf.constant(dy))
    expected = Expected(clean, x[valid], ids[valid], dy[valid])
    assert np.isnan(y.numpy()[~valid]).all()
    assert_close(y.numpy()[valid], expected.y)
    assert_close(dx.numpy()[valid], expected.dx)
    np.testing.assert_array_equal(dx.numpy()[~valid], 0)  # the others get nothing
    assert_close(layer.moving_mean, expected.mean)
    assert_close(layer.moving_variance, expected.variance)
    before = layer.get_weights()
    y, _ = run(layer, tf.constant(x), tf.constant(7), tf.constant(dy))
    assert np.isnan(y).all()
    for old, new in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)
    infer = tf.function(lambda x, i: layer(x, domain=i), jit_compile=True)
    assert np.isnan(infer(x, tf.constant(3))).all()
    np.testing.assert_array_equal(
        np.isnan(infer(x, tf.constant(wrong)).numpy()).all((1, 2)), ~valid
    )


@both
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_mixed_policies(rng, layer_class, dtype):
    layer = make(layer_class, dtype=f"mixed_{dtype}")
    x, ids, dy = data(rng, [0, 1, 2, 2, 0, 1, 1, 0])
    x = tf.cast(x, dtype)
    layer.build(x.shape)
    expected = Expected(layer, x.numpy().astype("f4"), ids, dy)
    y = layer(x, domain=ids, training=True)
    assert y.dtype.name == dtype
    np.testing.assert_allclose(tf.cast(y, "float32"), expected.y, atol=0.02)
    assert {weight.dtype for weight in layer.weights} == {"float32"}
    assert_close(layer.moving_mean, expected.mean)
    assert_close(layer.moving_variance, expected.variance)
    assert layer(x, domain=ids).dtype.name == dtype


@both
@pytest.mark.parametrize("domain", [2, [0, 1, 2, 1]])
def test_graphs_that_lost_the_number_of_channels(rng, layer_class, domain):
    layer = make(layer_class)
    layer.build((None, 3))
    x, ids, dy = data(rng, np.broadcast_to(domain, 4), (3,))
    expected = Expected(layer, x, ids, dy)
    run = tf.function(
        lambda x: layer(x, domain=domain, training=True),
        input_signature=[tf.TensorSpec((None, None))],
    )
    assert_close(run(x), expected.y)


@both
def test_everything_shared_is_the_layer_without_domains(rng, layer_class):
    base = {PLAIN: layers.BatchNormalization, RENORM: layers.BatchRenormalization}[layer_class]
    limits = LIMITS[RENORM] if layer_class is RENORM else {}
    theirs = base(momentum=MOMENTUM, epsilon=EPSILON, **limits)
    ours = make(layer_class, ("shared",) * 3)
    for layer in (theirs, ours):
        layer.build((None, 4))
    ours.set_weights(theirs.get_weights())
    for _ in range(3):
        x, ids, _ = data(rng, [0, 1, 2, 2, 0, 1, 1, 0], (4,))
        assert_close(ours(x, domain=ids, training=True), theirs(x, training=True))
    for actual, desired in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        assert_close(actual, desired)


def test_a_mask_from_keras_reaches_the_layer(rng):
    x, ids, dy = data(rng, [0, 1, 2, 2, 0, 1])
    x[:, 3:] = 0
    inputs, domain = keras.Input((5, 4)), keras.Input((), dtype="int32")
    layer = make(PLAIN)
    outputs = layer(keras.layers.Masking()(inputs), domain=domain)
    model = keras.Model([inputs, domain], outputs)
    mask = np.broadcast_to((np.arange(5) < 3)[:, None], x.shape)
    expected = Expected(layer, x, ids, dy, mask)
    model([x, ids], training=True)
    assert_close(layer.moving_mean, expected.mean)
    assert_close(layer.moving_variance, expected.variance)


@both
@pytest.mark.parametrize("training", [False, True])
def test_relu_does_not_hide_an_id_out_of_range(rng, layer_class, training):
    layer = make(layer_class, activation="relu")
    run = tf.function(lambda x, ids: layer(x, domain=ids, training=training), jit_compile=True)
    x = rng.normal(size=(4, 3)).astype("f4")
    y = run(x, tf.constant([0, 3, 1, -1])).numpy()
    np.testing.assert_array_equal(np.isnan(y).all(1), [False, True, False, True])
    assert np.isnan(run(x, tf.constant(3))).all()


@both
def test_activation_and_frozen_layers(rng, layer_class):
    layer = make(layer_class, activation="relu")
    plain = make(layer_class)
    for one in (layer, plain):
        one.build((None, 5, 4))
    x, ids, _ = data(rng, [0, 1, 2, 2, 0, 1])
    for training in (True, False):
        y = plain(x, domain=ids, training=training)
        np.testing.assert_allclose(layer(x, domain=ids, training=training), tf.nn.relu(y))
    layer.trainable = False
    before = layer.get_weights()
    y = layer(x, domain=ids, training=True)
    np.testing.assert_allclose(y, layer(x, domain=ids))
    for old, new in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)


@both
@pytest.mark.parametrize("ids", [1, [0, 1, 2, 1]])
def test_nothing_of_a_masked_position_reaches_a_frozen_layers_gradients(rng, layer_class, ids):
    layer = make(layer_class, frozen_statistics=True)
    layer.build((None, 6, 4))
    x = rng.normal(size=(4, 6, 4)).astype("float32")
    mask = rng.random((4, 6)) < 0.6
    found = []
    for masked in (x, np.where(mask[..., None], x, np.float32(np.nan))):
        with tf.GradientTape() as tape:
            y = layer(masked, domain=ids, training=True, mask=mask)
            loss = tf.reduce_sum(tf.where(mask[..., None], y**2, 0))
        gradients = tape.gradient(loss, [layer.gamma, layer.beta])
        found.append([tf.convert_to_tensor(gradient) for gradient in gradients])
        np.testing.assert_array_equal(np.isnan(y), np.isnan(masked))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-6)


def functional(layer_class, kinds, **options):
    inputs, domain = keras.Input((4,)), keras.Input((), dtype="int32")
    x = make(layer_class, kinds, name="norm", **options)(inputs, domain=domain)
    return keras.Model([inputs, domain], keras.layers.Dense(1)(x))


@both
@pytest.mark.parametrize("kinds", COMPILED, ids="-".join)
@pytest.mark.filterwarnings("ignore:.*breaks a rule")  # when it is loaded again
def test_fits_saves_and_loads(rng, tmp_path, layer_class, kinds):
    ramp = {"r_max": schedules.LinearRamp(1.0, 3.0, 2, 12)} if layer_class is RENORM else {}
    model = functional(layer_class, kinds, **ramp)
    model.compile("sgd", "mse")
    x, ids, _ = data(rng, [0, 1, 2, 2, 0, 1] * 4, (4,))
    model.fit([x, ids], np.zeros((24, 1)), batch_size=4, verbose=0)
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    fresh = keras.models.clone_model(model)
    fresh.load_weights(tmp_path / "model.weights.h5")
    for copy in (loaded, fresh):
        assert copy.get_layer("norm").get_config() == model.get_layer("norm").get_config()
        for actual, desired in zip(copy.get_weights(), model.get_weights(), strict=True):
            np.testing.assert_array_equal(actual, desired)
        np.testing.assert_array_equal(copy([x, ids]), model([x, ids]))


@both
def test_configurations_hold_what_differs_from_the_defaults(layer_class):
    config = layer_class(2, affine="domain", momentum=0.9).get_config()
    assert {"num_domains": 2, "affine": "domain", "momentum": 0.9}.items() <= config.items()
    assert not {"batch_statistics", "population_statistics", "epsilon"} & config.keys()


@both
@every_kind
def test_one_warning_at_construction_for_kinds_that_do_not_fit(layer_class, kinds):
    names = ("batch_statistics", "population_statistics", "affine")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        layer = layer_class(2, **dict(zip(names, kinds, strict=True)))
        layer(np.zeros((2, 3)), domain=0, training=True)
    messages = [str(warning.message) for warning in caught]
    if kinds[0] == kinds[1]:
        assert messages == []
        return
    assert len(messages) == 1
    assert re.search(
        f"^{layer_class.__name__} with batch_statistics='{kinds[0]}' and population_statistics="
        f"'{kinds[1]}' breaks a rule: SGD and population statistics must be of the same kind",
        messages[0],
    )
    assert caught[0].filename == __file__


@both
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_domains": 0}, ValueError, "`num_domains` must be at least 1, received num_domains="),
        ({"num_domains": 2.0}, TypeError, "`num_domains` must be an integer, received 2.0 of type"),
        ({"num_domains": True}, TypeError, "`num_domains` must be an integer, received True of"),
        ({"affine": "both"}, ValueError, "`affine` must be 'shared' or 'domain', received affine="),
        ({"batch_statistics": None}, ValueError, "`batch_statistics` must be 'shared' or 'domain'"),
        ({"population_statistics": True}, ValueError, "`population_statistics` must be 'shared'"),
        ({"virtual_batch_size": 8}, ValueError, "`virtual_batch_size` is not for layers with dom"),
        ({"momentum": 2}, ValueError, "`momentum` must be in [0, 1]"),
    ],
)
def test_refused_arguments(layer_class, options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        layer_class(**{"num_domains": 3} | options)


@both
@pytest.mark.parametrize(
    ("domain", "error", "message"),
    [
        (None, ValueError, "write `layer(inputs, domain=ids)`, with ids in [0, 2]"),
        (3, ValueError, "`domain` must hold ids in [0, 2], for num_domains=3; received 3."),
        (-1, ValueError, "`domain` must hold ids in [0, 2], for num_domains=3; received -1."),
        ([0, 5, 1, 4], ValueError, "ids in [0, 2], for num_domains=3; received 4, 5."),
        (np.array([0, 5, 1, 1]), ValueError, "ids in [0, 2], for num_domains=3; received 5."),
        (True, TypeError, "`domain` must hold integers, received dtype bool."),
        (1.0, TypeError, "`domain` must hold integers, received dtype float"),
        (np.zeros(4), TypeError, "`domain` must hold integers, received dtype float"),
        ([0, 1], ValueError, "id per example, of shape (4,); received shape (2,) for inputs of sh"),
        (np.zeros((4, 1), "i4"), ValueError, "keras.Input((), dtype='int32'), with no 1 in it."),
    ],
    ids=str,
)
def test_refused_domains(layer_class, domain, error, message):
    layer = make(layer_class)
    with pytest.raises(error, match=re.escape(message)):
        layer(np.zeros((4, 5), "f4"), domain=domain)


def test_refused_models():
    with pytest.raises(ValueError, match="A Sequential model cannot hand it over; write a functio"):
        keras.Sequential([keras.Input((4,)), make(PLAIN)])
    inputs = keras.Input((4,))
    with pytest.raises(ValueError, match="with no 1 in it"):
        make(PLAIN)(inputs, domain=keras.Input((1,), dtype="int32"))
    with pytest.raises(TypeError, match=r"received dtype float32\. In a functional model write"):
        make(PLAIN)(inputs, domain=keras.Input(()))
    with pytest.raises(ValueError, match=r"received 3\."):
        make(PLAIN)(inputs, domain=3)
    with pytest.raises(ValueError, match="`axis` must not be 0, the axis of the examples, rec"):
        make(PLAIN, axis=-2)(inputs, domain=0)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint32", "int64"])
def test_ids_of_any_integer_type(rng, dtype):
    layer = make(PLAIN)
    x, ids, dy = data(rng, [0, 1, 2, 2, 0, 1])
    layer.build(x.shape)
    expected = Expected(layer, x, ids, dy)
    run = tf.function(lambda x, ids: layer(x, domain=ids, training=True))
    assert_close(run(x, tf.constant(ids.astype(dtype))), expected.y)
    one = tf.constant(2, dtype)
    assert_close(run(x[ids == 2], one), expected.y[ids == 2])
    infer = tf.function(lambda x, ids: layer(x, domain=ids))
    assert_close(infer(x, one), layer(x, domain=2))


@pytest.mark.slow
def test_on_replicas(run_checks):
    run_checks("domain_replica_checks.py", LOGICAL_CPUS="2")


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint32", "int64", "uint64"])
def test_ids_of_every_integer_type(rng, dtype):
    layer, same = make(PLAIN), make(PLAIN)
    x, ids = rng.normal(size=(4, 3)).astype("f4"), np.array([0, 1, 0, 2])
    for training in (True, False):
        y = layer(x, domain=ids.astype(dtype), training=training)
        np.testing.assert_array_equal(y, same(x, domain=ids.astype("int32"), training=training))
