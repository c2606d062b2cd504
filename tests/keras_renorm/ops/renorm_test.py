import itertools
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_renorm import ops
from keras_renorm.ops import reference
from keras_renorm.ops.steps import lowerings

EPSILON = 1e-3
# How each function is run: the same numbers are expected of all.
MODES = {
    "eager": lambda f: f,
    "graph": tf.function,
    "jit": lambda f: tf.function(f, jit_compile=True),
}


@pytest.fixture(params=lowerings.NAMES, autouse=True)
def lowering(request, monkeypatch):
    """Everything here holds for each of the three."""
    monkeypatch.setenv(lowerings.VARIABLE, request.param)
    return request.param


def make_case(rng, shape, dtype="float32"):
    """Inputs with the channels last, and everything that a step needs."""
    channels = shape[-1]
    case = {
        "x": rng.normal(1.0, 2.0, shape),
        "dy": rng.normal(size=shape),
        "gamma": rng.normal(1.0, 0.3, channels),
        "beta": rng.normal(size=channels),
        "mu": rng.normal(0.5, 1.0, channels),
        "variance": rng.uniform(0.5, 9.0, channels),
    }
    return {name: value.astype(dtype) for name, value in case.items()}


def step_and_gradients(
    case,
    *,
    axis=-1,
    mask=None,
    mode="eager",
    r_max=1.5,
    d_max=0.5,
    relu=False,
    virtual_batch_size=None,
    known=True,
):
    """Output, moments and gradients in x, gamma and beta of `ops.batch_renormalization`.

    With `known=False` the size of the batch is unknown when it is traced.
    """

    def run(x, dy, gamma, beta):
        with tf.GradientTape() as tape:
            tape.watch((x, gamma, beta))
            y, batch = ops.batch_renormalization(
                x,
                case["mu"],
                case["variance"],
                gamma,
                beta,
                r_max=r_max,
                d_max=d_max,
                epsilon=EPSILON,
                axis=axis,
                mask=mask,
                relu=relu,
                virtual_batch_size=virtual_batch_size,
            )
        return y, batch, tape.gradient(y, (x, gamma, beta), output_gradients=dy)

    tensors = [tf.constant(case[name]) for name in ("x", "dy", "gamma", "beta")]
    if not known:
        shapes = [[None, *tensors[0].shape[1:]]] * 2 + [tensors[2].shape] * 2
        signature = [tf.TensorSpec(s, t.dtype) for s, t in zip(shapes, tensors, strict=True)]
        return tf.function(run, jit_compile=mode == "jit", input_signature=signature)(*tensors)
    return MODES[mode](run)(*tensors)


def expected(case, *, mask=None, r_max=1.5, d_max=0.5):
    sigma = np.sqrt(case["variance"].astype("float64") + EPSILON)
    step = reference.forward(
        case["x"],
        case["gamma"],
        case["beta"],
        case["mu"],
        sigma,
        r_max=r_max,
        d_max=d_max,
        alpha=0.01,
        epsilon=EPSILON,
        mask=mask,
    )
    return step, reference.backward(case["dy"], case["x"], case["gamma"], step, mask)


def assert_close(actual, desired, rtol=1e-5):
    """Within `rtol` of the largest entry."""
    desired = np.asarray(desired)
    np.testing.assert_allclose(actual, desired, rtol=0, atol=rtol * np.abs(desired).max())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(16, 5), (6, 7, 5), (4, 5, 6, 5), (2, 3, 4, 5, 5)])
def test_output_and_gradients_equal_the_reference(rng, shape, mode):
    case = make_case(rng, shape)
    y, batch, gradients = step_and_gradients(case, mode=mode)
    step, desired = expected(case)
    assert_close(y, step.y)
    assert_close(np.sqrt(batch.variance + EPSILON), step.sigma_b)
    for actual, gradient in zip(gradients, desired, strict=True):
        assert_close(actual, gradient)


@pytest.mark.parametrize("axis", [1, 2, 3, -1])
def test_any_axis(rng, axis):
    case = make_case(rng, (4, 5, 6, 3))
    step, desired = expected(case)
    moved = {**case, "x": np.moveaxis(case["x"], -1, axis), "dy": np.moveaxis(case["dy"], -1, axis)}
    y, _, (dx, dgamma, dbeta) = step_and_gradients(moved, axis=axis)
    assert_close(np.moveaxis(y, axis, -1), step.y)
    assert_close(np.moveaxis(dx, axis, -1), desired.dx)
    assert_close(dgamma, desired.dgamma)
    assert_close(dbeta, desired.dbeta)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("mask_shape", [(6, 7, 1), (6, 1, 1), (6, 7, 5), (1, 7, 5)])
def test_masked_positions_contribute_nothing_even_if_nan(rng, mask_shape, mode):
    case = make_case(rng, (6, 7, 5))
    mask = rng.random(mask_shape) > 0.4
    step, desired = expected(case, mask=mask)
    full = np.broadcast_to(mask, (6, 7, 5))
    for name in ("x", "dy"):
        case[name] = np.where(full, case[name], np.nan).astype("float32")
    y, _, gradients = step_and_gradients(case, mask=mask, mode=mode)
    assert_close(np.asarray(y)[full], step.y[full])
    for actual, gradient in zip(gradients, desired, strict=True):
        assert_close(actual, gradient)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("masked", [False, True])
def test_relu_is_the_positive_part_and_stops_the_gradient_elsewhere(rng, masked, mode):
    case = make_case(rng, (6, 7, 5))
    mask = rng.random((6, 7, 1)) > 0.4 if masked else None
    step, _ = expected(case, mask=mask)
    y, _, gradients = step_and_gradients(case, mask=mask, mode=mode, relu=True)
    _, desired = expected({**case, "dy": np.where(step.y > 0, case["dy"], 0)}, mask=mask)
    assert_close(y, np.maximum(step.y, 0))
    for actual, gradient in zip(gradients, desired, strict=True):
        assert_close(actual, gradient)


def test_masked_positions_are_normalised_like_the_others(rng):
    case = make_case(rng, (6, 7, 5))
    mask = rng.random((6, 7, 1)) > 0.4
    y, _, _ = step_and_gradients(case, mask=mask)
    assert_close(y, expected(case, mask=mask)[0].y)


def test_gradients_in_float64_equal_central_differences(rng):
    case = make_case(rng, (5, 4, 3), "float64")
    _, batch, gradients = step_and_gradients(case)
    correction = ops.renorm_correction(
        batch, case["mu"], case["variance"], r_max=1.5, d_max=0.5, epsilon=EPSILON
    )

    def loss(x, gamma, beta):
        """With r and d held at what they were."""
        x_hat = (x - x.mean((0, 1))) / np.sqrt(x.var((0, 1)) + EPSILON)
        y = gamma * (x_hat * np.asarray(correction.r) + np.asarray(correction.d)) + beta
        return (case["dy"] * y).sum()

    point = [case["x"], case["gamma"], case["beta"]]
    for i, gradient in enumerate(gradients):
        numeric = np.zeros_like(point[i])
        for index in np.ndindex(numeric.shape):
            for sign in (1, -1):
                moved = [a.copy() for a in point]
                moved[i][index] += sign * 1e-5
                numeric[index] += sign * loss(*moved) / 2e-5
        assert_close(gradient, numeric, rtol=1e-7)


def test_the_gradients_of_x_sum_to_zero_and_are_orthogonal_to_x(rng):
    # Ioffe 2017, section 3: sum_i dL/dx_i = 0, and sum_i x_i dL/dx_i = 0 as epsilon vanishes.
    case = make_case(rng, (50, 5), "float64")
    x = tf.constant(case["x"])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y, _ = ops.batch_renormalization(
            x, case["mu"], case["variance"], case["gamma"], r_max=1.5, d_max=0.5, epsilon=1e-30
        )
    dx = tape.gradient(y, x, output_gradients=tf.constant(case["dy"]))
    np.testing.assert_allclose(tf.reduce_sum(dx, 0), 0, atol=1e-12)
    np.testing.assert_allclose(tf.reduce_sum(x * dx, 0), 0, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("masked", [False, True])
def test_second_derivatives_equal_central_differences(rng, masked, mode):
    """Of a gradient penalty, as in Wasserstein GANs, with r and d held."""
    case = make_case(rng, (6, 3), "float64")
    mask = rng.random((6, 1)) > 0.3 if masked else None
    weight = case["dy"] if mask is None else np.where(mask, case["dy"], 0)
    limits = {"r_max": 1.0, "d_max": 0.0}  # so that r and d are constant

    def penalty(x):
        """sum (dL/dx)^2 for L = sum weight * y^3, from the reference."""
        step, _ = expected({**case, "x": x}, mask=mask, **limits)
        upstream = 3 * weight * step.y**2
        dx = reference.backward(upstream, x, case["gamma"], step, mask).dx
        return (dx**2).sum()

    def normalize(x):
        options = {"epsilon": EPSILON, "mask": mask, **limits}
        vectors = (case[name] for name in ("mu", "variance", "gamma", "beta"))
        return ops.batch_renormalization(x, *vectors, **options)[0]

    traced = MODES[mode](normalize)

    def gradient_of_penalty(x, normalize=normalize):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                loss = tf.reduce_sum(weight * normalize(x) ** 3)
            total = tf.reduce_sum(inner.gradient(loss, x) ** 2)
        return outer.gradient(total, x)

    numeric = np.zeros((6, 3))
    for index in np.ndindex(6, 3):
        for sign in (1, -1):
            moved = case["x"].copy()
            moved[index] += sign * 1e-5
            numeric[index] += sign * penalty(moved) / 2e-5
    x = tf.constant(case["x"])
    assert_close(MODES[mode](gradient_of_penalty)(x), numeric, rtol=1e-6)
    # The whole in one function, and a function that is differentiated from outside.
    assert_close(gradient_of_penalty(x, traced), numeric, rtol=1e-6)


@pytest.mark.parametrize("mode", ["graph", "jit"])
def test_a_branch_normalizes_what_lies_outside(rng, mode):
    """Of `tf.cond` in a function that is differentiated from outside."""
    case = make_case(rng, (6, 3))
    mask = tf.constant(rng.random((6, 1)) > 0.3)
    names = ("x", "mu", "variance", "gamma", "beta")
    tensors = [tf.constant(case[name]) for name in names]

    def branch(flag, *tensors):
        options = {"mask": mask, "r_max": 1.5, "d_max": 0.5, "epsilon": EPSILON}
        return tf.cond(
            flag, lambda: ops.batch_renormalization(*tensors, **options)[0], lambda: tensors[0]
        )

    with tf.GradientTape() as tape:
        tape.watch(tensors)
        y = MODES[mode](branch)(tf.constant(True), *tensors)
    gradients = tape.gradient(y, [tensors[i] for i in (0, 3, 4)], tf.constant(case["dy"]))
    _, _, desired = step_and_gradients(case, mask=mask)
    for actual, gradient in zip(gradients, desired, strict=True):
        assert_close(actual, gradient)


# Not ghosts under XLA: TensorFlow has no second gradient of a slice there.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("masked", "size", "mode"),
    [*itertools.product([False, True], [None], MODES), (False, 4, "eager"), (False, 4, "graph")],
)
def test_forward_derivatives_are_the_transpose_of_the_gradient(rng, masked, size, mode):
    """v . J u = u . J' v, for one r and d that are not 1 and 0, and held."""
    case = make_case(rng, (6, 3), "float64")
    mask = rng.random((6, 1)) > 0.3 if masked else None
    points = tuple(tf.constant(case[name]) for name in ("x", "gamma", "beta"))
    tangents = tuple(tf.constant(rng.normal(size=point.shape)) for point in points)

    def normalize(x, gamma, beta):
        options = {"epsilon": EPSILON, "mask": mask, "virtual_batch_size": size}
        options |= {"r_max": 1.5, "d_max": 0.5, "relu": True}
        return ops.batch_renormalization(x, case["mu"], case["variance"], gamma, beta, **options)[0]

    normalize = MODES[mode](normalize)
    with tf.GradientTape() as tape:
        tape.watch(points)
        y = normalize(*points)
    gradients = tape.gradient(y, points, case["dy"])
    with tf.autodiff.ForwardAccumulator(points, tangents) as accumulator:
        y = normalize(*points)
    forwards = np.where(True if mask is None else mask, case["dy"], 0) * accumulator.jvp(y)
    transposed = sum(np.sum(g * t) for g, t in zip(gradients, tangents, strict=True))
    np.testing.assert_allclose(np.sum(forwards), transposed, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_forwards_over_backwards_is_the_symmetric_hessian(rng, mode):
    """u . H v = v . H u for the Hessian H of a loss, and both are those of tapes alone."""
    case = make_case(rng, (6, 3), "float64")
    x = tf.constant(case["x"])
    u, v = tf.constant(rng.normal(size=(2, 6, 3)))
    vectors = [case[name] for name in ("mu", "variance", "gamma", "beta")]
    normalize = MODES[mode](lambda x: ops.batch_renormalization(x, *vectors, epsilon=EPSILON)[0])

    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(case["dy"] * normalize(x) ** 3)
        return tape.gradient(loss, x)

    def forwards(direction):
        with tf.autodiff.ForwardAccumulator(x, direction) as accumulator:
            found = gradient(x)
        return accumulator.jvp(found)

    with tf.GradientTape() as tape:
        tape.watch(x)
        found = gradient(x)
    assert_close(forwards(v), tape.gradient(found, x, v), rtol=1e-10)
    np.testing.assert_allclose(
        tf.reduce_sum(u * forwards(v)), tf.reduce_sum(v * forwards(u)), rtol=1e-9
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "known"), [("eager", True), ("jit", True), ("graph", False), ("jit", False)]
)
@pytest.mark.parametrize(
    ("axis", "size", "mask_shape"),
    [(2, 4, None), (1, 3, None), (2, 5, (8, 7, 1)), (1, 4, (1, 7, 5)), (2, 1, (8, 1, 1))],
)
def test_ghost_batches_equal_the_reference_one_by_one(rng, axis, size, mask_shape, known, mode):
    """Of 8 rows: two equal ghosts, three of which one is smaller, two; and one for each row."""
    case = make_case(rng, (8, 7, 5))
    mask = None if mask_shape is None else rng.random(mask_shape) > 0.4
    full = np.broadcast_to(True if mask is None else mask, (8, 7, 5))
    for name in ("x", "dy"):
        case[name] = np.where(full, case[name], np.nan).astype("float32")

    def move(array):
        return None if array is None else np.moveaxis(array, -1, axis)

    moved = {**case, "x": move(case["x"]), "dy": move(case["dy"])}
    y, batch, (dx, dgamma, dbeta) = step_and_gradients(
        moved, axis=axis, mask=move(mask), mode=mode, virtual_batch_size=size, known=known
    )
    y, dx = (np.moveaxis(np.asarray(value), axis, -1) for value in (y, dx))
    sums, ghosts = np.zeros((2, 5)), range(0, 8, size)
    assert batch.mean.shape == (len(ghosts), 5)
    for g, start in enumerate(ghosts):
        rows = slice(start, start + size)
        part = {**case, "x": case["x"][rows], "dy": case["dy"][rows]}
        step, desired = expected(part, mask=full[rows])
        np.testing.assert_allclose(y[rows][full[rows]], step.y[full[rows]], atol=5e-5)
        np.testing.assert_allclose(batch.mean[g], step.mu_b, atol=1e-5)
        assert_close(np.sqrt(batch.variance[g] + EPSILON), step.sigma_b)
        np.testing.assert_array_equal(batch.count[g], full[rows].sum((0, 1)))
        np.testing.assert_allclose(dx[rows], desired.dx, atol=2e-5)
        sums += desired.dgamma, desired.dbeta
    assert_close(dgamma, sums[0])
    assert_close(dbeta, sums[1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "known"), [("eager", True), ("graph", False), ("jit", True), ("jit", False)]
)
def test_a_ghost_that_holds_the_batch_changes_no_bit(rng, lowering, known, mode):
    case = make_case(rng, (6, 7, 5))
    y, batch, gradients = step_and_gradients(case, mode=mode, known=known)
    for size in (6, 1000, sys.maxsize):
        y_ghost, ghosts, again = step_and_gradients(
            case, mode=mode, known=known, virtual_batch_size=size
        )
        pairs = [(y_ghost, y), *zip((v[0] for v in ghosts), batch, strict=True)]
        for actual, desired in [*pairs, *zip(again, gradients, strict=True)]:
            if lowering == "native" or (known and mode != "jit"):
                np.testing.assert_array_equal(actual, desired)
            else:  # other operations, or other ones for XLA to fuse with: the same numbers
                np.testing.assert_allclose(actual, desired, rtol=1e-5, atol=1e-5)


def test_gradients_of_ghosts_in_float64_equal_central_differences(rng):
    case = make_case(rng, (5, 4, 3), "float64")
    _, batch, gradients = step_and_gradients(case, virtual_batch_size=2)
    r, d = (
        np.asarray(value)
        for value in ops.renorm_correction(
            batch, case["mu"], case["variance"], r_max=1.5, d_max=0.5, epsilon=EPSILON
        )
    )
    assert r.shape == (3, 3)
    assert len(np.unique(d)) > 4  # neither shared nor all clipped

    def loss(x, gamma, beta):
        """With each ghost's r and d held at what they were."""
        total = 0
        for g, rows in enumerate((slice(0, 2), slice(2, 4), slice(4, 5))):
            part = x[rows]
            x_hat = (part - part.mean((0, 1))) / np.sqrt(part.var((0, 1)) + EPSILON)
            total += (case["dy"][rows] * (gamma * (x_hat * r[g] + d[g]) + beta)).sum()
        return total

    point = [case["x"], case["gamma"], case["beta"]]
    for i, gradient in enumerate(gradients):
        numeric = np.zeros_like(point[i])
        for index in np.ndindex(numeric.shape):
            for sign in (1, -1):
                moved = [a.copy() for a in point]
                moved[i][index] += sign * 1e-5
                numeric[index] += sign * loss(*moved) / 2e-5
        assert_close(gradient, numeric, rtol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("known", [True, False])
def test_second_derivatives_of_ghosts_are_those_of_their_sum(rng, known):
    case = make_case(rng, (5, 3), "float64")
    options = {"epsilon": EPSILON, "r_max": 1.5, "d_max": 0.5}

    def second(x, size):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                y, _ = ops.batch_renormalization(
                    x, case["mu"], case["variance"], **options, virtual_batch_size=size
                )
                loss = tf.reduce_sum(y**3)
            total = tf.reduce_sum(inner.gradient(loss, x) ** 2)
        return outer.gradient(total, x)

    x = tf.constant(case["x"])
    signature = [tf.TensorSpec([None, 3] if not known else [5, 3], "float64")]
    actual = tf.function(lambda x: second(x, 2), input_signature=signature)(x)
    desired = tf.concat([second(x[i : i + 2], None) for i in (0, 2, 4)], 0)
    assert_close(actual, desired, rtol=1e-9)


def test_training_equals_inference_when_nothing_clips(rng):
    case = make_case(rng, (6, 7, 5))
    inference = ops.normalize(
        case["x"], case["mu"], case["variance"], case["gamma"], case["beta"], epsilon=EPSILON
    )
    for size in (None, 2, 4):
        y, _, _ = step_and_gradients(case, r_max=np.inf, d_max=np.inf, virtual_batch_size=size)
        assert_close(y, inference)


@pytest.mark.parametrize("mode", MODES)
def test_limits_of_one_and_zero_are_plain_batch_normalization_to_the_bit(rng, mode):
    case = make_case(rng, (6, 7, 5))
    one, zero = tf.constant(1.0), tf.constant(0.0)
    scheduled = step_and_gradients(case, mode=mode, r_max=one, d_max=zero)
    elsewhere = {**case, "mu": case["mu"] + 7, "variance": case["variance"] * 3}
    plain = step_and_gradients(elsewhere, mode=mode, r_max=1.0, d_max=0.0)
    for actual, desired in zip(tf.nest.flatten(scheduled), tf.nest.flatten(plain), strict=True):
        np.testing.assert_array_equal(actual, desired)


def test_r_and_d_are_clipped_on_both_sides():
    batch = ops.Moments(*(np.array(v, "f4") for v in ([9, -9, 0], [81, 0.0, 1], [4] * 3, [0] * 3)))
    r, d = ops.renorm_correction(
        batch, np.zeros(3, "f4"), np.ones(3, "f4"), r_max=3.0, d_max=5.0, epsilon=1e-6
    )
    np.testing.assert_allclose(r, [3, 1 / 3, 1], rtol=1e-6)
    np.testing.assert_allclose(d, [5, -5, 0], rtol=1e-6)


def test_tensor_limits_out_of_range_count_as_the_limits_of_batch_normalization(rng):
    batch = ops.moments(rng.normal(2.0, 3.0, (8, 4)).astype("f4"))
    r, d = ops.renorm_correction(
        batch, np.zeros(4, "f4"), np.ones(4, "f4"), r_max=tf.constant(0.5), d_max=tf.constant(-1.0)
    )
    np.testing.assert_array_equal(r, 1)
    np.testing.assert_array_equal(d, 0)
    case = make_case(rng, (8, 4))
    y, _, _ = step_and_gradients(case, r_max=tf.constant(0.5), d_max=tf.constant(-1.0))
    np.testing.assert_array_equal(y, step_and_gradients(case, r_max=1.0, d_max=0.0)[0])


@pytest.mark.parametrize("mask", [None, np.zeros((4, 1), bool)], ids=["empty", "all masked"])
@pytest.mark.parametrize("size", [None, 3])
def test_without_positions_nothing_is_nan_and_no_gradient_flows(rng, mask, size):
    case = make_case(rng, (0 if mask is None else 4, 3))
    y, batch, (dx, dgamma, dbeta) = step_and_gradients(case, mask=mask, virtual_batch_size=size)
    np.testing.assert_allclose(y, expected(case, mask=mask)[0].y, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(batch.count, 0)
    np.testing.assert_array_equal(dx, np.zeros_like(case["x"]))
    np.testing.assert_array_equal(dgamma, 0)
    np.testing.assert_array_equal(dbeta, 0)


def test_a_batch_of_one(rng):
    case = make_case(rng, (1, 3))
    y, _, gradients = step_and_gradients(case, r_max=3.0, d_max=5.0)
    step, desired = expected(case, r_max=3.0, d_max=5.0)
    assert_close(y, step.y)
    np.testing.assert_allclose(gradients[0], 0, atol=1e-6)
    assert_close(gradients[1], desired.dgamma)


def test_a_large_mean_costs_the_training_output_nothing(rng):
    case = make_case(rng, (512, 5))
    case["x"] = (case["x"] + 1e6).astype("float32")
    y, _, gradients = step_and_gradients(case, r_max=1.0, d_max=0.0)
    step, desired = expected(case, r_max=1.0, d_max=0.0)
    assert_close(y, step.y)
    for actual, gradient in zip(gradients, desired, strict=True):
        assert_close(actual, gradient)


def test_a_channel_with_nan_shows_it_and_leaves_the_others_alone(rng):
    case = make_case(rng, (8, 3))
    clean, _, clean_gradients = step_and_gradients(case)
    case["x"][2, 1] = np.nan
    y, _, gradients = step_and_gradients(case)
    assert np.isnan(y.numpy()[:, 1]).all()
    np.testing.assert_array_equal(y.numpy()[:, [0, 2]], clean.numpy()[:, [0, 2]])
    np.testing.assert_array_equal(
        gradients[0].numpy()[:, [0, 2]], clean_gradients[0].numpy()[:, [0, 2]]
    )


@pytest.mark.parametrize(("dtype", "rtol"), [("float16", 2e-3), ("bfloat16", 1.6e-2)])
def test_half_precision_inputs(rng, dtype, rtol):
    case = make_case(rng, (32, 5))
    halves = {name: tf.cast(case[name], dtype) for name in ("x", "dy")}
    y, batch, (dx, dgamma, _) = step_and_gradients({**case, **halves})
    exact = {**case, **{name: tf.cast(v, "float32").numpy() for name, v in halves.items()}}
    step, desired = expected(exact)
    assert (y.dtype, dx.dtype, dgamma.dtype) == (dtype, dtype, "float32")
    # The statistics are as good as float32's; only the output is rounded to the input's type.
    assert_close(batch.mean, step.mu_b)
    assert_close(dgamma, desired.dgamma)
    assert_close(tf.cast(y, "float32"), step.y, rtol)
    assert_close(tf.cast(dx, "float32"), desired.dx, rtol)


def test_float16_near_its_limit():
    x = np.array([[6e4], [-6e4], [6e4], [-6e4]], "float16")
    y, _ = ops.batch_renormalization(x, [0.0], [1.0])
    np.testing.assert_array_equal(y, [[1], [-1], [1], [-1]])


@pytest.mark.parametrize("given", [(), ("gamma",), ("beta",)])
def test_gamma_and_beta_are_optional(rng, given):
    case = make_case(rng, (8, 3))
    filled = {**case, "gamma": np.ones(3, "f4"), "beta": np.zeros(3, "f4")}
    filled |= {name: case[name] for name in given}
    y, _ = ops.batch_renormalization(
        case["x"], case["mu"], case["variance"], r_max=1.5, d_max=0.5, **{n: case[n] for n in given}
    )
    assert_close(y, expected(filled)[0].y)


def test_vectors_given_as_lists_keep_the_precision_of_x(rng):
    case = make_case(rng, (6, 3), "float64")
    vectors = [case[name] for name in ("mu", "variance", "gamma", "beta")]
    limits = {"r_max": 1.1, "d_max": 0.3}
    y, _ = ops.batch_renormalization(case["x"], *(v.tolist() for v in vectors), **limits)
    step = reference.forward(
        case["x"], vectors[2], vectors[3], vectors[0], np.sqrt(vectors[1] + EPSILON),
        alpha=0.1, epsilon=EPSILON, **limits,
    )  # fmt: skip
    np.testing.assert_allclose(y, step.y, rtol=0, atol=1e-12)


def test_normalize_equals_the_reference_at_a_large_mean(rng):
    x = (rng.normal(size=(64, 3)) + 1e6).astype("float32")
    mean, variance = np.full(3, 1e6, "f4"), np.full(3, 4.0, "f4")
    y = tf.function(ops.normalize, jit_compile=True)(x, mean, variance)
    assert_close(y, reference.inference(x, 1, 0, mean, np.sqrt(4 + 1e-3)))


def test_the_moments_that_come_back_have_no_gradient(rng):
    x = tf.constant(rng.normal(size=(4, 2)))
    with tf.GradientTape() as tape:
        tape.watch(x)
        _, batch = ops.batch_renormalization(x, [0.0, 0.0], [1.0, 1.0])
    assert tape.gradient(batch.mean, x) is None


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("by_stddev", [False, True])
@pytest.mark.parametrize("size", [None, 4])
def test_a_training_step_is_the_step_and_then_the_update(rng, size, by_stddev, mode):
    case = make_case(rng, (6, 7, 5))
    mask = rng.random((6, 7, 1)) > 0.4
    vectors = [case[name] for name in ("mu", "variance", "gamma", "beta")]
    options = {"mask": mask, "r_max": 1.5, "d_max": 0.5, "virtual_batch_size": size}

    def run(x):
        return ops.training_step(x, *vectors, momentum=0.9, by_stddev=by_stddev, **options)

    y, moving = MODES[mode](run)(tf.constant(case["x"]))
    y_alone, batch = MODES[mode](lambda x: ops.batch_renormalization(x, *vectors, **options))(
        tf.constant(case["x"])
    )
    desired = ops.update_moving(
        *vectors[:2], batch, momentum=0.9, epsilon=EPSILON, by_stddev=by_stddev
    )
    np.testing.assert_allclose(y, y_alone, rtol=1e-6, atol=1e-6)
    for actual, value in zip(moving, desired, strict=True):
        np.testing.assert_allclose(actual, value, rtol=1e-6)


@pytest.mark.parametrize("by_stddev", [False, True])
@pytest.mark.parametrize("size", [None, 4])
def test_a_training_step_without_momentum_leaves_nothing_of_the_old_statistics(
    rng, size, by_stddev
):
    x = rng.normal(0.3, 1e-3, (64, 5)).astype("f4")
    old = np.full(5, 1e12, "f4")
    options = {"momentum": 0.0, "by_stddev": by_stddev, "virtual_batch_size": size}
    _, moving = ops.training_step(x, old, old, epsilon=EPSILON, **options)
    each = x.astype("f8").reshape(-1, size or 64, 5)
    variance = each.var(1).mean(0)
    if by_stddev:
        variance = np.sqrt(each.var(1) + EPSILON).mean(0) ** 2 - EPSILON
    np.testing.assert_allclose(moving.mean, each.mean((0, 1)), rtol=1e-6)
    np.testing.assert_allclose(moving.variance, variance, rtol=1e-5)
    _, kept = ops.training_step(x, old, old, mask=np.zeros((64, 5), bool), **options)
    np.testing.assert_array_equal(kept.mean, old)
    np.testing.assert_array_equal(kept.variance, old)


X = np.zeros((4, 3), "float32")
BAD_CALLS = {
    "integers": (
        lambda: ops.moments(np.zeros((4, 3), "int32")),
        "`x` must be floating point, received dtype int32",
    ),
    "axis": (lambda: ops.moments(X, axis=2), r"`axis` must lie in \[-2, 1\].*received axis=2"),
    "rank": (lambda: ops.moments(X[0]), "at least two dimensions.*received an input of rank 1"),
    "mask": (
        lambda: ops.moments(X, mask=np.ones((4, 2))),
        r"`mask` must have the inputs' rank, that is \(4, 3\).*mask of shape \(4, 2\)",
    ),
    "epsilon": (
        lambda: ops.batch_renormalization(X, [0.0] * 3, [1.0] * 3, epsilon=0.0),
        "`epsilon` must be finite and greater than 0, received epsilon=0.0",
    ),
    "r_max": (
        lambda: ops.batch_renormalization(X, [0.0] * 3, [1.0] * 3, r_max=0.5),
        "`r_max` must be at least 1, received r_max=0.5",
    ),
    "no limit": (
        lambda: ops.batch_renormalization(X, [0.0] * 3, [1.0] * 3, r_max=None),
        "`r_max` must be a number or a scalar tensor, received None",
    ),
    "limits": (
        lambda: ops.batch_renormalization(X, [0.0] * 3, [1.0] * 3, r_max=np.ones(3)),
        "`r_max` must be a number or a scalar tensor, received array",
    ),
    "d_max": (
        lambda: ops.batch_renormalization(X, [0.0] * 3, [1.0] * 3, d_max=-1.0),
        "`d_max` must be at least 0, received d_max=-1.0",
    ),
    "ghosts": (
        lambda: ops.batch_renormalization(X, [0.0] * 3, [1.0] * 3, virtual_batch_size=0),
        "`virtual_batch_size` must be at least 1, received virtual_batch_size=0. Write None",
    ),
    "fractions": (
        lambda: ops.batch_renormalization(X, [0.0] * 3, [1.0] * 3, virtual_batch_size=2.0),
        "`virtual_batch_size` must be an integer or None, received 2.0 of type float",
    ),
    "ghosts of channels": (
        lambda: ops.batch_renormalization(X, [0.0] * 4, [1.0] * 4, axis=0, virtual_batch_size=2),
        "the batch must be the first axis, received virtual_batch_size=2 with the channels on axis",
    ),
    "synchronized ghosts": (
        lambda: ops.batch_renormalization(
            X, [0.0] * 3, [1.0] * 3, synchronized=True, virtual_batch_size=2
        ),
        "give one of them, received virtual_batch_size=2, synchronized=True",
    ),
    "momentum": (
        lambda: ops.training_step(X, [0.0] * 3, [1.0] * 3, momentum=1.5),
        r"`momentum` must be in \[0, 1\], received momentum=1.5",
    ),
    "gamma": (
        lambda: ops.normalize(X, [0.0] * 3, [1.0] * 3, gamma=[1.0]),
        r"`gamma` must be a vector with one entry per channel, of shape \(3,\); received.*\(1,\)",
    ),
}


@pytest.mark.parametrize(("call", "message"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_bad_arguments_are_named(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


def test_no_float_but_float64_widens_the_statistics():
    for dtype in ("float16", "bfloat16", "float32", "float64"):
        x = keras.ops.zeros((2, 3), dtype)
        y, batch = ops.batch_renormalization(x, [0.0] * 3, [1.0] * 3)
        assert y.dtype == dtype
        assert batch.variance.dtype == ("float64" if dtype == "float64" else "float32")


@pytest.mark.parametrize("value", [None, "abc", {}])
@pytest.mark.parametrize("name", ["x", "mask", "moving_mean", "gamma"])
def test_what_holds_no_numbers_is_named(rng, name, value):
    given = {
        "x": rng.normal(size=(4, 3)),
        "moving_mean": np.zeros(3),
        "moving_variance": np.ones(3),
    }
    if value is None and name != "x":
        return  # no mask, and the default
    message = rf"`{name}` must be a tensor, or an array or a list of numbers; received .* of type"
    for function in (ops.batch_renormalization, ops.inference_step):
        with pytest.raises(TypeError, match=message):
            function(**given | {name: value})


@pytest.mark.parametrize("name", ["relu", "synchronized", "by_stddev", "portable"])
def test_switches_are_true_or_false(rng, name):
    x, vectors = rng.normal(size=(4, 3)), (np.zeros(3), np.ones(3))
    function = ops.inference_step if name == "portable" else ops.training_step
    needed = {"momentum": 0.9} if function is ops.training_step else {}
    with pytest.raises(TypeError, match=f"`{name}` must be True or False, received 'yes'"):
        function(x, *vectors, **needed, **{name: "yes"})


@pytest.mark.parametrize("value", [None, "abc", 1.0])
def test_what_are_no_moments_is_named(value):
    message = r"`batch` must be Moments, received .* Write batch=keras_renorm.ops.moments\(x\)"
    vectors = np.zeros(3), np.ones(3)
    with pytest.raises(TypeError, match=message):
        ops.renorm_correction(value, *vectors, r_max=1.0, d_max=0.0)
    with pytest.raises(TypeError, match=message):
        ops.update_moving(*vectors, value, momentum=0.9, epsilon=1e-3, by_stddev=False)
