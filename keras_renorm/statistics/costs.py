"""What a sweep of examples through a model costs, from one batch of them."""

import math
import re
from typing import Any, NamedTuple

import keras

from keras_renorm import models
from keras_renorm.keras_internals import flattened
from keras_renorm.ops import backends
from keras_renorm.statistics.batches import Batch

# A compiled model holds about so many copies of its largest activation. A ResNet-20 on 1,500 images
# held 4.8 under TensorFlow and 7 under JAX, compiling included. PyTorch holds all activations.
_COPIES = 6


class Cost(NamedTuple):
    """What a model needs in inference.

    Attributes:
        norms: How many of the batch norms the model calls.
        example_bytes: Memory of one example's activations.
        joins: Whether one batch of all examples gives every batch norm the moments of its inputs.
            That holds if no batch norm is called several times, and no layer is stateful.
    """

    norms: int
    example_bytes: float
    joins: bool


def measured(model: Any, layers: list[Any], batch: Batch) -> Cost:
    """Measures the cost of a model with these batch norms by a forward pass of a batch.

    The pass runs operation by operation and leaves the model unchanged.
    """
    x, size = batch
    calls: list[Any] = []
    sizes = [0]

    def around(call: models.LayerCall) -> Any:
        outputs = call.run()
        calls.append(call.layer)
        sizes.append(sum(map(_bytes, keras.tree.flatten(outputs))))
        return outputs

    parts, backend = flattened(model), backends.current()
    with models.watched(dict.fromkeys(parts, around)), models.unchanged(model):
        model(x, training=False)
    counts = [sum(layer is called for called in calls) for layer in layers]
    eager = not backend.compiles or bool(getattr(model, "run_eagerly", False))
    # Keras's functional models hold the outputs of all their layers until the call ends.
    held = sum(sizes) if eager else _COPIES * max(sizes)
    stateful = any(getattr(part, "stateful", False) for part in parts)
    return Cost(sum(map(bool, counts)), held / size, max(counts) < 2 and not stateful)


def _bytes(value: Any) -> int:
    """Memory of a tensor; 0 where a size is unknown, as in a function of its own, or of a None."""
    if not hasattr(value, "dtype"):
        return 0
    ragged = backends.current().ragged(value)
    value = value if ragged is None else ragged.values
    shape = tuple(value.shape)
    if not all(isinstance(length, int) for length in shape):
        return 0
    bits = re.search(r"\d+", keras.backend.standardize_dtype(value.dtype))
    return math.prod(shape) * (int(bits[0]) // 8 if bits else 1)
