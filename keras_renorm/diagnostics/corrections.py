"""The corrections of one call of a normalization layer, and the drift of its statistics."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from keras_renorm import schedules
from keras_renorm.diagnostics.forward_pass import forward
from keras_renorm.diagnostics.layer_traits import kind, update_count
from keras_renorm.diagnostics.minibatches import Minibatch, moving_copies, observe
from keras_renorm.layers import BatchNormalization, BatchRenormalization
from keras_renorm.models import LayerCall
from keras_renorm.statistics import trained_with
from keras_renorm.typing import Tensor

_INF = float("inf")

# What is cut off from r and d must be more for a channel to count as clipped: minibatches with the
# moments of the moving statistics deviate from them by some 1e-7, and shut limits clip all that.
_ROUNDING = 1e-5


@dataclasses.dataclass(frozen=True)
class Spread:
    """How a quantity is spread over the channels: minimum, percentiles, maximum."""

    minimum: float
    p10: float
    median: float
    p90: float
    maximum: float


@dataclasses.dataclass(frozen=True)
class LayerCorrections:
    """One call of a normalization layer on a minibatch.

    Attributes:
        layer: Name of the layer, with the call's number if there are several.
        kind: "BRN", "BN", "Keras BN" or "Keras renorm".
        values: Values per channel in the minibatch.
        updates: The layer's update counter, or its domain's; None for a layer without one.
        r_max: Limit of r; for a "BN" the paper's final 3. None for Keras's layers.
        d_max: Limit of d; for a "BN" the paper's final 5. None for Keras's layers.
        r: The correction r, clipped. None for Keras's layers.
        d: The correction d, clipped. None for Keras's layers.
        r_clipped: Share of the channels in which r is clipped.
        d_clipped: Share of the channels in which d is clipped.
        mean_drift: (mu_B - mu) / sigma.
        scale_drift: sigma_B / sigma.
        typical_drift: The median over the channels of |mean_drift|.
    """

    layer: str
    kind: str
    values: int
    updates: int | None
    r_max: float | None
    d_max: float | None
    r: Spread | None
    d: Spread | None
    r_clipped: float | None
    d_clipped: float | None
    mean_drift: Spread
    scale_drift: Spread
    typical_drift: float


def watch(model: keras.Model, x: Any, names: dict[Any, str]) -> dict[Any, list[LayerCorrections]]:
    """The corrections of layers for a batch of a model's inputs.

    Args:
        model: The model.
        x: A batch of its inputs.
        names: The normalization layers with their names.

    Returns:
        For each layer that is called, in the order of the calls, a row for each call and domain.

    Raises:
        ValueError: If the model is not built.
    """
    moving: dict[Any, tuple[Tensor, Tensor]] = {}
    minibatches: dict[Any, list[Minibatch]] = {}

    def around(call: LayerCall) -> Any:
        layer = call.layer
        if layer not in moving:
            # Read now, before the first call here. The layer is built by now, even if this is its
            # very first call.
            moving[layer] = moving_copies(layer)
        number = len({one.call for one in minibatches.setdefault(layer, [])}) + 1
        output = call.run()  # first, for its own messages about bad arguments
        minibatches[layer] += observe(layer, number, moving[layer], *call.args, **call.kwargs)
        return output

    forward(model, x, dict.fromkeys(names, around), training=True, random=True)
    return {
        layer: [_row(layer, names[layer], one, of_layer) for one in of_layer]
        for layer, of_layer in minibatches.items()
    }


def _row(
    layer: Any, name: str, minibatch: Minibatch, others: Sequence[Minibatch]
) -> LayerCorrections:
    limits = _limits(layer, minibatch.domain)
    details = [] if len({one.call for one in others}) == 1 else [f"call {minibatch.call}"]
    details += [] if minibatch.domain is None else [f"domain {minibatch.domain}"]
    drift = minibatch.correction(layer, _INF, _INF)
    limited: dict[str, Any] = dict.fromkeys(("r_max", "d_max", "r", "d", "r_clipped", "d_clipped"))
    if limits is not None:
        r, d = minibatch.correction(layer, *limits)
        limited = {"r_max": limits[0], "d_max": limits[1], "r": _spread(r), "d": _spread(d)}
        limited |= {"r_clipped": _share(r, drift.r), "d_clipped": _share(d, drift.d)}
    return LayerCorrections(
        layer=f"{name} ({', '.join(details)})" if details else name,
        kind=kind(layer),
        values=int(np.max(keras.ops.convert_to_numpy(minibatch.moments.count))),
        updates=update_count(layer, minibatch.domain),
        mean_drift=_spread(drift.d),
        scale_drift=_spread(drift.r),
        typical_drift=float(np.median(np.abs(drift.d))),
        **limited,
    )


def _share(clipped: npt.NDArray[np.float64], drift: npt.NDArray[np.float64]) -> float:
    """The share of the channels whose correction is not their drift."""
    return float(np.mean(~np.isclose(clipped, drift, rtol=0.0, atol=_ROUNDING)))


def _limits(layer: Any, domain: int | None) -> tuple[float, float] | None:
    """r_max and d_max: the layer's own; the paper's last for our batch norm; None for Keras's."""
    if isinstance(layer, BatchRenormalization):
        return trained_with.limits(layer, domain or 0)
    if isinstance(layer, BatchNormalization):
        return schedules.PAPER_R_MAX.end_value, schedules.PAPER_D_MAX.end_value
    return None


def _spread(vector: npt.NDArray[np.float64]) -> Spread:
    return Spread(*map(float, np.percentile(vector, (0, 10, 50, 90, 100))))
