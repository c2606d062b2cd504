"""Models for inference, with batch norms folded into the layers before them."""

from collections.abc import Callable

import keras

from keras_renorm import keras_internals
from keras_renorm.convert.affine import LARGE_MEAN, folded_weights, has_large_mean
from keras_renorm.convert.changes import Reporter, check_reporter, deliver, report_of
from keras_renorm.convert.cloning import rewritten
from keras_renorm.convert.configurations import config_of, layer_activation
from keras_renorm.convert.counterparts import activation_after, as_keras, is_one_affine
from keras_renorm.convert.rewrite import Rewrite
from keras_renorm.convert.targets import find_target
from keras_renorm.layers import DomainBatchNormalization
from keras_renorm.models import Graph, Use, called_by, graphs_in
from keras_renorm.typing import Layer


def fold(model: keras.Model, *, report: Reporter | None = None) -> keras.Model:
    """A copy of `model` for inference, without batch norms where a layer can do their work.

    ```
    kernel' = kernel * scale,  bias' = beta + (bias - moving_mean) * scale
    scale = gamma / sqrt(moving_variance + epsilon)
    ```

    Use it for serving: the new model is faster, and loads where this package is not installed.

    A batch norm, Keras's or ours, is folded into the layer before it: a convolution (plain,
    depthwise, separable or transposed) or a dense layer. That layer must have no activation and the
    norm's axis of channels, and nothing else may use it or its output. Dropout may stand between.
    The layer then has a bias and the norm's `activation`, but no regularizers or constraints.
    Every other batch norm becomes a `keras.layers.BatchNormalization` with `trainable=False`: one
    multiplication and one addition, about as fast as a layer made for it (measured). Its activation
    becomes the layer `NAME_activation`, with a number if that name is taken. An activation that is
    a layer, such as `PReLU`, takes the place of a folded norm, and follows any other norm. It keeps
    its weights and its name, numbered likewise.

    The weights are folded in float64. Each layer agrees with the old one in inference to 1e-5, for
    outputs of order 1 in float32, and to the rounding of half-precision policies. A deep network
    agrees as closely as its own rounding allows, and is as far from float64 as before:
    Inception-v3 with random weights 2.4e-4, and 2.1e-4 before (measured). A norm of ours whose
    moving mean is beyond 64 deviations stays as it is, because the sum would lose digits.

    Args:
        model: A Sequential, functional or subclassed model with weights. It may hold other such
            models. Nothing is folded in classes with a `call` of your own: a norm that
            `get_config` holds becomes one affine map. The model stays as it is. Its `compile` is
            not copied.
        report: A function that gets the `Report` of what was folded, e.g. `print`.

    Returns:
        The new model. It loads without this package if no layer of this package was kept.

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
            f"The model {model.name!r} has no weights yet, so there is nothing to fold. Call it "
            "once on a batch, `model(x)`, or train it first."
        )
    rewrite = _Folding(model)
    new_model = rewritten(model, rewrite)
    deliver(report_of(model, rewrite.outcome), report)
    return new_model


class _Folding(Rewrite):
    """Decides what becomes of each batch norm."""

    def __init__(self, model: keras.Model) -> None:
        self._norms: dict[int, Layer] = {}  # folded norms, by the layers that take them
        self._targets: dict[int, Layer] = {}  # the layers that take norms, by their norms
        self._reasons: dict[int, str] = {}  # why other norms are not folded
        self._kept: set[int] = set()
        self._asked: set[int] = set()  # the kept norms that are called with `training`
        self._placed: set[int] = set()  # norms in graphs, where another layer can follow
        graphs = graphs_in(model)
        uses = [use for graph in graphs for use in graph.uses]
        called = [id(layer) for use in uses for layer in called_by(use.operation)]
        for graph in graphs:
            for use in reversed(graph.uses):  # so that the first call's reason stays
                if use.training:
                    self._keep_asked(use.operation)
                if is_one_affine(use.operation):
                    self._plan(graph, use, called.count)

    def replace(self, layer: Layer) -> Layer | None:
        """The layer with a bias and the norm's activation, or one affine for a norm."""
        if id(layer) in self._norms:
            return _with_bias(layer, self._norms[id(layer)])
        if not is_one_affine(layer) or id(layer) in self._kept:
            return None
        if id(layer) not in self._placed and activation_after(layer) is not None:
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
        """Hands over folded weights, or the norm's own."""
        norm = self._norms.get(id(old))
        if norm is None:
            super().transfer(old, new)
        else:
            new.set_weights(folded_weights(old, norm))
            for before, after in zip(old.weights, new.weights, strict=False):  # the bias is new
                after.trainable = before.trainable and new.trainable

    def trainable(self, layer: Layer) -> bool:
        """False for an affine map, so that it stays one in training."""
        # A norm with False would run in inference mode, whatever `training` is.
        return layer.trainable and (id(layer) in self._asked or not is_one_affine(layer))

    def outcome(self, layer: Layer) -> tuple[str | None, str]:
        """What the report says of a layer that normalises."""
        target, reason = self._targets.get(id(layer)), self._reasons.get(id(layer), "")
        if target is not None:
            activation = layer_activation(layer)
            after = "" if activation is None else type(activation).__name__
            return after, f"folded into {target.path or target.name}"
        if self.replace(layer) is None:
            return None, reason or _why_kept(layer)
        return "BatchNormalization", f"affine: {reason or 'called by another class'}"

    def _keep_asked(self, layer: Layer) -> None:
        """Keeps the norms that a call with `training` reaches without a graph of their own."""
        for norm in called_by(layer):
            if is_one_affine(norm) and norm.trainable:
                self._kept.add(id(norm))
                self._asked.add(id(norm))
                self._reasons[id(norm)] = "called with `training`, so not in inference"

    def _plan(self, graph: Graph, use: Use, count: Callable[[int], int]) -> None:
        """Decides on a norm where it is called."""
        norm = use.operation
        self._placed.add(id(norm))
        if id(norm) in self._asked:
            return
        layer, reason = find_target(graph, use, count)
        if layer is not None:
            self._norms[id(layer)], self._targets[id(norm)] = norm, layer
        elif as_keras(norm) is not None and has_large_mean(norm):
            self._kept.add(id(norm))
            self._reasons[id(norm)] = f"a mean beyond {LARGE_MEAN:g} deviations"
        else:
            self._reasons[id(norm)] = reason


def _with_bias(layer: Layer, norm: Layer) -> Layer:
    """A layer like `layer`, with a bias and the norm's activation, if that is no layer."""
    config = config_of(layer)
    # These were meant for other weights, and nothing is trained any more.
    without = ("regularizer", "constraint")
    config |= {key: None for key in config if key.endswith(without)}
    inside = layer_activation(norm) is None
    activation = getattr(norm, "activation", None) if inside else None
    return type(layer).from_config(config | {"use_bias": True, "activation": activation})


def _why_kept(layer: Layer) -> str:
    """Why a layer stays; empty for layers that are no batch norm with one affine map."""
    if isinstance(layer, DomainBatchNormalization):
        return "an affine for each domain"
    return "its activation has no room in the layer around it" if is_one_affine(layer) else ""


def _plain(norm: Layer) -> Layer:
    """One of Keras's batch norms without renorm, which inference does not need."""
    config = config_of(norm)
    if keras_internals.renormalizes(norm):
        config |= {"renorm": False, "renorm_clipping": None}
    return type(norm).from_config(config)
