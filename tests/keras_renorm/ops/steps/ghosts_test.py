import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("unknown batch sizes under TensorFlow", allow_module_level=True)

import tensorflow as tf

from keras_renorm.ops.maths.operands import Arguments, Constants, Settings
from keras_renorm.ops.steps.ghosts import in_ghosts
from keras_renorm.ops.steps.plain import Plain
from keras_renorm.ops.steps.step import Step

EPSILON = 1e-3
LIMITS = 1.5, 0.5
MOMENTS = ("mean", "variance", "count")


class Case:
    """Rows of `[4, C]` or `[C, 4]`, and the step that `in_ghosts` is called with."""

    def __init__(self, rng, rows, size, axis=2, mask=None):
        shape = [rows, 4, 4]
        shape[axis] = 3
        self.x = rng.normal(1.0, 2.0, shape).astype("f4")
        self.vectors = [rng.uniform(0.5, 2.0, 3).astype("f4") for _ in range(4)]
        if mask is not None:
            shape = [rows if mask == "rows" else 1, *self.x.shape[1:]]
            mask = rng.random(shape) > 0.3
            self.x = np.where(mask, self.x, np.nan).astype("f4")
        self.mask, self.size, self.axis = mask, size, axis
        self.calls = []

    def run(self, x, mask):
        gamma, beta, *moving = self.vectors
        settings = Settings(self.axis, EPSILON, ghost_size=self.size)
        step = Step(Arguments(x, gamma, beta), Constants(*moving, *LIMITS, mask), settings)

        def train(step):
            self.calls.append((tuple(step.arguments.x.shape), step))
            return Plain().train(step)

        trained = in_ghosts(train, step)
        return trained.y, trained.moments()

    def check(self, found, float64):
        y, batch = found
        masked = None if self.mask is None else np.broadcast_to(self.mask, self.x.shape)
        desired = float64(
            *(self.x, self.x, self.vectors, LIMITS),
            axis=self.axis,
            epsilon=EPSILON,
            weights=masked,
            ghost_size=self.size,
        )
        valid = True if masked is None else masked
        np.testing.assert_allclose(
            np.where(valid, y, 0), np.where(valid, desired["y"], 0), rtol=0, atol=2e-5
        )
        for name in MOMENTS:
            actual = np.asarray(getattr(batch, name))
            assert actual.shape == (-(-len(self.x) // self.size), 3)
            np.testing.assert_allclose(actual, desired[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mask", [None, "rows", "one row for all"])
@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize(("rows", "size"), [(8, 4), (8, 3), (8, 8), (3, 8), (1, 1), (5, 1)])
def test_each_ghost_is_a_minibatch(rng, float64, rows, size, axis, mask):
    case = Case(rng, rows, size, axis, mask)
    case.check(case.run(case.x, case.mask), float64)


@pytest.mark.parametrize("mask", [None, "rows", "one row for all"])
@pytest.mark.parametrize("size", [1, 3, 4])
def test_batches_of_unknown_size(rng, float64, size, mask):
    cases = [Case(rng, rows, size, mask=mask) for rows in (1, 2, 3, 4, 7, 8)]
    specs = [tf.TensorSpec([None, 4, 3])]
    if mask is not None:
        specs.append(tf.TensorSpec([None if mask == "rows" else 1, 4, 3], tf.bool))
    traced = []

    @tf.function(input_signature=specs, autograph=False)
    def run(x, mask=None):
        traced.append(x.shape)
        return case.run(x, mask)

    for case in cases:
        case.vectors = cases[0].vectors
        case.check(run(case.x) if mask is None else run(case.x, case.mask), float64)
    assert len(traced) == 1


@pytest.mark.parametrize("known", [True, False])
def test_a_batch_without_rows_has_no_ghosts(rng, known):
    case = Case(rng, 0, 3)
    spec = tf.TensorSpec(case.x.shape if known else [None, 4, 3])
    run = tf.function(lambda x: case.run(x, None), input_signature=[spec], autograph=False)
    y, batch = run(case.x)
    assert y.shape == (0, 4, 3)
    for value in batch:
        assert value.shape == (0, 3)


@pytest.mark.parametrize(
    ("rows", "size", "folded", "rest"),
    [
        (8, 4, (2, 4, 4, 3), None),
        (8, 3, (2, 3, 4, 3), (2, 4, 3)),
        (3, 8, None, (3, 4, 3)),
        (0, 2, None, (0, 4, 3)),
    ],
)
def test_all_full_ghosts_at_once_and_then_the_rest(rng, rows, size, folded, rest):
    case = Case(rng, rows, size, mask="rows")
    case.run(case.x, case.mask)
    assert [shape for shape, _ in case.calls] == [s for s in (folded, rest) if s is not None]
    for shape, step in case.calls:
        settings = step.settings
        assert settings.ghost_size is None
        assert (settings.ghosts, settings.axis) == ((True, 3) if shape == folded else (False, 2))
        assert step.constants.mask.shape == shape
