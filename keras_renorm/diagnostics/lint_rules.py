"""The rules of `lint`, each a function from a call or a layer to findings."""

import dataclasses
from collections.abc import Iterator, Sequence

import keras
import numpy as np

from keras_renorm.diagnostics.layer_traits import (
    corrects_minibatches,
    keeps_initial_statistics,
    positions,
    update_count,
    uses_minibatch,
)
from keras_renorm.diagnostics.progress import unfinished, value
from keras_renorm.diagnostics.report import Finding
from keras_renorm.keras_internals import flattened, renormalizes
from keras_renorm.layers import BatchRenormalization, DomainBatchNormalization
from keras_renorm.models import KERNELS, Call, Value, is_batch_norm, is_linear
from keras_renorm.statistics import moving_statistics

# A standard deviation of m values has a relative error of about 1/sqrt(2m): 25 % for 8 values.
FEW_VALUES = 8

# With two values per channel the gradient is 0: it sums to 0, and so does its product with x.
FEWEST_VALUES = 3

# The largest share of the initial values that a training may leave in the moving statistics.
_REST = 0.05

# Limits up to these did little harm from the first step on: docs/default_limits.md.
_WIDE_R, _WIDE_D = 1.5, 0.5

_MOVES_AXES = (
    keras.layers.Permute,
    keras.layers.Reshape,
    keras.layers.TimeDistributed,
    keras.layers.EinsumDense,
    keras.layers.Lambda,
    # Their channels come after the time.
    keras.layers.ConvLSTM1D,
    keras.layers.ConvLSTM2D,
    keras.layers.ConvLSTM3D,
)
# Operations of `keras.ops` that keep the axes, as far as nets have them around a norm.
_KEEPS_AXES = ("Add", "Subtract", "Multiply", "Divide", "Relu", "Gelu", "Silu", "Sigmoid", "Tanh")

_WITH_BIAS = (*KERNELS, keras.layers.EinsumDense)


@dataclasses.dataclass(frozen=True)
class Batch:
    """A training step's examples: how many, over how many replicas."""

    size: int
    replicas: int


def useless_bias(call: Call, calls: Sequence[Call]) -> Finding | None:
    """The bias of the layer before a call, if all its outputs go into normalizations only.

    Args:
        call: The call of a normalization.
        calls: All calls of the model.
    """
    source = call.inputs[0].producer
    if source is None or not _has_plain_bias(source.operation):
        return None
    outputs = [other.outputs[0] for other in calls if other.operation is source.operation]
    consumers = [consumer for output in outputs for consumer in output.consumers]
    layer, name = source.operation, source.name
    if any(output.is_output for output in outputs) or not all(
        _subtracts_mean(consumer) and _same_channels(layer, consumer) for consumer in consumers
    ):
        return None
    norms = sorted({consumer.name for consumer in consumers})
    one, several = len(norms) == 1, len(norms) > 1
    # Keras's EinsumDense has a bias if it is told its axes.
    einsum = isinstance(layer, keras.layers.EinsumDense)
    remedy = "without bias_axes" if einsum else "with use_bias=False"
    centred = all(consumer.operation.center for consumer in consumers)
    offset = "Its beta is the bias." if centred else "If you want an offset, set center=True."
    return Finding(
        name,
        "useless bias",
        f"{name} has a bias, and the normalization{'s' * several} {' and '.join(norms)} directly "
        f"after it subtract{'s' * one} it again: its {layer.bias.shape[-1]} values get no "
        f"gradient. Build {name} {remedy}. {offset}",
    )


def norm_after_norm(call: Call) -> Finding | None:
    """A normalization directly after another."""
    before = call.inputs[0].producer
    if before is None or not is_batch_norm(before.operation):
        return None
    if not is_linear(getattr(before.operation, "activation", None)):
        return None
    return Finding(
        call.name,
        "norm after norm",
        f"{call.name} normalises the output of {before.name}, which is normalised already. "
        f"Remove one of the two.",
    )


def values_per_channel(call: Call, batch: Batch | None) -> int | None:
    """How many values are behind a channel's minibatch statistics in training."""
    layer = call.operation
    per_example = positions(layer, call.inputs[0].shape)
    if batch is None or per_example is None:
        return None
    examples = batch.size
    if not getattr(layer, "synchronized", False):
        # The smallest part counts, where the batch does not divide.
        examples = max(1, examples // batch.replicas)
    ghost = getattr(layer, "virtual_batch_size", None)
    if ghost is not None and ghost < examples:
        # The last ghost holds the rest.
        examples = examples % ghost or ghost
    if _has_domains(layer) and layer.batch_statistics == "domain" and _has_ids(call):
        examples = max(1, examples // layer.num_domains)
    return examples * per_example


def few_values(call: Call, batch: Batch | None) -> Finding | None:
    """Statistics of too few values to normalise with."""
    layer, values = call.operation, values_per_channel(call, batch)
    enough = FEWEST_VALUES if renormalizes(layer) else FEW_VALUES
    if values is None or values >= enough or not uses_minibatch(layer):
        return None
    problem = (
        "at which almost no gradient passes through it"
        if values < FEWEST_VALUES
        else f"and so a standard deviation with an error of {(2 * values) ** -0.5:.0%}"
    )
    return Finding(
        call.name,
        "few values",
        f"{call.name} normalises with statistics of {values} value{'s'[: values != 1]} per "
        f"channel, {problem}. {_more_values(layer, batch)}",
    )


def shared(calls: Sequence[Call]) -> Iterator[Finding]:
    """Layers that are called on several inputs."""
    # By layer, because a layer in several models has several names.
    by_layer: dict[keras.layers.Layer, list[Call]] = {}
    for call in filter(_subtracts_mean, calls):
        by_layer.setdefault(call.operation, []).append(call)
    for layer, of_layer in by_layer.items():
        if _has_domains(layer) and layer.population_statistics == "domain":
            continue  # the call's id chooses the statistics, and is unknown here
        name, inputs = of_layer[0].name, {call.inputs[0] for call in of_layer}
        if len(inputs) > 1:
            yield Finding(
                name,
                "shared norm",
                f"{name} is called on {len(inputs)} inputs: in training each is normalised by its "
                "own statistics, in inference all by the same moving ones (in Wu & Johnson's "
                "detector 34.1 AP instead of 39.1). Concatenate the inputs along the batch before "
                "it, or give each input statistics of its own with "
                "keras_renorm.layers.DomainBatchNormalization.",
            )


def settings(
    name: str, layer: keras.layers.Layer, num_steps: int | None, calls: int = 1
) -> Iterator[Finding]:
    """Faults in a layer's own arguments. A step calls it `calls` times."""
    if not uses_minibatch(layer):
        return
    yield from _domains(name, layer)
    yield from _momentum(name, layer, num_steps, calls)
    if num_steps is not None and isinstance(layer, BatchRenormalization):
        yield from unfinished(name, layer, (update_count(layer) or 0) + num_steps)


def open_limits(name: str, layer: keras.layers.Layer) -> Iterator[Finding]:
    """Wide limits while the moving statistics are the initial ones."""
    if not corrects_minibatches(layer) or not keeps_initial_statistics(layer):
        return
    count = update_count(layer) or 0
    r_max, d_max = value(layer.r_max, count), value(layer.d_max, count)
    if r_max > _WIDE_R or d_max > _WIDE_D:
        yield Finding(
            name,
            "open limits",
            f"{name} begins with r_max={r_max:.3g} and d_max={d_max:.3g} while its moving "
            "statistics are the initial 0 and 1, and its corrections lead towards them (a "
            "ResNet-20 had 10.6 % instead of 38.4 % after 300 steps). Leave r_max and d_max out: "
            "by default they follow from what the layer sees. Or write num_steps=... for the "
            "paper's ramps.",
        )


def by_frames(name: str, layer: keras.layers.Layer) -> Iterator[Finding]:
    """A norm inside of `TimeDistributed`."""
    if not isinstance(layer, keras.layers.TimeDistributed):
        return
    norms = [part for part in flattened(layer) if is_batch_norm(part) and uses_minibatch(part)]
    if norms:
        yield Finding(
            name,
            "norm by frames",
            f"{name} calls the normalization {norms[0].name} on each frame by itself: the moments "
            "are of one frame's examples, and the moving statistics are updated once for each "
            "frame. Call a norm on the whole tensor instead, for the moments of all frames: it "
            "takes any rank. Around a whole model, reshape the frames into the batch.",
        )


def wrong_axis(call: Call) -> Finding | None:
    """An `axis` other than the channels of the layer with a `data_format` before or after."""
    if call.operation.axis is None:
        return None
    rank = len(call.inputs[0].shape)
    neighbour = _with_format(call.inputs[0], rank)
    neighbour = neighbour or _with_format(call.outputs[0], rank, after=True)
    if neighbour is None:
        return None
    data_format = neighbour.operation.data_format
    channels = 1 if data_format == "channels_first" else rank - 1
    axis = int(call.operation.axis)
    if axis % rank == channels:
        return None
    return Finding(
        call.name,
        "wrong axis",
        f"{call.name} has axis={axis}, and {neighbour.name} beside it data_format={data_format!r}: "
        f"the normalization takes the {call.inputs[0].shape[axis]} positions along that axis for "
        f"channels. Write axis={1 if channels == 1 else -1}.",
    )


def broken_statistics(name: str, layer: keras.layers.Layer) -> Iterator[Finding]:
    """Population statistics that no data has: not finite, or a negative variance or deviation."""
    for statistic, variable in moving_statistics.variables(layer).items():
        values = np.ravel(keras.ops.convert_to_numpy(variable)).astype(np.float64)
        lowest = -np.inf if statistic.endswith("mean") else 0.0
        broken = values[~np.isfinite(values) | (values < lowest)]
        if broken.size:
            yield Finding(
                name,
                "broken statistics",
                f"{name} holds {broken[0]:g} in its {statistic}, in {broken.size} of "
                f"{values.size} values: no data has that, and inference may be NaN. Averaging or "
                "editing weights leaves such values. Load the weights anew, or run "
                "keras_renorm.statistics.precise.",
            )


def _domains(name: str, layer: keras.layers.Layer) -> Iterator[Finding]:
    batch = getattr(layer, "batch_statistics", None)
    population = getattr(layer, "population_statistics", None)
    if batch != population and isinstance(batch, str):
        yield Finding(
            name,
            "inconsistent domains",
            f"{name} trains with batch_statistics={batch!r} and infers with population_statistics="
            f"{population!r}: the two must be of the same kind, or inference is not what was "
            f"trained. Set population_statistics={batch!r}.",
        )


def _momentum(
    name: str, layer: keras.layers.Layer, num_steps: int | None, calls: int
) -> Iterator[Finding]:
    rest = 0.0
    if num_steps is not None and keeps_initial_statistics(layer):
        rest = layer.momentum ** (num_steps * calls)
    if layer.momentum in (0, 1):
        does = "never move" if layer.momentum == 1 else "are those of the last minibatch alone"
        problem = f"momentum={layer.momentum:g}, with which its moving statistics {does}"
    elif rest > _REST:
        problem = (
            f"momentum={layer.momentum:g}, with which the initial values 0 and 1 still make up "
            f"{rest:.0%} of its moving statistics after {num_steps} steps"
        )
    else:
        return
    yield Finding(
        name,
        "momentum",
        f"{name} has {problem}. Choose another momentum (0.99 forgets in 300 steps), or run "
        "keras_renorm.statistics.precise after training.",
    )


def _with_format(value: Value, rank: int, *, after: bool = False) -> Call | None:
    """The nearest layer with a `data_format`, past operations that keep the axes."""
    call = next(iter(value.consumers), None) if after else value.producer
    if call is None or isinstance(call.operation, _MOVES_AXES):
        return None
    is_layer = isinstance(call.operation, keras.layers.Layer)
    if not is_layer and type(call.operation).__name__ not in _KEEPS_AXES:
        return None
    if any(len(one.shape) != rank for one in (call.inputs[0], call.outputs[0])):
        return None
    if getattr(call.operation, "data_format", None) in ("channels_first", "channels_last"):
        return call
    return _with_format((call.outputs if after else call.inputs)[0], rank, after=after)


def _subtracts_mean(call: Call) -> bool:
    """Whether a call's normalization uses the minibatch's statistics in training."""
    return is_batch_norm(call.operation) and uses_minibatch(call.operation)


def _has_plain_bias(layer: keras.layers.Layer) -> bool:
    """Whether a layer adds a trainable bias last."""
    return (
        isinstance(layer, _WITH_BIAS)
        and layer.bias is not None
        and layer.trainable
        and layer.activation is keras.activations.linear
    )


def _same_channels(layer: keras.layers.Layer, call: Call) -> bool:
    """Whether the bias has one value for each of the normalization's channels."""
    rank = len(call.inputs[0].shape)
    channels = 1 if getattr(layer, "data_format", "") == "channels_first" else rank - 1
    if isinstance(layer, keras.layers.EinsumDense) and len(layer.bias.shape) != 1:
        return False
    return int(call.operation.axis) % rank == channels


def _has_domains(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, DomainBatchNormalization)


def _has_ids(call: Call) -> bool:
    """Whether a call of a layer with domains has an id per example, and not one for all."""
    # The type matters, because a mask may have that shape, too.
    return any(len(value.shape) == 1 and "int" in value.dtype for value in call.inputs[1:])


def _more_values(layer: keras.layers.Layer, batch: Batch | None) -> str:
    """Advice against too few values."""
    if getattr(layer, "virtual_batch_size", None):
        return "Choose a larger virtual_batch_size that divides the batch."
    if batch is not None and batch.replicas > 1 and not getattr(layer, "synchronized", False):
        return "Set synchronized=True, or raise the batch size."
    if renormalizes(layer):
        return "Raise the batch size."
    renorm = "DomainBatchRenormalization" if _has_domains(layer) else "BatchRenormalization"
    return (
        f"Raise the batch size, or replace it by keras_renorm.layers.{renorm} (which needs "
        f"{FEWEST_VALUES})."
    )
