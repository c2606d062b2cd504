"""Which layer a batch norm can be folded into."""

from collections.abc import Callable

import keras

from keras_renorm.convert.affine import folded_weights, largest
from keras_renorm.keras_internals import may_mistake_width
from keras_renorm.models import KERNELS, Graph, Use, is_linear
from keras_renorm.typing import Layer

# These layers return their inputs in inference.
_IDENTITIES = (
    keras.layers.ActivityRegularization,
    keras.layers.AlphaDropout,
    keras.layers.Dropout,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    keras.layers.Identity,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.SpatialDropout3D,
)

_LARGEST_FLOAT16 = 65504


def find_target(graph: Graph, use: Use, count: Callable[[int], int]) -> tuple[Layer | None, str]:
    """The layer that a norm can be folded into, or None and the reason.

    Args:
        graph: The graph in which the norm is called.
        use: The norm's call.
        count: Gives how often the whole model calls a layer, from the layer's id.
    """
    layer, reason = _before(graph, use)
    if layer is not None:
        reason = _obstacle(layer, use.operation, count)
    return (None, reason) if reason else (layer, "")


def _before(graph: Graph, use: Use) -> tuple[Layer | None, str]:
    """The layer with a kernel whose output goes to this norm alone, or None and the reason."""
    while True:
        made_by = graph.maker(use.inputs[0])
        if made_by is None:
            return None, "follows the input"
        kind = type(made_by.operation)
        if kind not in KERNELS and (kind not in _IDENTITIES or made_by.training):
            return None, f"follows {kind.__name__}"
        if graph.readers(use.inputs[0]) > 1:
            return None, f"the output of {made_by.operation.name} is also used elsewhere"
        if kind in KERNELS:
            return made_by.operation, ""
        use = made_by


def _obstacle(layer: Layer, norm: Layer, count: Callable[[int], int]) -> str:
    """Why a norm cannot be folded into the layer before it; empty if it can."""
    if count(id(layer)) > 1 or count(id(norm)) > 1:
        return "a shared layer"
    if not is_linear(layer.activation):
        return f"{layer.name} has an activation"
    if getattr(layer, "lora_enabled", False) or layer.quantization_mode is not None:
        return f"{layer.name} is quantized or has LoRA weights"
    if layer.compute_dtype != norm.compute_dtype:
        return f"{layer.name} computes in {layer.compute_dtype}"
    rank = norm.input_spec.ndim
    first = getattr(layer, "data_format", None) == "channels_first"
    if norm.axis % rank != (1 if first else rank - 1):
        return f"axis {norm.axis} is not that of {layer.name}'s channels"
    if first and may_mistake_width(layer):
        return f"Keras may add the bias of {layer.name} to the wrong axis"
    # An overflow would be NaN after the sum.
    is_half = norm.compute_dtype == "float16"
    if is_half and largest(folded_weights(layer, norm)) > _LARGEST_FLOAT16:
        return "the kernel would overflow float16"
    return ""
