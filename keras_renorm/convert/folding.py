"""Models for inference, with batch norms folded into the layers before them."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import keras
import numpy as np
from numpy.typing import NDArray

from keras_renorm.convert.cloning import (
    Rewrite,
    config_of,
    is_graph,
    is_keras_method,
    layer_activation,
    rewritten,
)
from keras_renorm.convert.report import Change, Report, Reporter, check_reporter, deliver
from keras_renorm.convert.rules import (
    activation_after,
    as_keras,
    hand_over_norm,
    is_batch_norm,
    is_linear,
    normalizations,
)
from keras_renorm.layers import DomainBatchNormalization

Layer: TypeAlias = keras.layers.Layer
Array = NDArray[np.float64]

# Where the kernel of each layer has the output channels, and how many weights come before it.
# A depthwise kernel ends in (channels, multiplier), which together are the output channels.
_KERNELS: dict[type, tuple[int, tuple[int, ...]]] = {
    keras.layers.Dense: (0, (-1,)),
    keras.layers.Conv1D: (0, (-1,)),
    keras.layers.Conv2D: (0, (-1,)),
    keras.layers.Conv3D: (0, (-1,)),
    keras.layers.Conv1DTranspose: (0, (-2,)),
    keras.layers.Conv2DTranspose: (0, (-2,)),
    keras.layers.Conv3DTranspose: (0, (-2,)),
    keras.layers.DepthwiseConv1D: (0, (-2, -1)),
    keras.layers.DepthwiseConv2D: (0, (-2, -1)),
    keras.layers.SeparableConv1D: (1, (-1,)),
    keras.layers.SeparableConv2D: (1, (-1,)),
}

# They return their inputs in inference.
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

# x * scale + offset has an error of about 6e-8 * |mean| * |scale|, where our layers, which take the
# mean away first, have none: above this a channel would miss the promised 1e-5.
_LARGE_MEAN = 64.0


def fold(model: keras.Model, *, report: Reporter | None = None) -> keras.Model:
    """A copy of `model` for inference, without batch norms where a layer can do their work.

    ```
    kernel' = kernel * scale,  bias' = beta + (bias - moving_mean) * scale
    scale = gamma / sqrt(moving_variance + epsilon)
    ```

    A batch norm, Keras's or ours, is folded into the convolution (plain, depthwise, separable or
    transposed) or dense layer before it, if nothing else uses that layer or its output, it has no
    activation, and the axis is that of its channels. Dropout may stand between. That layer then
    has a bias, and the norm's `activation`, and no regularizers and constraints. Every other batch
    norm becomes a `keras.layers.BatchNormalization` with `trainable=False`: one multiplication
    and one addition, about as fast as a layer made for it (measured), and loadable anywhere. An
    activation of it becomes the layer `NAME_activation`, with a number if that name is taken. An
    activation that is a layer itself, such as `PReLU`, stands in the place of a norm that is
    folded, and after any other, with its weights and its name, numbered likewise.

    The folding itself is done in float64. Each layer agrees with inference by `model` to 1e-5, for
    outputs of order 1 in float32; under half-precision policies, to their rounding. A deep network
    agrees as closely as its own rounding lets it, and is no further from float64 than it was:
    Inception-v3 with random weights 2.4e-4, and 2.1e-4 before (measured). A norm of ours whose
    moving mean is beyond 64 deviations stays as it is, for the sum would lose digits.

    Args:
        model: A Sequential, functional or subclassed model with weights, which may hold other such
            models. In classes with a `call` of your own nothing is folded: what `get_config`
            holds becomes one affine. The model stays as it is; its `compile` is not copied.
        report: What to call with the `Report` of what was folded, e.g. `print`.

    Returns:
        The new model. If no layer of this package was kept, it loads where that is not installed.

    Raises:
        TypeError: As in `to_batch_renormalization`.
        ValueError: If the model has no weights yet, or as in `to_batch_renormalization`.

    Example:
        >>> served = keras_renorm.convert.fold(model, report=print)
        >>> served.save("served.keras")

    Source: Ioffe & Szegedy 2015, Algorithm 2, line 11.
    """
    check_reporter(report)
    if isinstance(model, keras.Model) and not model.built:
        raise ValueError(
            f"The model {model.name!r} has no weights yet, so there is nothing to fold. Build or "
            "train it first, e.g. `model.build(input_shape)`."
        )
    rewrite = _Folding(model)
    new_model = rewritten(model, rewrite)
    deliver(rewrite.report(model), report, failed=frozenset())
    return new_model


class _Use(NamedTuple):
    """One call of a layer in a graph, with tensors by their ids."""

    layer: Any
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    training: bool | None  # whether for training; None if that is left to the model's own call


class _Graph(NamedTuple):
    """The calls in a Sequential or functional model."""

    uses: list[_Use]
    results: set[int]

    def maker(self, tensor: int) -> _Use | None:
        """The call whose output a tensor is; None for an input of the model."""
        return next((use for use in self.uses if tensor in use.outputs), None)

    def readers(self, tensor: int) -> int:
        """How many calls read a tensor, and whether it is an output of the model."""
        return sum(use.inputs.count(tensor) for use in self.uses) + (tensor in self.results)


class _Folding(Rewrite):
    """Decides for each batch norm what becomes of it."""

    def __init__(self, model: keras.Model) -> None:
        self._norms: dict[int, Layer] = {}  # folded norms, by the layers that take them
        self._targets: dict[int, Layer] = {}  # those layers, by their norms
        self._reasons: dict[int, str] = {}  # why others are not folded
        self._kept: set[int] = set()
        self._asked: set[int] = set()  # of those, the norms that are called with `training`
        self._placed: set[int] = set()  # norms in graphs, where another layer can follow
        graphs = _graphs(model)
        uses = [id(layer) for graph in graphs for use in graph.uses for layer in _used(use.layer)]
        for graph in graphs:
            for use in graph.uses:
                if use.training:
                    self._keep_asked(use.layer)
                if is_batch_norm(use.layer):
                    self._plan(graph, use, uses.count)

    def replace(self, layer: Layer) -> Layer | None:
        """The layer with a bias and the norm's activation, or one affine for a norm."""
        if id(layer) in self._norms:
            return _with_bias(layer, self._norms[id(layer)])
        if not is_batch_norm(layer) or id(layer) in self._kept:
            return None
        placed = id(layer) in self._placed
        if not placed and activation_after(layer) is not None:
            return None
        return as_keras(layer) or _plain(layer)

    def follow(self, layer: Layer) -> Layer | None:
        """The activation of an affine, and that of a folded norm if it is a layer."""
        if id(layer) in self._kept:
            return None
        return layer_activation(layer) if self.removes(layer) else activation_after(layer)

    def removes(self, layer: Layer) -> bool:
        """Whether a layer is a norm that is folded."""
        return id(layer) in self._targets

    def transfer(self, old: Layer, new: Layer) -> None:
        """Folded weights, or those of the norm."""
        norm = self._norms.get(id(old))
        if norm is None:
            hand_over_norm(old, new)
        else:
            new.set_weights(_folded_weights(old, norm))

    def trainable(self, layer: Layer) -> bool:
        """False for an affine, which so stays one in training, too."""
        # With False a norm would be in inference whatever it is called with.
        return layer.trainable and (id(layer) in self._asked or not is_batch_norm(layer))

    def report(self, model: keras.Model) -> Report:
        """What became of each norm."""
        replaced, kept = [], []
        for layer in normalizations(model):
            name, kind = layer.path or layer.name, type(layer).__name__
            target, reason = self._targets.get(id(layer)), self._reasons.get(id(layer), "")
            if target is not None:
                note = f"folded into {target.path or target.name}"
                activation = layer_activation(layer)
                after = "" if activation is None else type(activation).__name__
                replaced.append(Change(name, kind, after, note))
            elif self.replace(layer) is None:
                kept.append(Change(name, kind, "", reason or _why_kept(layer)))
            else:
                note = f"affine: {reason or 'called by another class'}"
                replaced.append(Change(name, kind, "BatchNormalization", note))
        return Report(tuple(replaced), tuple(kept))

    def _keep_asked(self, layer: Layer) -> None:
        """Has the norms stay that a call for training reaches by no graph of their own."""
        for norm in _used(layer):
            if is_batch_norm(norm) and norm.trainable:
                self._kept.add(id(norm))
                self._asked.add(id(norm))
                self._reasons[id(norm)] = "called with `training`, so not in inference"

    def _plan(self, graph: _Graph, use: _Use, count: Callable[[int], int]) -> None:
        """Decides on a norm where it is called."""
        norm = use.layer
        self._placed.add(id(norm))
        if id(norm) in self._asked:
            return
        target, reason = _target(graph, use)
        if target is not None:
            reason = _obstacle(target, norm, count)
        if target is not None and not reason:
            self._norms[id(target)], self._targets[id(norm)] = norm, target
        elif as_keras(norm) is not None and _is_far_off(norm):
            self._kept.add(id(norm))
            self._reasons[id(norm)] = f"a mean beyond {_LARGE_MEAN:g} deviations"
        else:
            self._reasons[id(norm)] = reason


def _graphs(model: Layer) -> list[_Graph]:
    """The graphs of a model and of the models in it, each once; none of what a class calls.

    A model may be called several times. What one of these calls has in training is so in its graph.
    """
    graphs: dict[int, _Graph] = {}
    for key, graph in _called(model, None, set()):
        before = graphs.get(key, graph).uses
        uses = [a if a.training else b for a, b in zip(before, graph.uses, strict=True)]
        graphs[key] = graph._replace(uses=uses)
    return list(graphs.values())


def _called(
    layer: Layer, training: bool | None, seen: set[tuple[int, bool | None]]
) -> Iterator[tuple[int, _Graph]]:
    """The graphs in what is called so, with the ids of their models; each once for `training`."""
    if (id(layer), training) in seen:
        return
    seen.add((id(layer), training))
    if type(layer) is keras.layers.TimeDistributed:
        yield from _called(layer.layer, training, seen)
    if _is_known(layer):
        graph = _sequence(layer) if isinstance(layer, keras.Sequential) else _network(layer)
        if training is not None:
            # Keras has it override what the calls inside ask for.
            graph = graph._replace(uses=[use._replace(training=training) for use in graph.uses])
        yield id(layer), graph
        for use in graph.uses:
            yield from _called(use.layer, use.training, seen)


def _is_known(model: Layer) -> bool:
    """Whether the graph tells all calls in a model: it has one, and no `call` of its own class."""
    return is_graph(model) and is_keras_method(type(model), "call")


def _used(layer: Layer) -> list[Layer]:
    """A layer and those that it calls by itself, without those of graphs."""
    if type(layer) is keras.layers.TimeDistributed:
        return [layer, *_used(layer.layer)]
    return [layer] if not _is_layer(layer) or _is_known(layer) else layer._flatten_layers()


def _is_layer(operation: Any) -> bool:
    return isinstance(operation, keras.layers.Layer)


def _sequence(model: keras.Sequential) -> _Graph:
    uses = [_Use(layer, (i,), (i + 1,), None) for i, layer in enumerate(model.layers)]
    return _Graph(uses, {len(uses)})


def _network(model: keras.Model) -> _Graph:
    uses = [
        _Use(
            node.operation,
            tuple(id(tensor) for tensor in node.input_tensors),
            tuple(id(tensor) for tensor in node.outputs),
            _training(node.arguments),
        )
        for nodes in model._nodes_by_depth.values()
        for node in nodes
        if not node.is_input
    ]
    return _Graph(uses, {id(tensor) for tensor in model.outputs})


def _training(arguments: Any) -> bool | None:
    """Whether a call in a graph asks for training, or leaves it to a tensor; None for neither."""
    if any(value is True for value in arguments.args[1:]):
        return True
    asked = arguments.kwargs.get("training")
    return None if asked is None else asked is not False


def _target(graph: _Graph, use: _Use) -> tuple[Layer | None, str]:
    """The layer whose output a norm takes, and why that could not be folded into it, if known."""
    while True:
        made_by = graph.maker(use.inputs[0])
        if made_by is None:
            return None, "follows the input"
        kind = type(made_by.layer)
        if kind not in _KERNELS and (kind not in _IDENTITIES or made_by.training):
            return None, f"follows {kind.__name__}"
        if graph.readers(use.inputs[0]) > 1:
            return None, f"the output of {made_by.layer.name} is used elsewhere, too"
        if kind in _KERNELS:
            return made_by.layer, ""
        use = made_by


def _obstacle(layer: Layer, norm: Layer, count: Callable[[int], int]) -> str:
    """Why a norm cannot be folded into the layer before it; empty if it can be."""
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
    if first and _may_mistake_width(layer):
        return f"Keras may add the bias of {layer.name} to the wrong axis"
    # 65504 is the largest float16; what overflowed would be NaN after the sum.
    if norm.compute_dtype == "float16" and _largest(_folded_weights(layer, norm)) > 65504:
        return "the kernel would overflow float16"
    return ""


def _may_mistake_width(layer: Layer) -> bool:
    """Whether Keras 3.15's `ops.add` under TensorFlow may take the width for the channels.

    It tells them apart by their sizes, and takes the last axis where both are equal.
    """
    if keras.backend.backend() != "tensorflow":
        return False
    # A layer that other models use, too, has no single output.
    shape: Any = getattr(getattr(layer, "output", None), "shape", (None,))
    return shape[-1] is None or shape[-1] == shape[1]


def _largest(weights: list[Array]) -> float:
    return max(float(np.nanmax(np.abs(weight), initial=0.0)) for weight in weights)


def _numpy(variable: Any) -> Array:
    return np.asarray(keras.ops.convert_to_numpy(variable)).astype(np.float64)


def _affine(norm: Layer) -> tuple[Array, Array, Array]:
    """Mean, scale and offset of a norm in inference: y = (x - mean) * scale + offset."""
    mean, variance = _numpy(norm.moving_mean), _numpy(norm.moving_variance)
    gamma = 1.0 if norm.gamma is None else _numpy(norm.gamma)
    beta = np.zeros_like(mean) if norm.beta is None else _numpy(norm.beta)
    # Statistics that are no numbers give NaN, as in the norm.
    with np.errstate(invalid="ignore", divide="ignore"):
        return mean, gamma / np.sqrt(variance + norm.epsilon), beta


def _is_far_off(norm: Layer) -> bool:
    mean, scale, _ = _affine(norm)
    return bool(np.any(np.abs(mean * scale) > _LARGE_MEAN))


def _folded_weights(layer: Layer, norm: Layer) -> list[Array]:
    """The weights of `layer` with those of the norm after it, in float64."""
    mean, scale, offset = _affine(norm)
    weights = [_numpy(weight) for weight in layer.weights]
    index, axes = _KERNELS[type(layer)]
    kernel = weights[index]
    shape = [size if i - kernel.ndim in axes else 1 for i, size in enumerate(kernel.shape)]
    bias = weights[index + 1] if layer.use_bias else 0.0
    return [*weights[:index], kernel * scale.reshape(shape), offset + (bias - mean) * scale]


def _with_bias(layer: Layer, norm: Layer) -> Layer:
    """A layer like `layer`, with a bias and the norm's activation, if that is no layer."""
    config = config_of(layer)
    # They were meant for other weights, and there is nothing to train.
    without = ("regularizer", "constraint")
    config |= {key: None for key in config if key.endswith(without)}
    activation = None if layer_activation(norm) else getattr(norm, "activation", None)
    return type(layer).from_config(config | {"use_bias": True, "activation": activation})


def _why_kept(layer: Layer) -> str:
    """Why a layer that no graph calls, or that is no batch norm, stays; empty if it is plain."""
    if isinstance(layer, DomainBatchNormalization):
        return "an affine for each domain"
    return "its activation has no room in the layer around it" if is_batch_norm(layer) else ""


def _plain(norm: Layer) -> Layer:
    """A batch norm of Keras's without renorm, of which inference makes no use."""
    config = config_of(norm) | {"renorm": False, "renorm_clipping": None}
    return type(norm).from_config(config)
