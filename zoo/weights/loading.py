"""Loads a file into a model: all weights, or none if anything does not fit."""

import dataclasses
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import keras

from keras_renorm.layers import BatchRenormalization
from zoo.weights import fetching, hdf5, keras_applications
from zoo.weights.errors import MismatchError
from zoo.weights.matching import Plan, plan
from zoo.weights.source import Source, Weights, find

_LOG = logging.getLogger("zoo.weights")


@dataclasses.dataclass(frozen=True)
class Loaded:
    """What `load` did.

    Attributes:
        source: Where the weights came from.
        layers: Names of the layers that got weights.
        fresh: Names of the layers that keep their own weights: a head with other classes.
        unused: Names of the file's layers that the model lacks: a head.
        folded: Names of the convolutions whose bias went into the statistics of the normalization
            after them.
        messages: What a user should know, a sentence each.
    """

    source: Source
    layers: tuple[str, ...]
    fresh: tuple[str, ...]
    unused: tuple[str, ...]
    folded: tuple[str, ...]
    messages: tuple[str, ...]


def load(
    model: keras.Model,
    weights: Weights | Source,
    *,
    architecture: str | None = None,
    base: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
    progress: bool = True,
    report: Callable[[str], None] = _LOG.warning,
) -> Loaded:
    """Gives a model of this package the weights of a checkpoint.

    A file of this package fits a model with the same layers, with "batch_norm" or "batch_renorm",
    whichever norm it was trained with: their weights have the same meaning, and inference gives the
    same outputs. If the file has no counter of updates for schedules of `r_max` and `d_max`, the
    counter stays at 0. Adaptive limits begin as plain batch norm, and open within some 20 updates
    if the statistics fit. To train on with corrections from the first step, give fixed limits:
    `norm_options={"r_max": 3.0, "d_max": 5.0}`.

    A file of keras.applications fits, too, in the older HDF5 layout and in today's. Its ResNets
    have biases b before a normalization. Ours have none, and

    ```
    (x + b - moving_mean) / sigma = (x - (moving_mean - b)) / sigma
    ```

    so the moving mean loses b. Inference then gives the same output, and training trains the same
    network.

    A head keeps its own weights if the file lacks it or has another number of classes; an auxiliary
    head does, too. Everything else must fit, or nothing is loaded.

    Args:
        model: A model of this package.
        weights: A tag, a name `architecture.tag`, the path of a file, or what `find` returned.
        architecture: Name of the model; by default `model.name`.
        base: Mirror of the files; see `fetching.fetch`.
        cache: Folder of downloads; see `fetching.fetch`.
        progress: Whether to show a download on stderr.
        report: Called with each message. By default messages are logged as warnings.

    Returns:
        A `Loaded`.

    Raises:
        MismatchError: If the file does not fit; the message names every layer.
        WeightsError: If the file is not available, is not the published one, or is no checkpoint.

    Example:
        >>> model = zoo.create_model("resnet50", norm_options={"epsilon": 1.001e-5})
        >>> loaded = zoo.weights.load(model, "keras_imagenet")
    """
    source = weights
    if not isinstance(source, Source):
        source = find(architecture or model.name, source)
    path = _path(source, base, cache, progress)
    with path.open("rb") as file:
        if source.record is not None:
            fetching.check(source.record, file, path)
        with hdf5.open_weights(file, path) as stored:
            layers = _layers(stored, source.architecture)
            made = plan(model, layers)
            if made.problems:
                raise MismatchError(_mismatch(source, model, made, layers))
            values = [read() for _, read in made.assignments]
    for (variable, _), value in zip(made.assignments, values, strict=True):
        variable.assign(value)
    _trust_statistics(model, made)
    messages = tuple(_messages(source, model, made))
    for message in messages:
        report(message)
    return Loaded(source, made.layers, made.fresh, made.unused, made.folded, messages)


def _trust_statistics(model: keras.Model, made: Plan) -> None:
    """Makes adaptive limits trust the statistics if the file lacks what they have seen."""
    loaded = {id(variable) for variable, _ in made.assignments}
    for layer in model.layers:
        if isinstance(layer, BatchRenormalization) and id(layer.deviations) not in loaded:
            layer.trust_statistics()


def _path(source: Source, base: Any, cache: Any, progress: bool) -> Path:
    if source.record is not None:
        return fetching.locate(source.record, base=base, cache=cache, progress=progress)
    assert source.path is not None
    return source.path


def _layers(stored: hdf5.StoredModel, architecture: str) -> Mapping[str, hdf5.StoredLayer]:
    if keras_applications.wrote(stored, architecture):
        return keras_applications.our_layers(stored, architecture)
    return stored.layers


def _mismatch(source: Source, model: keras.Model, made: Plan, stored: Iterable[str]) -> str:
    """Every layer that does not fit, and what may be the reason."""
    count = len(made.problems)
    hint = next(_hints(source, model, stored), "")
    return (
        f"{source.name} does not fit the model {model.name!r}, and nothing was loaded. {hint}"
        f"{count} of its layers {'differs' if count == 1 else 'differ'}:\n  "
        + "\n  ".join(made.problems)
    )


def _hints(source: Source, model: keras.Model, stored: Iterable[str]) -> Iterator[str]:
    """Guesses at why weights do not fit, each with what to write instead."""
    normalized = _has_norm(layer.name for layer in model.layers)
    if source.record is not None and source.record.norm == "skip_init":
        if normalized:
            yield "Build the model with norm='skip_init'. "
    elif not normalized and _has_norm(stored):
        yield (
            "The model has no normalization: load the weights into one with norm='batch_norm', and "
            "take it out with keras_renorm.convert.fold. "
        )
    wrong = _wrong_options(source, model)
    if "scale" in wrong or "center" in wrong:
        yield f"Build the model with norm_options={dict(source.norm_options)!r}. "


def _has_norm(names: Iterable[str]) -> bool:
    return any(name.endswith("_norm") for name in names)


def _messages(source: Source, model: keras.Model, made: Plan) -> Iterator[str]:
    """What a user should know of a successful loading."""
    if made.fresh:
        yield (
            f"{', '.join(made.fresh)} of {model.name!r} got no weights from {source.name}, which "
            "has none that fit: train them."
        )
    wrong = _wrong_options(source, model)
    if wrong:
        yield (
            f"The normalization layers of {model.name!r} have {wrong!r}, the model of "
            f"{source.name} had {dict(source.norm_options)!r}: outputs will differ from its. Build "
            f"the model with norm_options={dict(source.norm_options)!r}."
        )


def _wrong_options(source: Source, model: keras.Model) -> dict[str, Any]:
    """The options of normalization layers that differ from those of the weights."""
    layers = [layer for layer in model.layers if layer.name.endswith("_norm")]
    return {
        option: getattr(layer, option)
        for option, value in source.norm_options.items()
        for layer in layers
        if hasattr(layer, option) and getattr(layer, option) != value
    }
