"""The table of the layers' cases."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from goldens import references
from goldens.references import EPSILON, MOMENTUM
from keras_renorm import layers, schedules

SHAPE = (6, 4, 3)
STEPS = 2
DOMAINS = np.array([0, 1, 1, 0, 0, 0])  # by example; a third domain is absent
SETTINGS = {"epsilon": EPSILON, "momentum": MOMENTUM}
FIXED = (1.5, 0.25)
RAMPS = {
    "r_max": schedules.LinearRamp(1.0, 3.0, 0, 2),
    "d_max": schedules.LinearRamp(0.0, 1.0, 0, 2),
}


@dataclasses.dataclass(frozen=True)
class LayerCase:
    """A layer with fixed arguments, of which two training steps and an inference are known.

    Attributes:
        layer: Its public class.
        options: Its arguments.
        limits: `(r_max, d_max)` of each step.
        relu: Whether the output is the positive part.
        mask: Whether the calls have a mask.
        domain: Ids of the examples' domains, or one id.
        ghost_size: Examples of a ghost batch.
        replicas: "synchronized": two replicas together are as one; "own": they are so but for the
            moving statistics; None where they cannot be.
    """

    layer: Callable[..., Any]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    limits: tuple[Any, ...] = ((1.0, 0.0),) * STEPS
    relu: bool = False
    mask: bool = False
    domain: Any = None
    ghost_size: int | None = None
    replicas: str | None = "synchronized"
    trains: ClassVar[bool] = True

    @property
    def by_stddev(self):
        return issubclass(self.layer, layers.BatchRenormalization)

    @property
    def axis(self):
        return self.options.get("axis", -1)

    @property
    def shape(self):
        """Of the inputs, as the layer takes them."""
        return np.moveaxis(np.empty(SHAPE), -1, self.axis).shape

    def make(self, **kwargs):
        """A layer that has its weights, those of `inputs`."""
        layer = self.layer(**self.options, **kwargs)
        layer.build((None, *self.shape[1:]))
        return layer

    def inputs(self, rng):
        """Inputs and weights that every dtype holds exactly: eighths."""
        rows = (3,) if "num_domains" in self.options else ()
        found = {}
        for step in range(STEPS):
            scale = rng.integers(1, 5, 3)
            found[f"x{step}"] = rng.integers(-16, 17, SHAPE) * scale / 8 + rng.integers(-2, 3, 3)
            found[f"dy{step}"] = rng.integers(-16, 17, SHAPE) / 8
            if self.mask:
                found[f"mask{step}"] = rng.random(SHAPE[:-1]) < 0.7
        return found | {
            "gamma": rng.integers(4, 13, 3) / 8,
            "beta": rng.integers(-8, 9, 3) / 8,
            "moving_mean": rng.integers(-8, 9, (*rows, 3)) / 8,
            "moving_variance": rng.integers(8, 33, (*rows, 3)) / 8,
        }

    def outputs(self, inputs):
        """What the layer must compute, in float64."""
        found = {}
        state = {k: inputs[k] for k in ("gamma", "beta", "moving_mean", "moving_variance")}
        for step in range(STEPS):
            results, state = references.training_step(
                inputs[f"x{step}"],
                inputs[f"dy{step}"],
                state,
                limits=self.limits[step],
                by_stddev=self.by_stddev,
                mask=inputs.get(f"mask{step}"),
                relu=self.relu,
                ghost_size=self.ghost_size,
                domain=self.domain,
            )
            found |= {f"{name}{step}": result for name, result in results.items()}
        found["inference"] = references.inference(
            inputs["x0"], state, relu=self.relu, domain=self.domain
        )
        return found | {name: state[name] for name in ("moving_mean", "moving_variance")}

    def weights(self, inputs):
        """The layer's weights before the first step."""
        names = "gamma", "beta", "moving_mean", "moving_variance"
        return {name: inputs[name] for name in names}


class SkipInitCase(LayerCase):
    """y = alpha * x."""

    trains = False  # its call takes no `training`

    def inputs(self, rng):
        found = super().inputs(rng)
        return {name: found[name] for name in found if name[-1].isdigit()} | {
            "alpha": np.array(0.75)
        }

    def outputs(self, inputs):
        alpha = inputs["alpha"]
        found = {"inference": alpha * inputs["x0"]}
        for step in range(STEPS):
            x, dy = inputs[f"x{step}"], inputs[f"dy{step}"]
            found |= {f"y{step}": alpha * x, f"dx{step}": alpha * dy}
            found[f"dalpha{step}"] = np.sum(x * dy)
        return found

    def weights(self, inputs):
        return {"alpha": inputs["alpha"]}


_BN, _BRN = layers.BatchNormalization, layers.BatchRenormalization
_DBN, _DBRN = layers.DomainBatchNormalization, layers.DomainBatchRenormalization
_LIMITS = {"r_max": FIXED[0], "d_max": FIXED[1]}
_THREE = SETTINGS | {"num_domains": 3}
_RAMPED = ((1.0, 0.0), (2.0, 0.5))
# The schedules of a domain count its own updates: the third has none.
_RAMPED_BY_DOMAIN = ([(1.0, 0.0)] * 3, [(2.0, 0.5), (2.0, 0.5), (1.0, 0.0)])

CASES = {
    "BatchNormalization": LayerCase(_BN, SETTINGS),
    "BatchNormalization-mask": LayerCase(_BN, SETTINGS, mask=True),
    "BatchNormalization-relu-axis1": LayerCase(
        _BN, SETTINGS | {"activation": "relu", "axis": 1}, relu=True
    ),
    "BatchNormalization-ghosts": LayerCase(
        _BN, SETTINGS | {"virtual_batch_size": 4}, ghost_size=4, replicas=None
    ),
    "BatchRenormalization": LayerCase(_BRN, SETTINGS | _LIMITS, limits=(FIXED,) * STEPS),
    "BatchRenormalization-mask-schedule": LayerCase(
        _BRN, SETTINGS | RAMPS, limits=_RAMPED, mask=True
    ),
    "BatchRenormalization-unlimited-relu": LayerCase(
        _BRN,
        SETTINGS | {"renorm_clipping": {}, "activation": "relu"},
        limits=((np.inf, np.inf),) * STEPS,
        relu=True,
    ),
    "BatchRenormalization-ghosts": LayerCase(
        _BRN,
        SETTINGS | _LIMITS | {"virtual_batch_size": 4},
        limits=(FIXED,) * STEPS,
        ghost_size=4,
        replicas=None,
    ),
    "DomainBatchNormalization": LayerCase(_DBN, _THREE, domain=DOMAINS),
    "DomainBatchNormalization-one-id-mask": LayerCase(_DBN, _THREE, domain=2, mask=True),
    "DomainBatchRenormalization": LayerCase(
        _DBRN, _THREE | _LIMITS, limits=(FIXED,) * STEPS, domain=DOMAINS
    ),
    "DomainBatchRenormalization-mask-schedule": LayerCase(
        _DBRN, _THREE | RAMPS, limits=_RAMPED_BY_DOMAIN, domain=DOMAINS, mask=True
    ),
    "SkipInit": SkipInitCase(layers.SkipInit, {"initial_value": 0.75}, replicas="own"),
}
