"""What holds on every Keras backend; `backends_test.py` runs this under each in a process."""

import contextlib
import os

import keras
import numpy as np
import pytest

from keras_renorm import layers, ops, schedules
from keras_renorm.ops import Moments, Moving, reference
from keras_renorm.ops.maths import adaptive
from keras_renorm.ops.maths.scatter import among_ghosts

LIMITS = {"r_max": 1.5, "d_max": 0.5}


def assert_close(actual, desired):
    actual, desired = keras.ops.convert_to_numpy(actual), np.asarray(desired)
    np.testing.assert_allclose(actual, desired, rtol=0, atol=1e-5 * np.abs(desired).max())


def test_the_backend_is_the_one_asked_for():
    assert keras.backend.backend() == os.environ["KERAS_BACKEND"]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("axis", [1, -1])
def test_output_and_gradients_equal_the_reference(rng, vector_jacobian, masked, axis):
    x, dy = (rng.normal(1.0, 2.0, (6, 7, 5)).astype("f4") for _ in range(2))
    gamma, beta, mu = (rng.normal(1.0, 0.5, 5).astype("f4") for _ in range(3))
    variance = rng.uniform(0.5, 9.0, 5).astype("f4")
    mask = rng.random((6, 7, 1)) > 0.3 if masked else None
    if masked:
        x = np.where(mask, x, np.nan).astype("f4")
    sigma = np.sqrt(variance + 1e-3)
    step = reference.forward(
        x, gamma, beta, mu, sigma, **LIMITS, alpha=0.01, epsilon=1e-3, mask=mask
    )
    desired = reference.backward(dy, x, gamma, step, mask)

    def move(array):
        return None if array is None else np.moveaxis(array, -1, axis)

    def function(x, gamma, beta):
        y, _ = ops.batch_renormalization(
            x, mu, variance, gamma, beta, **LIMITS, axis=axis, mask=move(mask)
        )
        return y

    y, gradients = vector_jacobian(function, (move(x).copy(), gamma, beta), move(dy).copy())
    valid = slice(None) if mask is None else np.broadcast_to(mask, x.shape)
    assert_close(np.moveaxis(keras.ops.convert_to_numpy(y), axis, -1)[valid], step.y[valid])
    assert_close(np.moveaxis(keras.ops.convert_to_numpy(gradients[0]), axis, -1), desired.dx)
    assert_close(gradients[1], desired.dgamma)
    assert_close(gradients[2], desired.dbeta)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("lowering", ["", "composite"])
def test_ghost_batches_equal_the_reference(rng, vector_jacobian, monkeypatch, lowering, masked):
    """Two of 3 rows and one of 2; `composite` differentiates by the backend's own means."""
    monkeypatch.setenv("KERAS_RENORM_LOWERING", lowering)
    x, dy = (rng.normal(1.0, 2.0, (8, 7, 5)).astype("f4") for _ in range(2))
    gamma, beta, mu = (rng.normal(1.0, 0.5, 5).astype("f4") for _ in range(3))
    variance = rng.uniform(0.5, 9.0, 5).astype("f4")
    mask = rng.random((8, 7, 1)) > 0.3 if masked else None
    if masked:
        x = np.where(mask, x, np.nan).astype("f4")

    def function(x, gamma, beta):
        y, batch = ops.batch_renormalization(
            x, mu, variance, gamma, beta, **LIMITS, mask=mask, virtual_batch_size=3
        )
        assert batch.mean.shape == (3, 5)
        return y

    y, gradients = vector_jacobian(function, (x, gamma, beta), dy)
    y, dx = keras.ops.convert_to_numpy(y), keras.ops.convert_to_numpy(gradients[0])
    sums = np.zeros((2, 5))
    for rows in (slice(0, 3), slice(3, 6), slice(6, 8)):
        own = None if mask is None else np.broadcast_to(mask[rows], x[rows].shape)
        sigma = np.sqrt(variance + 1e-3)
        step = reference.forward(
            x[rows], gamma, beta, mu, sigma, **LIMITS, alpha=0.01, epsilon=1e-3, mask=own
        )
        desired = reference.backward(dy[rows], x[rows], gamma, step, own)
        valid = slice(None) if own is None else own
        assert_close(y[rows][valid], step.y[valid])
        assert_close(dx[rows], desired.dx)
        sums += desired.dgamma, desired.dbeta
    assert_close(gradients[1], sums[0])
    assert_close(gradients[2], sums[1])


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("lowering", ["", "fused", "composite"])
def test_no_inf_comes_back_through_the_zeros_of_a_relu(
    rng, vector_jacobian, monkeypatch, lowering, masked
):
    monkeypatch.setenv("KERAS_RENORM_LOWERING", lowering)
    x, dy = (rng.normal(size=(16, 5)).astype("f4") for _ in range(2))
    gamma, beta = np.float32([1, -1, 2, 0, 0]), np.float32([0, 1, -1, 0, -1])
    moving = np.zeros(5, "f4"), np.ones(5, "f4")
    mask = rng.random((16, 1)) > 0.3 if masked else None

    def training(x, gamma, beta):
        options = {"mask": mask, "relu": True}
        return ops.batch_renormalization(x, *moving, gamma, beta, **LIMITS, **options)[0]

    def inference(x, gamma, beta):  # TensorFlow's own ReLU is in what can be exported
        portable = keras.backend.backend() != "tensorflow"
        return ops.inference_step(x, *moving, gamma, beta, relu=True, portable=portable)

    for function in (training, inference):
        by_kernels = not lowering and ops.lowering().name == "native"
        if function is inference and keras.backend.backend() == "tensorflow" and not by_kernels:
            continue
        y, desired = vector_jacobian(function, (x, gamma, beta), dy)
        dead = keras.ops.convert_to_numpy(y) <= 0
        desired = vector_jacobian(function, (x, gamma, beta), np.where(dead, 0, dy))[1]
        for value in (np.inf, np.nan):
            _, found = vector_jacobian(function, (x, gamma, beta), np.where(dead, value, dy))
            for actual, wanted in zip(found, desired, strict=True):
                np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (actual, wanted)))


@pytest.mark.slow
def test_derivatives_in_plain_operations_under_jax(rng, monkeypatch):
    if keras.backend.backend() != "jax":
        return
    import jax

    monkeypatch.setenv("KERAS_RENORM_LOWERING", "composite")
    x = rng.normal(1.0, 2.0, (6, 3)).astype("f4")

    def penalty(x, normalize):
        return (jax.grad(lambda x: (normalize(x) ** 3).sum())(x) ** 2).sum()

    def ours(x):
        return ops.batch_renormalization(x, np.zeros(3, "f4"), np.ones(3, "f4"))[0]

    def theirs(x):
        return (x - x.mean(0)) / (x.var(0) + 1e-3) ** 0.5

    desired = jax.grad(lambda x: penalty(x, theirs))(x)
    assert_close(jax.grad(lambda x: penalty(x, ours))(x), desired)
    assert_close(jax.jvp(ours, (x,), (x**2,))[1], jax.jvp(theirs, (x,), (x**2,))[1])


def test_plain_operations_keep_no_more_than_the_layer_of_keras_under_jax(monkeypatch):
    if keras.backend.backend() != "jax":
        return
    import jax

    monkeypatch.setenv("KERAS_RENORM_LOWERING", "composite")
    shape = (32, 16, 16, 8)

    def kept(norm):
        """The temporary bytes of a gradient, in tensors of the size of the input."""
        net = keras.Sequential([keras.Input(shape[1:])])
        for _ in range(4):
            net.add(keras.layers.Conv2D(8, 3, padding="same", use_bias=False))
            net.add(norm())
            net.add(keras.layers.ReLU())

        def loss(trained, others, x):
            y, others = net.stateless_call(trained, others, x, training=True)
            return (y**2).mean(), others

        gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))
        state = (
            [v.value for v in group]
            for group in (net.trainable_variables, net.non_trainable_variables)
        )
        compiled = gradient.lower(*state, jax.ShapeDtypeStruct(shape, "float32")).compile()
        return compiled.memory_analysis().temp_size_in_bytes / (4 * np.prod(shape))

    # JAX 0.10 keeps 11 for both. Where x - mean stays from the forward pass, one more a norm.
    assert kept(layers.BatchRenormalization) <= kept(keras.layers.BatchNormalization) + 1


@pytest.mark.slow
@pytest.mark.parametrize("lowering", ["native", "composite"])
@pytest.mark.parametrize("size", [None, 3])
def test_batches_of_symbolic_size_under_jax(rng, monkeypatch, size, lowering):
    if keras.backend.backend() != "jax":
        return
    import jax

    if lowering == "native" and ops.lowering().name != "native":
        pytest.skip("the native library is not in use")
    monkeypatch.setenv("KERAS_RENORM_LOWERING", lowering)

    def gradient(x):
        zero, one = np.zeros(3, "f4"), np.ones(3, "f4")
        options = {"virtual_batch_size": size}
        return jax.grad(
            lambda x: (ops.batch_renormalization(x, zero, one, **options)[0] ** 3).sum()
        )(x)

    # JAX exports calls of other libraries only where it is told that they will be there.
    calls = [f"keras_renorm_{name}" for name in ("forward", "backward")]
    checks = [jax.export.DisabledSafetyCheck.custom_call(call) for call in calls]
    symbolic = jax.ShapeDtypeStruct(jax.export.symbolic_shape("rows, 4, 3"), "float32")
    exported = jax.export.export(jax.jit(gradient), disabled_checks=checks)(symbolic)
    for rows in (2, 7, 300):
        x = rng.normal(1.0, 2.0, (rows, 4, 3)).astype("f4")
        np.testing.assert_allclose(exported.call(x), gradient(x), rtol=1e-4, atol=1e-4)


def test_large_means(rng):
    x = (rng.normal(size=(64, 14, 14, 4)) + 1e6).astype("f4")
    result = ops.moments(x)
    mean, variance, _ = reference.moments(x)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(result.variance), variance, rtol=1e-5)
    exact = keras.ops.convert_to_numpy(result.mean).astype("f8") + keras.ops.convert_to_numpy(
        result.mean_remainder
    )
    np.testing.assert_allclose(exact, mean, atol=1e-5)


@pytest.mark.parametrize("lowering", ["", "fused", "composite"])
@pytest.mark.parametrize("size", [1e16, 1e18, 1e20, 1e30])
def test_a_variance_that_overflows_shows(rng, vector_jacobian, monkeypatch, lowering, size):
    monkeypatch.setenv("KERAS_RENORM_LOWERING", lowering)
    x = rng.normal(size=(64, 4)).astype("f4")
    x[:, 1] *= size
    for make in (layers.BatchNormalization, layers.BatchRenormalization):
        layer = make()
        y = keras.ops.convert_to_numpy(layer(x, training=True))
        np.testing.assert_array_equal(np.isnan(y), np.isin(np.arange(64 * 4) % 4, 1).reshape(64, 4))
        assert keras.ops.convert_to_numpy(layer.moving_variance)[1] == 1

    def function(x, gamma, beta):
        return ops.batch_renormalization(x, np.zeros(4), np.ones(4), gamma, beta)[0]

    vectors = np.ones(4, "f4"), np.zeros(4, "f4")
    _, (dx, dgamma, _) = vector_jacobian(function, (x, *vectors), np.ones_like(x))
    for gradient in map(keras.ops.convert_to_numpy, (dx, dgamma)):
        assert np.isnan(gradient[..., 1]).all()
        assert np.isfinite(gradient[..., 0]).all()


@pytest.mark.parametrize("lowering", ["", "fused", "composite"])
@pytest.mark.parametrize(("r_max", "d_max"), [(np.nan, 1.0), (3.0, np.nan), (np.nan, np.nan)])
def test_a_limit_that_is_nan_shows(monkeypatch, lowering, r_max, d_max):
    """As from a schedule that divides 0 by 0: a number is checked."""
    monkeypatch.setenv("KERAS_RENORM_LOWERING", lowering)
    x = np.array([[1.0], [2.0], [30.0]], "f4")
    r_max, d_max = (keras.ops.convert_to_tensor(np.float32(limit)) for limit in (r_max, d_max))
    limits = {"r_max": r_max, "d_max": d_max}
    y, _ = ops.training_step(x, np.zeros(1, "f4"), np.ones(1, "f4"), momentum=0.9, **limits)
    assert np.isnan(keras.ops.convert_to_numpy(y)).all()


@pytest.mark.parametrize("policy", ["mixed_float16", "bfloat16"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", ["BatchRenormalization", "DomainBatchNormalization"])
def test_calls_past_the_cast_of_inputs_have_the_compute_dtype(rng, kind, training, policy):
    domains = (2,) if "Domain" in kind else ()
    layer = getattr(layers, kind)(*domains, dtype=policy)
    layer.build((4, 3))
    x = keras.ops.convert_to_tensor(rng.normal(size=(4, 3)).astype("f4"))
    options = {"training": training, **({"domain": 1} if domains else {})}
    groups = layer.trainable_variables, layer.non_trainable_variables
    values = [[v.value for v in group] for group in groups]
    outputs = layer.call(x, **options), layer.stateless_call(*values, x, **options)[0]
    found = [keras.backend.standardize_dtype(y.dtype) for y in outputs]
    assert found == [policy.removeprefix("mixed_")] * 2


def traced(function):
    """The function, with an argument whose value is not known while it is compiled."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(function)
    import torch

    return torch.compile(function, backend="aot_eager")


# PyTorch's compiler reads the `grad` of whatever it meets.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", ["BatchNormalization", "BatchRenormalization", "by domain"])
def test_training_may_be_a_tensor_beside_weights_that_are_handed_over(
    rng, vector_jacobian, kind, training
):
    x = rng.normal(2.0, 3.0, (8, 4)).astype("f4")
    if kind == "by domain":
        layer, options = layers.DomainBatchRenormalization(2), {"domain": 1}
    else:
        layer, options = getattr(layers, kind)(), {}
    layer.build(x.shape)
    others = [
        keras.ops.convert_to_tensor(rng.uniform(0.5, 1.5, v.shape).astype("f4"))
        for v in layer.non_trainable_variables
    ]
    given = keras.ops.convert_to_tensor(training)

    def outputs(training):
        def call(x, *weights):
            y, moved = layer.stateless_call(weights, others, x, training=training, **options)
            return y, [*moved]

        return call

    weights = (rng.uniform(0.5, 1.5, v.shape).astype("f4") for v in layer.trainable_variables)
    sources, dy = (x, *weights), rng.normal(size=x.shape).astype("f4")
    later = traced(lambda training, *sources: outputs(training)(*sources))
    desired, found = (
        outputs(training)(*sources),
        later(given, *map(keras.ops.convert_to_tensor, sources)),
    )
    for actual, wanted in zip((found[0], *found[1]), (desired[0], *desired[1]), strict=True):
        assert_close(actual, keras.ops.convert_to_numpy(wanted))
    gradients = [
        vector_jacobian(function, sources, dy)[1]
        for function in (lambda *at: later(given, *at)[0], lambda *at: outputs(training)(*at)[0])
    ]
    for actual, wanted in zip(*gradients, strict=True):
        assert_close(actual, keras.ops.convert_to_numpy(wanted))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("kind", ["shared", "TimeDistributed"])
def test_training_as_a_tensor_counts_a_call_of_the_model_once(rng, kind):
    layer = layers.BatchRenormalization(r_max=schedules.LinearRamp(1.0, 3.0, 0, 10), d_max=1.0)
    inputs = keras.Input((5, 4))
    if kind == "shared":
        model = keras.Model(inputs, layer(layer(inputs)))
    else:
        model = keras.Model(inputs, keras.layers.TimeDistributed(layer)(inputs))
    weights = [[v.value for v in model.trainable_variables]]
    weights.append([v.value for v in model.non_trainable_variables])
    place = [v.path for v in model.non_trainable_variables].index(layer.update_count.path)
    x = keras.ops.convert_to_tensor(rng.normal(size=(3, 5, 4)).astype("f4"))

    @traced
    def count(training):
        return model.stateless_call(*weights, x, training=training)[1][place]

    for training in (True, False):
        found = count(keras.ops.convert_to_tensor(training))
        assert float(keras.ops.convert_to_numpy(found)) == training


def test_several_inputs_are_refused_and_symbolic_ones_are_taken_as_dense():
    x = np.ones((4, 2), "f4")
    with pytest.raises(TypeError, match="`inputs` must be one tensor, received a tuple of 1"):
        layers.BatchNormalization()((x,))
    # Keras calls the product of a dense tensor and a number sparse.
    y = layers.BatchNormalization()(2 * keras.KerasTensor((None, 3)))
    assert y.shape == (None, 3)


def test_a_remat_scope_leaves_the_layer_out(rng):
    x, results = rng.normal(2.0, 3.0, (8, 3)).astype("f4"), []
    for scope in (contextlib.nullcontext(), keras.RematScope("full")):
        with scope:
            norm = layers.BatchRenormalization(**LIMITS, momentum=0.5)
        dense = keras.layers.Dense(3, kernel_initializer=keras.initializers.GlorotUniform(1))
        model = keras.Sequential([keras.Input((3,)), dense, norm, keras.layers.Activation("tanh")])
        model.compile(keras.optimizers.SGD(1.0), "mse")
        model.fit(x, np.zeros((8, 3)), verbose=0)
        results.append(model.get_weights())
    for scoped, plain in zip(*results, strict=True):
        np.testing.assert_allclose(scoped, plain, rtol=1e-5, atol=1e-6)


class Cell(keras.layers.Layer):
    """A recurrent cell of a norm: h = norm(x + h)."""

    def __init__(self):
        super().__init__()
        self.norm = layers.BatchRenormalization(**LIMITS, momentum=0.9)
        self.state_size = self.output_size = 3

    def build(self, shape):
        self.norm.build((None, 3))
        self.built = True

    def call(self, x, states, training=None):
        h = self.norm(x + states[0], training=training)
        return h, [h]


def test_an_unrolled_net_counts_each_time_step_once(rng):
    x = rng.normal(2.0, 3.0, (8, 5, 3)).astype("f4")
    rnn, cell = keras.layers.RNN(Cell(), unroll=True), Cell()
    model = keras.Sequential([keras.Input((5, 3)), rnn])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    model.fit(x, np.zeros((8, 3)), verbose=0)
    cell.build(None)
    h = np.zeros((8, 3), "f4")
    for step in range(5):
        h, _ = cell(x[:, step], [h], training=True)
    for weight, desired in zip(rnn.get_weights(), cell.get_weights(), strict=True):
        np.testing.assert_allclose(weight, desired, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rows", [0, 5])
def test_a_batch_without_positions_changes_nothing(rows):
    layer = layers.BatchRenormalization()
    x = np.full((rows, 3), np.nan, "f4")
    layer(np.ones((2, 3), "f4"), training=True)
    before = [keras.ops.convert_to_numpy(w) for w in layer.weights]
    layer(x, training=True, mask=np.zeros(rows, bool))
    for old, new in zip(before, layer.weights, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(new), old)


@pytest.mark.parametrize("limit", [schedules.LinearRamp(1.0, 3.0, 0, 9), schedules.Adaptive(3.0)])
def test_an_activation_that_is_a_layer_knows_of_training(limit):
    norm = layers.BatchRenormalization(
        r_max=limit, d_max=0.0, activation=keras.layers.Dropout(0.5, seed=0)
    )
    x = np.arange(512.0).reshape(64, 8).astype("f4")
    for _ in range(2):
        dropped = keras.ops.convert_to_numpy(norm(x, training=True)) == 0
        assert 0.3 < dropped.mean() < 0.7
    assert not np.any(keras.ops.convert_to_numpy(norm(x)) == 0)


def test_fits_and_goes_on_after_saving(rng, tmp_path):
    ramp = schedules.LinearRamp(1.0, 3.0, start_step=4, end_step=24)
    norm = layers.BatchRenormalization(r_max=ramp, d_max=2.0, momentum=0.9, activation="relu")
    model = keras.Sequential([keras.Input((4,)), norm, keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x, y = rng.normal(2.0, 3.0, (28, 4)).astype("f4"), rng.normal(size=(28, 1)).astype("f4")
    model.fit(x, y, batch_size=2, epochs=1, verbose=0, shuffle=False)
    assert norm.current_limits() == pytest.approx((2.0, 2.0))
    mu, sigma = np.zeros(4), np.full(4, np.sqrt(1.001))
    for batch in np.split(x, 14):
        step = reference.forward(batch, 1, 0, mu, sigma, r_max=1, d_max=0, alpha=0.1, epsilon=1e-3)
        mu, sigma = step.mu, step.sigma
    assert_close(norm.moving_mean, mu)
    assert_close(norm.moving_variance, sigma**2 - 1e-3)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.layers[0].current_limits() == norm.current_limits()
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))


def test_adaptive_limits_follow_what_ghosts_differ_by(rng):
    limits = {"r_max": schedules.Adaptive(3.0), "d_max": schedules.Adaptive(5.0)}
    layer = layers.BatchRenormalization(momentum=0.9, virtual_batch_size=3, **limits)
    layer.build((None, 4))
    state = adaptive.State(np.zeros((adaptive.ROWS, 4)), np.zeros(2))
    mean, variance, counts = np.zeros(4), np.ones(4), np.array([3.0, 3.0, 2.0])[:, None]
    for _ in range(10):
        x = rng.normal(2.0, 3.0, (8, 4)).astype("f4")
        layer(x, training=True)
        found = [(part.mean(0), part.var(0)) for part in np.split(x.astype("f8"), [3, 6])]
        means, variances = np.array(found).swapaxes(0, 1)
        sigma = np.sum(counts / 8 * np.sqrt(variances + 1e-3), axis=0)
        batch = Moving(np.sum(counts / 8 * means, axis=0), sigma**2 - 1e-3, np.ones(()))
        ghosts = Moments(means, variances, counts * np.ones(4), np.zeros((3, 4)))
        among = among_ghosts(ghosts, mean, 1e-3, ops=np)
        state, (mean, variance, _) = adaptive.advance(
            state, mean, variance, batch, among, momentum=0.9, epsilon=1e-3, ops=np
        )
    found = keras.ops.convert_to_numpy(layer.deviations)
    np.testing.assert_allclose(found, state.deviations, rtol=1e-3, atol=1e-4)


def test_the_last_minibatch_of_an_epoch_leaves_the_lag_of_ghosts(rng):
    limits = {"r_max": schedules.Adaptive(3.0), "d_max": schedules.Adaptive(5.0)}
    layer = layers.BatchRenormalization(momentum=0.95, virtual_batch_size=2, **limits)
    for i in range(60):
        layer((np.sin(i / 2) + rng.normal(size=(16, 4))).astype("f4"), training=True)
    before = keras.ops.convert_to_numpy(layer.deviations)[2:4].sum()
    layer(rng.normal(size=(2, 4)).astype("f4"), training=True)
    after = keras.ops.convert_to_numpy(layer.deviations)[2:4].sum()
    np.testing.assert_allclose(after, before, rtol=0.1)


@pytest.mark.parametrize("ghosts", [None, 4])
def test_adaptive_limits_open_in_fit_and_go_on_after_saving(rng, tmp_path, ghosts):
    limits = {"r_max": schedules.Adaptive(3.0), "d_max": schedules.Adaptive(5.0)}
    norm = layers.BatchRenormalization(momentum=0.9, virtual_batch_size=ghosts, **limits)
    model = keras.Sequential([keras.Input((4,)), norm, keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x, y = rng.normal(2.0, 3.0, (160, 4)).astype("f4"), rng.normal(size=(160, 1)).astype("f4")
    model.fit(x, y, batch_size=8, epochs=1, verbose=0, shuffle=False)
    assert norm.current_limits().d_max > 0.5
    assert norm.current_limits().r_max > 1.1
    np.testing.assert_allclose(keras.ops.convert_to_numpy(norm.seen), 1 - 0.9**20, rtol=1e-4)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for other in (model, loaded):
        other.fit(x, y, batch_size=8, epochs=1, verbose=0, shuffle=False)
    assert loaded.layers[0].current_limits() == pytest.approx(norm.current_limits(), rel=1e-5)


def test_a_layer_with_ghosts_is_that_of_one_where_they_hold_the_minibatch(rng):
    results = []
    for size in (None, 8):
        layer = layers.BatchRenormalization(r_max=2.0, d_max=1.0, virtual_batch_size=size)
        y = layer(np.random.default_rng(1).normal(2.0, 3.0, (8, 4)).astype("f4"), training=True)
        results.append([keras.ops.convert_to_numpy(value) for value in (y, *layer.weights)])
    for plain, ghost in zip(*results, strict=True):
        np.testing.assert_array_equal(ghost, plain)


def test_mixed_precision(rng):
    layer = layers.BatchRenormalization(dtype="mixed_bfloat16")
    y = layer(rng.normal(3.0, 2.0, (64, 3)).astype("f4"), training=True)
    assert keras.backend.standardize_dtype(y.dtype) == "bfloat16"
    assert keras.backend.standardize_dtype(layer.moving_mean.dtype) == "float32"
    y = keras.ops.convert_to_numpy(keras.ops.cast(y, "float32"))
    np.testing.assert_allclose(y.mean(0), 0, atol=0.02)
    np.testing.assert_allclose(y.std(0), 1, atol=0.02)


@pytest.mark.parametrize("lowering", ["", "composite"])
@pytest.mark.parametrize(
    ("dtype", "offset", "tolerance"),
    [("float16", 100.0, 1e-3), ("bfloat16", 100.0, 8e-3), ("float16", 3000.0, 1e-3)],
)
def test_gradients_of_half_precision_are_rounded_once(
    rng, vector_jacobian, monkeypatch, lowering, dtype, offset, tolerance
):
    """What they are the sum of cancels: dy has a mean, which the gradient for x has not."""
    monkeypatch.setenv("KERAS_RENORM_LOWERING", lowering)
    scale = 1e-3 if offset > 1e3 else 1.0  # products beyond float16
    x, dy = rng.normal(1.0, 2.0, (64, 8)) * scale, rng.normal(offset, 1.0, (64, 8))
    x, dy = (keras.ops.convert_to_numpy(keras.ops.cast(v, dtype)) for v in (x, dy))
    one, zero = np.ones(8), np.zeros(8)

    def function(x, gamma, beta):
        return ops.batch_renormalization(x, zero, one, gamma, beta)[0]

    vectors = one.astype("f4"), zero.astype("f4")
    _, (dx, *_) = vector_jacobian(function, (x, *vectors), dy)
    x, dy = x.astype("f8"), dy.astype("f8")
    step = reference.forward(
        x, one, zero, zero, one, r_max=1.0, d_max=0.0, alpha=0.01, epsilon=1e-3, mask=None
    )
    desired = reference.backward(dy, x, one, step, None).dx
    error = np.abs(keras.ops.convert_to_numpy(keras.ops.cast(dx, "float32")) - desired).max()
    assert error <= tolerance * np.abs(desired).max()
