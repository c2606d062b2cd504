"""Batch norms of one kind in the places of those of another.

All converters copy the model, or change it in place: the same network, names, weights, `trainable`
flags, regularizers, constraints and dtype policies, with other normalization layers.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import keras

from keras_renorm.convert.changes import Change, Report, Reporter, check_reporter, deliver
from keras_renorm.convert.cloning import rewritten
from keras_renorm.convert.configurations import config_of
from keras_renorm.convert.counterparts import (
    PLAIN_OF,
    RENORM_OF,
    KerasBatchNormalization,
    activation_after,
    as_keras,
    as_ours,
    hand_over_norm,
    is_linear,
    is_one_affine,
    normalizations,
    without,
)
from keras_renorm.convert.in_place import InPlace
from keras_renorm.convert.rewrite import Rewrite
from keras_renorm.keras_internals import flattened, renormalizes
from keras_renorm.layers import BatchNormalization, BatchRenormalization
from keras_renorm.models import is_batch_norm
from keras_renorm.ops import arguments

Layer: TypeAlias = keras.layers.Layer
# They change the weights, what is computed in inference, or what tells the layers apart.
_FIXED = ("name", "axis", "center", "scale", "epsilon", "activation", "dtype", "trainable")


def to_batch_renormalization(
    model: keras.Model,
    *,
    report: Reporter | None = None,
    in_place: bool = False,
    **options: Any,
) -> keras.Model:
    """A copy of `model` with Batch Renormalization in the place of batch norms.

    Every `keras.layers.BatchNormalization` and `keras_renorm.layers.BatchNormalization` becomes a
    `keras_renorm.layers.BatchRenormalization` with the same weights: inference is as it was, and
    training goes on with r and d from the moving statistics. By default the limits begin shut, and
    open within some 20 minibatches as far as these statistics fit; a schedule begins at 0 updates,
    and fixed limits are for statistics that are known to fit. Layers with `renorm=True` are
    converted as by `from_keras`; a `BatchRenormalization` gets the options, and without any stays
    as it is.

    Args:
        model: A Sequential, functional or subclassed model, which may hold other such models, and
            layers around a batch norm such as `keras.layers.TimeDistributed`. Shared layers stay
            shared. What is inside a class of your own is converted if `get_config` holds it. The
            model stays as it is; its optimizer and `compile` are not copied.
        report: What to call with the `Report` of what was replaced, e.g. `print`. Without it, a
            batch norm that cannot be converted is kept with a warning.
        in_place: Whether to replace the layers in `model` itself, for classes whose constructor
            makes their norms and whose configuration does not tell of them. Found are layers in
            attributes of the model and of the layers in it, and in lists, tuples, dicts and sets
            there. Every other layer and all gammas and betas stay the same objects, so what was
            compiled goes on, with its optimizer. Functional models in it are made anew of the
            same layers; `model` must not be one. Functions of your own are to be traced again. A
            file of the whole model calls the constructor, which makes the old norms: keep
            `save_weights`, and convert before `load_weights`.
        **options: Arguments of `BatchRenormalization` for all of them: `r_max`, `d_max`,
            `renorm_clipping`, `momentum`, `synchronized`.

    Returns:
        The new model; with `in_place`, `model`.

    Raises:
        TypeError: If `model` is no Keras model, or a subclass of a functional one that a copy
            would lose.
        ValueError: If an option is not allowed; a batch norm lies inside a layer that makes it by
            itself, so that it cannot be replaced in a copy; or a layer is shared with a class of
            your own, of which a copy would have its own. With `in_place`, if `model` is a
            functional one with batch norms in its graph, or a batch norm is in no attribute, or in
            a function, too.

    Example:
        >>> model = keras.applications.ResNet50()
        >>> model = keras_renorm.convert.to_batch_renormalization(model, r_max=3, d_max=5)

    Source: Ioffe 2017, Algorithm 1.
    """
    _check_options(options)

    def converted(layer: Layer) -> Layer | None:
        if type(layer) in PLAIN_OF and not options:
            return None
        ours = as_ours(layer) or layer
        target = RENORM_OF.get(type(ours), type(ours))
        return target.from_config(config_of(ours) | _clipping(ours, options))

    return _convert(model, converted, report, in_place)


def to_batch_normalization(
    model: keras.Model, *, report: Reporter | None = None, in_place: bool = False
) -> keras.Model:
    """A copy of `model` with `keras_renorm.layers.BatchNormalization` for every batch norm.

    The way back from `to_batch_renormalization`, with the same bits: what is lost are the limits
    and their counter. Of Keras's layers those of either `renorm` become ours.

    Args:
        model: As for `to_batch_renormalization`.
        report: As there.
        in_place: As there.

    Returns:
        The new model.

    Raises:
        TypeError: As in `to_batch_renormalization`.
        ValueError: As in `to_batch_renormalization`.
    """

    def converted(layer: Layer) -> Layer | None:
        ours = as_ours(layer) or layer
        if type(ours) in RENORM_OF:
            return None if ours is layer else ours
        target = PLAIN_OF[type(ours)]
        return target.from_config(without(config_of(ours), "r_max", "d_max"))

    return _convert(model, converted, report, in_place)


def to_synchronized(
    model: keras.Model, *, report: Reporter | None = None, in_place: bool = False
) -> keras.Model:
    """A copy of `model` whose batch norms use the moments of all replicas.

    Every `keras_renorm.layers.BatchNormalization` and `BatchRenormalization` gets
    `synchronized=True`, and Keras's become ours as by `from_keras`.

    To train under a `tf.distribute` strategy, call it in `strategy.scope()`.

    Args:
        model: As for `to_batch_renormalization`.
        report: As there.
        in_place: As there.

    Returns:
        The new model.

    Raises:
        TypeError: As in `to_batch_renormalization`.
        ValueError: As in `to_batch_renormalization`.

    Example:
        >>> with strategy.scope():
        ...     model = keras_renorm.convert.to_synchronized(keras.applications.ResNet50())
    """
    rule = functools.partial(_synchronized, synchronized=True)
    return _convert(model, rule, report, in_place, subclasses=True)


def to_unsynchronized(
    model: keras.Model, *, report: Reporter | None = None, in_place: bool = False
) -> keras.Model:
    """A copy of `model` whose batch norms use each replica's own moments.

    The way back from `to_synchronized`; see there. Keras's batch norms become ours here, too.

    Args:
        model: As for `to_batch_renormalization`.
        report: As there.
        in_place: As there.

    Returns:
        The new model.

    Raises:
        TypeError: As in `to_batch_renormalization`.
        ValueError: As in `to_batch_renormalization`.
    """
    rule = functools.partial(_synchronized, synchronized=False)
    return _convert(model, rule, report, in_place, subclasses=True)


def from_keras(
    model: keras.Model, *, report: Reporter | None = None, in_place: bool = False
) -> keras.Model:
    """A copy of `model` with our layers in the place of `keras.layers.BatchNormalization`.

    A layer with `renorm=True` becomes a `BatchRenormalization` with its `renorm_clipping`. Keras
    keeps two sets of statistics for it; ours has one, and takes `moving_mean` and
    `moving_variance`, those of inference. Keras uses `renorm_mean` and `renorm_stddev` for r and d;
    they are the same but for `renorm_momentum` and where weights were loaded without them.

    Args:
        model: As for `to_batch_renormalization`.
        report: As there. A layer with an `rmin` other than 1 / rmax is kept, as is a subclass of
            Keras's.
        in_place: As there.

    Returns:
        The new model. In inference it computes what `model` does.

    Raises:
        TypeError: As in `to_batch_renormalization`.
        ValueError: As in `to_batch_renormalization`.

    Example:
        >>> model = keras_renorm.convert.from_keras(keras.applications.ResNet50(), report=print)
    """
    return _convert(model, as_ours, report, in_place)


def to_keras(
    model: keras.Model, *, report: Reporter | None = None, in_place: bool = False
) -> keras.Model:
    """A copy of `model` with `keras.layers.BatchNormalization` in the place of our layers.

    For where this package is not installed. Inference stays the same, but for layers with weights
    of half precision (the dtype policies `float16` and `bfloat16`, not the mixed ones): Keras
    rounds moving statistics to that, where ours are float32. Training does not: Batch
    Renormalization becomes batch norm, and what else Keras does not have is left out, as the report
    says. An `activation` becomes a layer of its own, `NAME_activation`; one that is a layer, such
    as `PReLU`, keeps its weights and its name. Where a name is taken, it gets a number.

    Args:
        model: As for `to_batch_renormalization`.
        report: As there.
        in_place: As there.

    Returns:
        The new model, with no layer of this package.

    Raises:
        TypeError: As in `to_batch_renormalization`.
        ValueError: As in `to_batch_renormalization`; if a layer of this package has no equivalent
            in Keras; if moving statistics are too large for half precision; or if a layer with an
            activation stands inside a layer that calls it, so that there is no room for a second
            one.

    Example:
        >>> keras_renorm.convert.to_keras(model).save("served.keras")
    """
    check_reporter(report)
    for layer in flattened(model) if isinstance(model, keras.Model) else ():
        if _is_of_this_package(layer) and not is_one_affine(layer):
            raise ValueError(
                f"The {type(layer).__name__} layer {layer.path!r} has no equivalent in Keras. "
                "Leave it out of the model, or install keras_renorm where the model is used."
            )
    return _convert(model, as_keras, report, in_place, follow=activation_after)


class _NormRewrite(Rewrite):
    """Replaces batch norms, each by the same rule."""

    def __init__(
        self,
        rule: Callable[[Layer], Layer | None],
        follow: Callable[[Layer], Layer | None] | None,
        subclasses: bool,
    ) -> None:
        self._rule = rule
        self._follow = follow
        self._subclasses = subclasses
        self.failed: dict[str, str] = {}

    def replace(self, layer: Layer) -> Layer | None:
        """What the rule gives; None, with the reason noted, where an argument does not fit."""
        if not is_batch_norm(layer):
            return None
        known = type(layer) in {KerasBatchNormalization, *RENORM_OF, *PLAIN_OF}
        if not known and not (self._subclasses and isinstance(layer, BatchNormalization)):
            self.failed[layer.path or layer.name] = (
                "it is of a subclass, which may compute something else."
            )
            return None
        try:
            return self._rule(layer)
        except (TypeError, ValueError) as error:
            # Keras wraps what a constructor says in the whole configuration.
            self.failed[layer.path or layer.name] = str(error.__context__ or error)
            return None

    def follow(self, layer: Layer) -> Layer | None:
        """The activation that the new layer does not have."""
        return self._follow(layer) if self._follow is not None else None

    def transfer(self, old: Layer, new: Layer) -> None:
        """The weights by their names, for Keras's layers with `renorm=True` have others, too."""
        hand_over_norm(old, new)


def _convert(
    model: keras.Model,
    rule: Callable[[Layer], Layer | None],
    reporter: Reporter | None,
    in_place: bool,
    follow: Callable[[Layer], Layer | None] | None = None,
    subclasses: bool = False,
) -> keras.Model:
    """A copy of `model`, or `model` itself, with the rule applied to every batch norm.

    With `subclasses` also to those of our layers, for rules that keep the class.
    """
    check_reporter(reporter)
    rewrite = _NormRewrite(rule, follow, subclasses)
    plan = InPlace(model, rewrite) if arguments.flag("in_place", in_place) else None
    new_model = model if plan else rewritten(model, rewrite)
    report = _report(model, rewrite)
    if plan:
        plan.apply()
    deliver(report, reporter, failed=frozenset(rewrite.failed))
    return new_model


def _report(model: keras.Model, rewrite: _NormRewrite) -> Report:
    replaced, kept = [], []
    for layer in normalizations(model):
        path, before, new = layer.path or layer.name, type(layer).__name__, rewrite.replace(layer)
        if new is None:
            kept.append(Change(path, before, "", rewrite.failed.get(path, "")))
        else:
            replaced.append(Change(path, before, type(new).__name__, _lost(layer, new)))
    return Report(tuple(replaced), tuple(kept))


def _lost(old: Layer, new: Layer) -> str:
    """What a new layer does otherwise than the old one, beyond being of its class."""
    before, after = old.get_config(), new.get_config()
    keys = ["r_max", "d_max", "virtual_batch_size", "synchronized", "frozen_statistics"]
    if isinstance(getattr(old, "activation", None), keras.layers.Layer):
        keys.append("activity_regularizer")  # else the new layer has it, or the new activation
    lost = [key for key in keys if before.get(key) and key not in after]
    notes = [f"without {', '.join(lost)}"] if lost else []
    if not is_linear(getattr(old, "activation", None)) and not hasattr(new, "activation"):
        notes.append("activation in a layer of its own")
    if type(new) is KerasBatchNormalization and new.variable_dtype in ("float16", "bfloat16"):
        notes.append(f"moving statistics rounded to {new.variable_dtype}")
    if type(old) is KerasBatchNormalization and renormalizes(old):
        notes.append("statistics of inference")
        if old.renorm_momentum != old.momentum and isinstance(new, BatchRenormalization):
            notes.append(f"momentum {old.momentum} instead of renorm_momentum")
    return "; ".join(notes)


def _synchronized(layer: Layer, synchronized: bool) -> Layer | None:
    ours = as_ours(layer) or layer
    return type(ours).from_config(config_of(ours) | {"synchronized": synchronized})


def _clipping(layer: Layer, options: dict[str, Any]) -> dict[str, Any]:
    """`options`, with `renorm_clipping` in place of the limits that the layer had."""
    if "renorm_clipping" not in options or type(layer) not in PLAIN_OF:
        return options
    limits = BatchRenormalization(renorm_clipping=options["renorm_clipping"])
    rest = without(options, "renorm_clipping")
    return rest | {"r_max": limits.r_max, "d_max": limits.d_max}


def _check_options(options: dict[str, Any]) -> None:
    """Raises for options that the new layers cannot all have."""
    fixed = [key for key in options if key in _FIXED or "_initializer" in key]
    if fixed:
        raise ValueError(
            f"The new layers keep {fixed[0]!r} from the old ones, received {fixed[0]}="
            f"{options[fixed[0]]!r}. Allowed are r_max, d_max, renorm_clipping, momentum and other "
            "arguments of keras_renorm.layers.BatchRenormalization that change training only."
        )
    BatchRenormalization(**options)


def _is_of_this_package(layer: Layer) -> bool:
    return isinstance(layer, BatchNormalization) or type(layer).__module__.startswith(
        "keras_renorm."
    )
