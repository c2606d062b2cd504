"""That every lowering gives the same; more of the steps is in renorm_test.py."""

import dataclasses
import importlib
import inspect

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

if keras.backend.backend() != "tensorflow":
    pytest.skip("the three lowerings of TensorFlow", allow_module_level=True)

import tensorflow as tf

from keras_renorm.ops import backends
from keras_renorm.ops.backends.tensorflow.collective import StrategyReplicas
from keras_renorm.ops.maths.operands import Arguments, Constants, Settings
from keras_renorm.ops.native import loader
from keras_renorm.ops.steps import inference, lowerings, training
from keras_renorm.ops.steps import step as steps
from keras_renorm.ops.steps.step import Step

NAMES = [name for name in lowerings.NAMES if name != "native" or loader.library_path().is_file()]
EPSILON = 1e-3
TOLERANCE = {"float16": 2e-3, "bfloat16": 1.6e-2, "float32": 4e-5, "float64": 1e-11}


@st.composite
def cases(draw):
    shape = [draw(st.integers(0, 8)), *draw(st.lists(st.integers(1, 6), min_size=1, max_size=2))]
    size = draw(st.none() | st.integers(1, 9))
    axis = draw(st.integers(0 if size is None else 1, len(shape) - 1))
    shape[axis] = max(1, shape[axis])
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    mask = None
    if draw(st.booleans()):
        mask = rng.random([n if draw(st.booleans()) else 1 for n in shape]) > 0.4
    return Case(
        *(rng, tuple(shape), draw(st.sampled_from([*TOLERANCE])), mask),
        limits=draw(st.sampled_from([(1.0, 0.0), (1.5, 0.5), (np.inf, np.inf)])),
        axis=axis,
        ghost_size=size,
        relu=draw(st.booleans()),
    )


class Case:
    def __init__(self, rng, shape, dtype="float32", mask=None, limits=(1.5, 0.5), **settings):
        self.dtype, self.wide = dtype, "float64" if dtype == "float64" else "float32"
        self.settings = {"axis": len(shape) - 1, "epsilon": EPSILON, "relu": False, **settings}
        x, dy = rng.normal(1.0, 2.0, (2, *shape))
        vectors = rng.uniform(0.5, 2.0, (4, shape[self.settings["axis"]]))
        self.vectors = [tf.constant(v, self.wide) for v in vectors]
        self.x, self.dy = (tf.cast(a, dtype) for a in (x, dy))
        self.mask, self.limits = mask, limits
        if mask is not None:
            self.x, self.dy = (tf.where(mask, a, tf.cast(np.nan, dtype)) for a in (self.x, self.dy))

    def step(self, x=None, **average):
        arguments = Arguments(self.x if x is None else x, *self.vectors[:2])
        limits = [tf.constant(value, self.wide) for value in self.limits]
        mask = None if self.mask is None else tf.constant(self.mask)
        constants = Constants(*self.vectors[2:], *limits, mask)
        return Step(arguments, constants, Settings(**self.settings, **average))

    def output(self, x=None):
        trained = training.train(self.step(x))
        return trained.y, trained.moments()

    def train(self, by_stddev):
        step = self.step(momentum=0.9, by_stddev=by_stddev)
        with tf.GradientTape() as tape:
            tape.watch(step.arguments)
            trained = training.train(step)
            y, found = trained.y, trained.moving()
        return y, found, tape.gradient(y, step.arguments, self.dy)

    def expected(self, float64):
        x, dy = (tf.cast(a, "float64").numpy() for a in (self.x, self.dy))
        weights = None if self.mask is None else np.broadcast_to(self.mask, x.shape)
        return float64(x, dy, self.vectors, self.limits, weights=weights, **self.settings)

    def moved(self, desired, by_stddev):
        """The moving statistics towards the ghosts' means, each by its number of positions."""
        mu, old = (np.float64(value) for value in self.vectors[2:])
        count, mean, variance = (desired[name] for name in ("count", "mean", "variance"))
        shares, seen = count / np.maximum(count.sum(0), 1), count.sum(0) > 0
        sigma_b, sigma = np.sqrt(variance + EPSILON), np.sqrt(old + EPSILON)
        new = old + 0.1 * ((shares * variance).sum(0) - old)
        if by_stddev:
            new = (sigma + 0.1 * ((shares * sigma_b).sum(0) - sigma)) ** 2 - EPSILON
        mean = mu + 0.1 * ((shares * mean).sum(0) - mu)
        return np.where(seen, mean, mu), np.where(seen, new, old), float(seen.any())


def close(actual, desired, tolerance):
    actual = tf.cast(actual, "float64").numpy()
    assert actual.shape == np.shape(desired)
    allowed = tolerance * max(1.0, np.abs(desired).max(initial=0))
    np.testing.assert_allclose(actual, desired, rtol=0, atol=allowed)


@pytest.fixture(params=NAMES)
def lowering(request, monkeypatch):
    monkeypatch.setenv(lowerings.VARIABLE, request.param)
    return request.param


@pytest.mark.usefixtures("lowering")
def test_any_step_is_that_of_float64(float64):
    @given(cases(), st.booleans())
    @settings(max_examples=60, deadline=None, derandomize=True)
    def check(case, by_stddev):
        if case.settings["relu"]:  # at 0 a rounding decides whether the gradient passes
            affine = case.expected(float64)["affine"]
            case.dy = tf.where(np.abs(affine) < 0.02, tf.cast(0, case.dtype), case.dy)
            case.dy = tf.where(affine < -0.02, tf.cast(np.inf, case.dtype), case.dy)
        y, found, gradients = case.train(by_stddev)
        desired, wide = case.expected(float64), TOLERANCE[case.wide]
        valid = True if case.mask is None else np.broadcast_to(case.mask, case.x.shape)
        assert y.dtype == gradients[0].dtype == case.dtype
        y, desired["y"] = tf.where(valid, y, 0), np.where(valid, desired["y"], 0)
        for actual, name in ((y, "y"), (gradients[0], "dx")):
            close(actual, desired[name], TOLERANCE[case.dtype])
        for actual, name in zip(gradients[1:], ("dgamma", "dbeta"), strict=True):
            close(actual, desired[name], wide)
        for actual, value in zip(found, case.moved(desired, by_stddev), strict=True):
            close(actual, value, wide)

    check()


@pytest.mark.usefixtures("lowering")
@pytest.mark.parametrize("by_stddev", [False, True])
@pytest.mark.parametrize("size", [None, 3])
def test_without_a_row_no_moving_statistic_changes(rng, size, by_stddev):
    case = Case(rng, (0, 4), ghost_size=size)
    y, found, gradients = case.train(by_stddev)
    assert y.shape == gradients[0].shape == (0, 4)
    for actual, value in zip(found, (*case.vectors[2:], 0), strict=True):
        np.testing.assert_array_equal(actual, value)
    for gradient in gradients[1:]:
        np.testing.assert_array_equal(gradient, np.zeros(4))
    _, batch = case.output()
    assert {tuple(value.shape) for value in batch} == {(4,) if size is None else (0, 4)}


@pytest.mark.usefixtures("lowering")
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("size", [5, 2**31 - 2])
def test_a_batch_that_is_one_ghost_has_the_moments_of_one(rng, float64, known, size):
    case = Case(rng, (5, 3), ghost_size=size)
    spec = tf.TensorSpec([5 if known else None, 3])
    y, batch = tf.function(case.output, input_signature=[spec], autograph=False)(case.x)
    desired = case.expected(float64)
    close(y, desired["y"], 1e-5)
    for name in ("mean", "variance", "count"):
        close(getattr(batch, name), desired[name], 1e-5)


SHAPES = [((3000, 5), 1, None), ((700, 30), 1, 64), ((6, 4, 900), 1, None), ((3, 2, 40_000), 1, 2)]


@pytest.mark.usefixtures("lowering")
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("shape", "axis", "size"), SHAPES)
def test_a_large_mean_costs_float64_nothing(rng, float64, shape, axis, size, masked):
    mask = rng.random((shape[0], 1, *shape[2:])) > 0.3 if masked else None
    case = Case(rng, shape, "float64", mask=mask, axis=axis, ghost_size=size)
    case.x = case.x + 1e6
    y, batch = case.output()
    case.x, case.vectors[2] = case.x - 1e6, case.vectors[2] - 1e6  # without a rounding
    desired = case.expected(float64)
    near = (np.float64(batch.mean) - 1e6) + batch.mean_remainder
    np.testing.assert_allclose(np.atleast_2d(near), desired["mean"], rtol=0, atol=1e-14)
    np.testing.assert_allclose(np.atleast_2d(batch.variance), desired["variance"], rtol=1e-13)
    valid = True if mask is None else np.broadcast_to(mask, shape)
    close(tf.where(valid, y, 0), np.where(valid, desired["y"], 0), 1e-13)


@pytest.mark.usefixtures("lowering")
@pytest.mark.parametrize("with_", ["", "mask", "ghosts", "relu"])
@pytest.mark.parametrize(("dtype", "largest"), [("float32", 1e15), ("float64", 1e150)])
@pytest.mark.parametrize("limits", [(1.0, 0.0), (1.5, 0.5)])
def test_a_variance_that_overflows_shows(rng, float64, limits, dtype, largest, with_):
    """At the same size in every lowering. The channel beside it is as ever."""
    for factor in (0.3, 3.0, 1e3, 1e4, 1e5, 1e10):  # some squares, or their sums, overflow
        case = Case(rng, (600, 2), dtype, mask=np.ones((600, 1), bool), limits=limits)
        case.mask = case.mask if with_ == "mask" else None
        case.settings |= {"ghost_size": 300 if with_ == "ghosts" else None, "relu": with_ == "relu"}
        case.x = case.x - tf.reduce_mean(case.x, 0)
        case.x = case.x / tf.math.reduce_std(case.x, 0) * np.array([1, factor * largest], dtype)
        y, found, gradients = case.train(by_stddev=True)
        desired, kept = case.expected(float64), factor > 1
        close(y[:, 0], desired["y"][:, 0], TOLERANCE[dtype])
        for value in (y, *gradients[:2]):
            assert np.isnan(value[..., 1]).all() == np.isnan(value[..., 1]).any() == kept
            assert np.isfinite(value[..., 0]).all()
        for value, before in zip(found[:2], case.vectors[2:], strict=True):
            assert (value[1] == before[1]) == kept
            assert value[0] != before[0]


MASK = np.ones((5, 1), bool)
TAKEN = {
    "native": {"": "OneCall", "mask": "OneCall", "ghosts": "OneCall"},
    "fused": {"": "Fused", "mask": "PlainPasses", "ghosts": "PlainPasses"},
    "composite": dict.fromkeys(("", "mask", "ghosts"), "PlainPasses"),
}


@pytest.mark.parametrize("with_", ["", "mask", "ghosts"])
def test_the_way_is_that_of_the_lowering(rng, lowering, monkeypatch, with_):
    case = Case(rng, (5, 3), mask=MASK if with_ == "mask" else None)
    case.settings["ghost_size"] = 2 if with_ == "ghosts" else None
    taken = []
    for way in map(type, training.IMPLEMENTATIONS):

        def train(self, step, own=way.train):
            taken.append(type(self).__name__)
            return own(self, step)

        monkeypatch.setattr(way, "train", train)
    case.output()
    assert taken == [TAKEN[lowering][with_]]


def test_the_native_library_moves_the_statistics_in_the_same_call(rng, lowering, monkeypatch):
    own, moved = steps.update_moving, []
    monkeypatch.setattr(steps, "update_moving", lambda *a, **o: moved.append(o) or own(*a, **o))
    Case(rng, (5, 3)).train(by_stddev=True)
    assert len(moved) == (0 if lowering == "native" else 1)


STEP = [
    *("maths.correction", "maths.masks", "maths.moments", "maths.moving", "maths.passes"),
    *("maths.sums", "native.layout", "steps.fused", "steps.ghosts", "steps.inference"),
    *("steps.lowerings", "steps.one_call", "steps.pass_by_pass", "steps.plain", "steps.step"),
    *("steps.training", "backends.replicas", "backends.tensorflow.backend"),
    *("backends.tensorflow.calls", "backends.tensorflow.derivatives", "backends.tensorflow.fused"),
]


def functions_of(owner):
    """The functions of a module or class, and those of the module's classes."""
    for _, member in inspect.getmembers(owner):
        if inspect.isclass(member) and inspect.ismodule(owner):
            if member.__module__ == owner.__name__ and not getattr(member, "_is_protocol", False):
                yield from functions_of(member)
        elif inspect.isfunction(inspect.unwrap(member)):
            yield inspect.unwrap(member)


@pytest.mark.parametrize("name", STEP)
def test_autograph_takes_every_function(name):
    """Or it warns of the function where someone's tf.function calls it, and asks for a report."""
    module = importlib.import_module(f"keras_renorm.ops.{name}")
    own = [f for f in functions_of(module) if f.__code__.co_filename == module.__file__]
    own = [f for f in own if not getattr(f, "__isabstractmethod__", False)]
    assert own
    for function in own:
        tf.autograph.to_graph(function)


@pytest.fixture
def on(monkeypatch):
    """Sets the backend and the lowering."""

    def on(backend, name):
        monkeypatch.setattr(backends, "current", lambda: backend)
        monkeypatch.setenv(lowerings.VARIABLE, name)

    return on


PLAIN = backends.Backend("fourth")


def test_every_way_to_train_is_reached(rng, on):
    alone, own = Case(rng, (5, 3)).step(), backends.current()
    several = dataclasses.replace(alone, replicas=StrategyReplicas(None))
    found = []
    for backend, name in (*((own, name) for name in NAMES), (PLAIN, "")):
        on(backend, name)
        found += [type(training.choose(step)).__name__ for step in (alone, several)]
    native = ["OneCall", "NativePasses"] if "native" in NAMES else []
    assert found == [*native, "Fused", *["PlainPasses"] * 3, *["Plain"] * 2]
    if native:
        assert set(found) == {type(way).__name__ for way in training.IMPLEMENTATIONS}


def test_every_way_to_infer_is_reached(rng, on):
    own, wide = backends.current(), tf.zeros((4, 3, 3, 5))
    vectors = tf.ones(5), tf.zeros(5)
    step = inference.InferenceStep(
        Arguments(wide, *vectors), *vectors, Settings(3, EPSILON), portable=False
    )
    found = []
    for backend, name in (*((own, name) for name in NAMES), (PLAIN, "")):
        on(backend, name)
        found.append(type(inference.choose(step)).__name__)
    native = ["Native"] if "native" in NAMES else []
    assert found == [*native, "Fused", "Plain", "Plain"]
    if native:
        assert set(found) == {type(way).__name__ for way in inference.IMPLEMENTATIONS}


def test_the_last_way_takes_every_step(rng, on):
    for backend in (backends.current(), PLAIN):
        on(backend, "composite")
        for case in (Case(rng, (5, 3)), Case(rng, (0, 3)), Case(rng, (5, 3), mask=MASK)):
            assert training.IMPLEMENTATIONS[-1].fits(case.step())
