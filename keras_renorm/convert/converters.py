"""Converters, which put batch norms of one kind in the places of another.

All converters copy the model, or change it in place: the same network, names, weights, `trainable`
flags, regularizers, constraints and dtype policies, with other normalization layers.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import keras

from keras_renorm.convert.changes import Reporter, check_reporter, deliver, report_of
from keras_renorm.convert.cloning import rewritten
from keras_renorm.convert.configurations import config_of
from keras_renorm.convert.counterparts import (
    PLAIN_OF,
    RENORM_OF,
    KerasBatchNormalization,
    activation_after,
    as_keras,
    as_ours,
    is_one_affine,
    without,
)
from keras_renorm.convert.in_place import InPlace
from keras_renorm.convert.rewrite import Rewrite
from keras_renorm.keras_internals import flattened, renormalizes
from keras_renorm.layers import BatchNormalization, BatchRenormalization
from keras_renorm.models import is_batch_norm, is_linear
from keras_renorm.ops import arguments
from keras_renorm.typing import Layer

# Options that would change the weights, the inference, or the identity of the layers.
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
    `keras_renorm.layers.BatchRenormalization` with the same weights. Inference computes the same,
    and training goes on with r and d from the moving statistics. The default limits begin shut, and
    open within some 20 minibatches as far as these statistics fit. A schedule begins at 0 updates.
    Give fixed limits only if you know that the statistics fit. `from_keras` says what becomes of
    layers with `renorm=True`. A `BatchRenormalization` gets the options; without options it stays
    as it is.

    Args:
        model: A Sequential, functional or subclassed model. It may hold other such models, and
            layers around a batch norm such as `keras.layers.TimeDistributed`. Shared layers stay
            shared. Norms inside a class of your own are converted if its `get_config` holds them.
            The model stays as it is. Its optimizer and `compile` are not copied.
        report: A function that gets the `Report` of what was replaced, e.g. `print`. Without it, a
            batch norm that cannot be converted stays, with a warning.
        in_place: Whether to replace the layers in `model` itself. Use it for classes whose
            constructor makes their norms and whose configuration does not hold them. It finds
            layers in attributes of the model and of its layers, and in lists, tuples, dicts and
            sets there. Every other layer and all gammas and betas stay the same objects, so a
            compiled model goes on with its optimizer. Functional models inside are made anew from
            the same layers, but `model` itself must not be functional. Trace your own functions
            again. Use `save_weights`, and convert before `load_weights`: loading the whole model
            calls the constructor, which makes the old norms.
        **options: Arguments of `BatchRenormalization` for all new layers: `r_max`, `d_max`,
            `num_steps`, `renorm_clipping`, `momentum`, `synchronized`.

    Returns:
        The new model; with `in_place`, `model`.

    Raises:
        TypeError: If `model` is no Keras model, or a subclass of a functional model that a copy
            would lose.
        ValueError: If an option is not allowed; a batch norm lies inside a layer that makes the
            norm itself, so that a copy cannot replace it; or a layer is shared with a class of your
            own, whose copy would not share it. With `in_place`, if `model` is functional and has
            batch norms in its graph, or a batch norm is in no attribute, or also in a function.

    Example:
        >>> model = keras.applications.ResNet50()
        >>> model = keras_renorm.convert.to_batch_renormalization(model, r_max=3, d_max=5)

    Source: Ioffe 2017, Algorithm 1.
    """
    _check_options(options)
    # These options replace the limits in another form.
    replaced = ("r_max", "d_max") if options.keys() & {"renorm_clipping", "num_steps"} else ()

    def converted(layer: Layer) -> Layer | None:
        if type(layer) in PLAIN_OF and not options:
            return None
        ours = as_ours(layer) or layer
        target = RENORM_OF.get(type(ours), type(ours))
        return target.from_config(without(config_of(ours), *replaced) | options)

    return _convert(model, converted, report, in_place)


def to_batch_normalization(
    model: keras.Model, *, report: Reporter | None = None, in_place: bool = False
) -> keras.Model:
    """A copy of `model` with `keras_renorm.layers.BatchNormalization` for every batch norm.

    It undoes `to_batch_renormalization`, bit for bit, except for the limits and their counter.
    Keras's layers become ours, with or without `renorm`.

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
    `synchronized=True`. Keras's layers become ours, as with `from_keras`.

    To train under a `tf.distribute` strategy, convert in `strategy.scope()`.

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

    It undoes `to_synchronized`. Keras's batch norms become ours here, too.

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
    keeps two sets of statistics for such a layer. Ours has one set, and takes `moving_mean` and
    `moving_variance`, the statistics of inference. Keras's `renorm_mean` and `renorm_stddev`, for r
    and d, differ from these only by `renorm_momentum`, and where weights were loaded without them.

    Args:
        model: As for `to_batch_renormalization`.
        report: As there. A layer with an `rmin` other than 1 / rmax stays, and so does a subclass
            of Keras's layer.
        in_place: As there.

    Returns:
        The new model. It computes the same as `model` in inference.

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

    Use it for a model that must load where this package is not installed. Inference stays the same,
    except for layers with weights of half precision (the dtype policies `float16` and `bfloat16`,
    not the mixed ones). Keras rounds the moving statistics of such layers, where ours are float32.
    Training differs: Batch Renormalization becomes batch norm, and the report names what else
    Keras's layer lacks. An `activation` becomes a layer of its own, `NAME_activation`. An
    activation that is a layer, such as `PReLU`, keeps its weights and its name. A name that is
    taken gets a number.

    Args:
        model: As for `to_batch_renormalization`.
        report: As there.
        in_place: As there.

    Returns:
        The new model, with no layer of this package.

    Raises:
        TypeError: As in `to_batch_renormalization`.
        ValueError: As in `to_batch_renormalization`; if a layer of this package has no equivalent
            in Keras; if moving statistics are too large for half precision; or if a norm with an
            activation stands inside a layer that calls the norm, and so has no room for a second
            layer.

    Example:
        >>> keras_renorm.convert.to_keras(model).save("served.keras")
    """
    check_reporter(report)
    for layer in flattened(model) if isinstance(model, keras.Model) else ():
        module = type(layer).__module__
        ours = isinstance(layer, BatchNormalization) or module.startswith("keras_renorm.")
        if ours and not is_one_affine(layer):
            raise ValueError(
                f"The {type(layer).__name__} layer {layer.path!r} has no equivalent in Keras. "
                "Leave it out of the model, or install keras_renorm where the model is used."
            )
    return _convert(model, as_keras, report, in_place, follow=activation_after)


@dataclasses.dataclass(eq=False)
class _NormRewrite(Rewrite):
    """Replaces batch norms, each by the same rule.

    Attributes:
        rule: Gives a norm's replacement, or None to keep the norm.
        after: Gives the layer that follows a replacement, if one does. None if none ever does.
        subclasses: Whether subclasses of our layers are replaced, too.
        failed: Why other norms stay, by their paths.
    """

    rule: Callable[[Layer], Layer | None]
    after: Callable[[Layer], Layer | None] | None
    subclasses: bool
    failed: dict[str, str] = dataclasses.field(default_factory=dict)

    def replace(self, layer: Layer) -> Layer | None:
        """The rule's layer, or None where an argument does not fit; notes the reason."""
        if not is_batch_norm(layer):
            return None
        known = type(layer) in {KerasBatchNormalization, *RENORM_OF, *PLAIN_OF}
        path = layer.path or layer.name
        if not known and not (self.subclasses and isinstance(layer, BatchNormalization)):
            self.failed[path] = "it belongs to a subclass, which may compute something else."
            return None
        try:
            return self.rule(layer)
        except (TypeError, ValueError) as error:
            # Keras wraps a constructor's message in the whole configuration.
            self.failed[path] = str(error.__context__ or error)
            return None

    def follow(self, layer: Layer) -> Layer | None:
        """The activation that the new layer does not have."""
        return None if self.after is None else self.after(layer)

    def outcome(self, layer: Layer) -> tuple[str | None, str]:
        """What the report says of a layer that normalises."""
        new = self.replace(layer)
        if new is None:
            return None, self.failed.get(layer.path or layer.name, "")
        return type(new).__name__, _lost(layer, new)


def _convert(
    model: keras.Model,
    rule: Callable[[Layer], Layer | None],
    reporter: Reporter | None,
    in_place: bool,
    follow: Callable[[Layer], Layer | None] | None = None,
    subclasses: bool = False,
) -> keras.Model:
    """A copy of `model`, or `model` itself, with the rule applied to every batch norm.

    `subclasses` includes subclasses of our layers, for rules that keep the class.
    """
    check_reporter(reporter)
    rewrite = _NormRewrite(rule, follow, subclasses)
    plan = InPlace(model, rewrite) if arguments.flag("in_place", in_place) else None
    new_model = model if plan else rewritten(model, rewrite)
    report = report_of(model, rewrite.outcome)
    if plan:
        plan.apply()
    deliver(report, reporter, warns=True)
    return new_model


def _lost(old: Layer, new: Layer) -> str:
    """How a new layer differs from the old one, beyond its class."""
    before, after = old.get_config(), new.get_config()
    keys = ["r_max", "d_max", "virtual_batch_size", "synchronized", "frozen_statistics"]
    if isinstance(getattr(old, "activation", None), keras.layers.Layer):
        keys.append("activity_regularizer")  # otherwise the new layer or activation has it
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


def _check_options(options: dict[str, Any]) -> None:
    """Raises if not every new layer can have these options."""
    for key, value in options.items():
        if key in _FIXED or "_initializer" in key:
            raise ValueError(
                f"The new layers keep {key!r} from the old ones, received {key}={value!r}. Allowed "
                "are r_max, d_max, num_steps, renorm_clipping, momentum and other arguments of "
                "keras_renorm.layers.BatchRenormalization that change training only."
            )
    BatchRenormalization(**options)
