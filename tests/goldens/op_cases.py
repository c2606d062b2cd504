"""The table of the functions' cases."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from goldens import references
from goldens.references import EPSILON, MOMENTUM
from keras_renorm import ops
from keras_renorm.ops import reference

SHAPE = (6, 4, 3)
VECTORS = ("moving_mean", "moving_variance", "gamma", "beta")
R_MAX, D_MAX = 1.5, 0.25


@dataclasses.dataclass(frozen=True)
class OpCase:
    """A function of tensors whose outputs, and gradients, are known.

    Attributes:
        covers: The public names that it shows.
        call: From a dictionary of tensors to one of results.
        takes: Names of the tensors beside `x`.
        expect: From a dictionary of float64 arrays to the results and, under `dx` and the like,
            their gradients, which are those of the output `y`, with `dy` upstream.
    """

    covers: tuple[str, ...]
    call: Callable[[dict[str, Any]], dict[str, Any]]
    takes: tuple[str, ...]
    expect: Callable[[dict[str, Any]], dict[str, Any]]

    def inputs(self, rng):
        """Inputs that every dtype holds exactly: eighths."""
        scale = rng.integers(1, 5, 3)
        every = {
            "x": rng.integers(-16, 17, SHAPE) * scale / 8 + rng.integers(-2, 3, 3),
            "dy": rng.integers(-16, 17, SHAPE) / 8,
            "mask": rng.random((*SHAPE[:-1], 1)) < 0.7,
            "moving_mean": rng.integers(-8, 9, 3) / 8,
            "moving_variance": rng.integers(8, 33, 3) / 8,
            "gamma": rng.integers(4, 13, 3) / 8,
            "beta": rng.integers(-8, 9, 3) / 8,
        }
        return {name: every[name] for name in ("x", "dy", *self.takes)}

    def outputs(self, inputs):
        return self.expect(inputs)


def _mask(v):
    """The mask without the axis that broadcasts, as references have it."""
    return v["mask"][..., 0] if "mask" in v else None


def _moments(t):
    mean, variance, count, remainder = ops.moments(t["x"], mask=t.get("mask"))
    return {"mean": mean + remainder, "variance": variance, "count": count}


def _moments_expected(v):
    names = "mean", "variance", "count"
    return dict(zip(names, reference.moments(v["x"], v.get("mask")), strict=True))


def _ghost_moments(t):
    mean, variance, count, remainder = ops.moments(t["x"], ghosts=True)
    return {"mean": mean + remainder, "variance": variance, "count": count}


def _ghost_moments_expected(v):
    found = [reference.moments(ghost) for ghost in v["x"]]
    return dict(
        zip(("mean", "variance", "count"), map(np.stack, zip(*found, strict=True)), strict=True)
    )


def _batch(t):
    return ops.moments(t["x"], mask=t.get("mask"))


def _correction(t):
    found = ops.renorm_correction(
        _batch(t),
        t["moving_mean"],
        t["moving_variance"],
        r_max=R_MAX,
        d_max=D_MAX,
        epsilon=EPSILON,
    )
    return found._asdict()


def _correction_expected(v):
    sigma = np.sqrt(v["moving_variance"] + EPSILON)
    mean, variance, _ = reference.moments(v["x"])
    return {
        "r": np.clip(np.sqrt(variance + EPSILON) / sigma, 1 / R_MAX, R_MAX),
        "d": np.clip((mean - v["moving_mean"]) / sigma, -D_MAX, D_MAX),
    }


def _step(v, **options):
    """Results of a training step and the state after it."""
    dy = v.get("dy", np.zeros(v["x"].shape))
    state = {"gamma": np.ones(3), "beta": np.zeros(3)} | {k: v[k] for k in VECTORS if k in v}
    return references.training_step(v["x"], dy, state, mask=_mask(v), **options)


def _moving_expected(by_stddev):
    def expect(v):
        _, state = _step(v, by_stddev=by_stddev)
        return {"mean": state["moving_mean"], "variance": state["moving_variance"]}

    return expect


def _update(by_stddev):
    def call(t):
        options = {"momentum": MOMENTUM, "epsilon": EPSILON, "by_stddev": by_stddev}
        statistics = t["moving_mean"], t["moving_variance"]
        mean, variance, _ = ops.update_moving(*statistics, _batch(t), **options)
        return {"mean": mean, "variance": variance}

    return call


def _renormalized(**options):
    def call(t):
        y, batch = ops.batch_renormalization(
            t["x"],
            *(t[name] for name in VECTORS),
            r_max=R_MAX,
            d_max=D_MAX,
            epsilon=EPSILON,
            mask=t.get("mask"),
            **options,
        )
        return {
            "y": y,
            "mean": batch.mean + batch.mean_remainder,
            "variance": batch.variance,
            "count": batch.count,
        }

    return call


def _renormalized_expected(size=None, **options):
    def expect(v):
        results, _ = _step(v, limits=(R_MAX, D_MAX), ghost_size=size, **options)
        cuts = [] if size is None else range(size, len(v["x"]), size)
        parts = [np.split(a, cuts) for a in (v["x"], np.broadcast_to(v.get("mask", True), SHAPE))]
        found = [reference.moments(x, mask) for x, mask in zip(*parts, strict=True)]
        stack = np.stack if size else lambda one: one[0]
        named = zip(
            ("mean", "variance", "count"), map(stack, zip(*found, strict=True)), strict=True
        )
        return results | dict(named)

    return expect


def _trained(t, **options):
    y, moving = ops.training_step(
        t["x"],
        *(t[name] for name in VECTORS),
        momentum=MOMENTUM,
        by_stddev=True,
        r_max=R_MAX,
        d_max=D_MAX,
        epsilon=EPSILON,
        mask=t.get("mask"),
    )
    return {"y": y} | moving._asdict()


def _trained_expected(v):
    results, state = _step(v, limits=(R_MAX, D_MAX), by_stddev=True)
    moving = {"mean": state["moving_mean"], "variance": state["moving_variance"]}
    return results | moving | {"updated": np.array(1.0)}


def _inferred(function, **options):
    def call(t):
        masks = {"mask": t["mask"]} if "mask" in t else {}
        vectors = (t[name] for name in VECTORS)
        return {"y": function(t["x"], *vectors, epsilon=EPSILON, **masks, **options)}

    return call


def _inferred_expected(*, relu=False, constants=True):
    """Gradients of `y = gamma * (x - mean) / sigma + beta`, of the statistics unless constant."""

    def expect(v):
        y = references.inference(v["x"], v)
        upstream = np.where(v.get("mask", True) & ((y > 0) | (not relu)), v["dy"], 0)
        centred = v["x"] - v["moving_mean"]
        sigma = np.sqrt(v["moving_variance"] + EPSILON)
        found = {
            "y": np.maximum(y, 0) if relu else y,
            "dx": upstream * v["gamma"] / sigma,
            "dgamma": (upstream * centred / sigma).sum((0, 1)),
            "dbeta": upstream.sum((0, 1)),
        }
        if not constants:
            found["dmoving_mean"] = -found["dx"].sum((0, 1))
            found["dmoving_variance"] = -(found["dx"] * centred).sum((0, 1)) / (2 * sigma**2)
        return found

    return expect


_MOVING = ("moving_mean", "moving_variance")
CASES = {
    "moments": OpCase(("moments", "Moments"), _moments, (), _moments_expected),
    "moments-mask": OpCase(("moments",), _moments, ("mask",), _moments_expected),
    "moments-ghosts": OpCase(("moments",), _ghost_moments, (), _ghost_moments_expected),
    "renorm_correction": OpCase(
        ("renorm_correction", "Correction"), _correction, _MOVING, _correction_expected
    ),
    "has_update": OpCase(
        ("has_update",),
        lambda t: {"updated": ops.has_update(_batch(t))},
        ("mask",),
        lambda v: {"updated": np.ones(3)},
    ),
    "update_moving": OpCase(
        ("update_moving", "Moving"),
        _update(by_stddev=False),
        _MOVING,
        _moving_expected(False),
    ),
    "update_moving-stddev": OpCase(
        ("update_moving",),
        _update(by_stddev=True),
        ("mask", *_MOVING),
        _moving_expected(True),
    ),
    "batch_renormalization": OpCase(
        ("batch_renormalization",), _renormalized(), VECTORS, _renormalized_expected()
    ),
    "batch_renormalization-mask-relu": OpCase(
        ("batch_renormalization",),
        _renormalized(relu=True),
        ("mask", *VECTORS),
        _renormalized_expected(relu=True),
    ),
    "batch_renormalization-ghosts": OpCase(
        ("batch_renormalization",),
        _renormalized(virtual_batch_size=4),
        VECTORS,
        _renormalized_expected(size=4),
    ),
    "training_step": OpCase(("training_step",), _trained, VECTORS, _trained_expected),
    "training_step-mask": OpCase(
        ("training_step",), _trained, ("mask", *VECTORS), _trained_expected
    ),
    "normalize": OpCase(
        ("normalize",), _inferred(ops.normalize), VECTORS, _inferred_expected(constants=False)
    ),
    "inference_step": OpCase(
        ("inference_step",), _inferred(ops.inference_step), VECTORS, _inferred_expected()
    ),
    "inference_step-mask-relu": OpCase(
        ("inference_step",),
        _inferred(ops.inference_step, relu=True, portable=False),
        ("mask", *VECTORS),
        _inferred_expected(relu=True),
    ),
}
