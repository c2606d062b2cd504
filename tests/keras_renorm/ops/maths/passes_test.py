import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("float64 and unknown sizes under TensorFlow", allow_module_level=True)

import tensorflow as tf

from keras_renorm.ops.maths import passes as composite
from keras_renorm.ops.maths.operands import Affine, Line, Settings

# Half a unit in the last place of what is rounded to the type, with room for the sums.
ROUNDING = {"float16": 1e-3, "bfloat16": 8e-3, "float32": 1e-6, "float64": 1e-14}
AXES = [(1, False), (2, False), (0, False), (1, True), (2, True)]  # axis, and if there are ghosts
every_axis = pytest.mark.parametrize(("axis", "ghosts"), AXES)


def per_channel(x, axis, ghosts):
    """The shape of a vector of one entry per channel, and that in which it broadcasts to `x`."""
    kept = (0, axis) if ghosts else (axis,)
    return [x.shape[i] for i in kept], [n if i in kept else 1 for i, n in enumerate(x.shape)]


class Case:
    """Operands, and what the docstrings say of them, in float64."""

    def __init__(self, rng, axis, ghosts, dtype="float32", mask=None, shape=(4, 5, 6)):
        self.dtype, wide = dtype, "float64" if dtype == "float64" else "float32"
        x, dy = (tf.cast(a, dtype) for a in rng.normal(1.0, 2.0, (2, *shape)))
        own, spread = per_channel(x, axis, ghosts)
        names = ("mean", "scale", "offset", "bias", "slope")
        vectors = {name: rng.normal(size=own).astype(wide) for name in names}
        vectors["mean_remainder"] = (0.01 * rng.normal(size=own)).astype(wide)
        self.x, self.dy, self.vectors, self.mask = x, dy, vectors, mask
        self.axes = tuple(i for i, n in enumerate(spread) if n == 1 and shape[i] != 1)
        self.spread = {k: np.float64(v).reshape(spread) for k, v in vectors.items()}
        self.axis = axis

    def call(self, function, *names, relu=False, poison=False):
        x, dy = self.x, self.dy
        if poison:
            x, dy = (tf.where(self.mask, a, tf.cast(np.nan, a.dtype)) for a in (x, dy))
        affine, line = (
            form(*(self.vectors[name] for name in form._fields)) for form in (Affine, Line)
        )
        operands = {"x": x, "dy": dy, "mask": self.mask, "affine": affine, "line": line}
        return function(*(operands[name] for name in names), Settings(self.axis, relu=relu))

    @property
    def centred(self):
        x = tf.cast(self.x, "float64").numpy()
        return x - self.spread["mean"] - self.spread["mean_remainder"]

    @property
    def affine(self):
        return self.centred * self.spread["scale"] + self.spread["offset"]

    @property
    def received(self):
        dy = tf.cast(self.dy, "float64").numpy()
        return dy if self.mask is None else np.where(self.mask, dy, 0)


def masks(rng):
    return {"none": None, "rows": rng.random((4, 1, 1)) > 0.3, "all": rng.random((4, 5, 6)) > 0.3}


def check(actual, expected, dtype="float32"):
    actual = tf.cast(actual, "float64").numpy()
    assert actual.shape == np.shape(expected)
    tolerance = ROUNDING[dtype] * max(1.0, np.abs(expected).max(initial=0))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)


NORMALIZE = ("x", "affine")
SUMS = ("dy", *NORMALIZE, "mask")
GRADIENT = ("dy", *NORMALIZE, "line", "mask")


@every_axis
@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("relu", [False, True])
def test_normalize(rng, axis, ghosts, dtype, relu):
    case = Case(rng, axis, ghosts, dtype)
    y = case.call(composite.normalize, *NORMALIZE, relu=relu)
    assert y.dtype == dtype
    check(y, np.maximum(case.affine, 0) if relu else case.affine, dtype)


def test_no_remainder_is_a_remainder_of_0(rng):
    case = Case(rng, 2, False)
    case.vectors["mean_remainder"], case.spread["mean_remainder"] = None, 0.0
    check(case.call(composite.normalize, *NORMALIZE), case.affine)


def test_the_remainder_makes_the_output_exact_at_a_large_mean(rng):
    x = (rng.normal(size=(64, 3)) + 1e6).astype("f4")
    exact = np.float64(x).mean(0)
    mean = exact.astype("f4")
    one, zero = np.ones(3, "f4"), np.zeros(3, "f4")
    affine = Affine(mean, (exact - mean).astype("f4"), one, zero)
    y = composite.normalize(x, affine, Settings(axis=1))
    np.testing.assert_allclose(y, x - exact, rtol=0, atol=1e-6)


@every_axis
@pytest.mark.parametrize("mask", ["none", "rows", "all"])
@pytest.mark.parametrize("dtype", ROUNDING)
def test_gradients_and_nothing_of_masked_positions(rng, axis, ghosts, mask, dtype):
    case = Case(rng, axis, ghosts, dtype, masks(rng)[mask])
    poison, dy = case.mask is not None, case.received
    wide = "float64" if dtype == "float64" else "float32"
    sums = case.call(composite.gradient_sums, *SUMS, poison=poison)
    for actual, terms in zip(sums, (dy, dy * case.centred), strict=True):
        assert actual.dtype == wide
        check(actual, terms.sum(case.axes), wide)
    dx = case.call(composite.input_gradient, *GRADIENT, poison=poison)
    assert dx.dtype == dtype
    exact = case.spread["scale"] * dy - case.spread["bias"] - case.centred * case.spread["slope"]
    check(dx, exact if case.mask is None else np.where(case.mask, exact, 0), dtype)


@pytest.mark.parametrize("rows", [0, 1])
@pytest.mark.parametrize("channels", [1, 3])
def test_batches_without_rows_and_of_one(rng, rows, channels):
    case = Case(rng, 1, False, shape=(rows, channels))
    signature = [tf.TensorSpec([None, channels])] * 2

    @tf.function(input_signature=signature)
    def traced(x, dy):
        case.x, case.dy = x, dy
        return (
            case.call(composite.normalize, *NORMALIZE),
            case.call(composite.gradient_sums, *SUMS),
            case.call(composite.input_gradient, *GRADIENT),
        )

    x, dy = case.x, case.dy
    y, sums, dx = traced(x, dy)
    case.x, case.dy = x, dy
    check(y, case.affine)
    for actual, terms in zip(sums, (dy, dy * case.centred), strict=True):
        check(actual, np.sum(terms, 0))
    check(dx, case.spread["scale"] * dy - case.spread["bias"] - case.centred * case.spread["slope"])
