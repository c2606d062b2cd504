"""Several sets of population statistics for one model, such as one for each domain."""

import copy
import os
import weakref
import zipfile
from collections.abc import Mapping
from typing import Any, TypeAlias

import keras
import numpy as np

from keras_renorm.models import batch_norms, require_layer
from keras_renorm.statistics import moving_statistics

#: The statistics of all batch norms of a model: arrays by `number/path of the layer/weight`.
StatisticsSet: TypeAlias = dict[str, np.ndarray]

# The floats that NumPy's files hold. Others, such as bfloat16, come back as bare bytes.
_OF_NUMPY = ("float16", "float32", "float64")

# A damaged file may seem encrypted, compressed in an unknown way, or to point elsewhere.
_DAMAGED = (ValueError, TypeError, EOFError, OSError, RuntimeError, zipfile.BadZipFile)

_SETS: weakref.WeakKeyDictionary[Any, dict[str, StatisticsSet]] = weakref.WeakKeyDictionary()


def save_set(model: keras.layers.Layer, name: str) -> StatisticsSet:
    """Keeps the present population statistics of `model` under `name`.

    A network on another domain often needs only the statistics of that domain. Estimate them with
    `precise`, keep both sets, and switch. A set holds no gamma, beta or counter, and nothing of
    what adaptive limits have seen.

    Args:
        model: A model or layer that holds batch norms.
        name: The name, not empty and without a "/". It replaces a set of the same name.

    Returns:
        The set, as NumPy arrays. It is a copy, so you may change it or hand it to `use_set`.

    Raises:
        TypeError: If `name` is not a string, or `model` not a Keras model or layer.
        ValueError: If `name` is empty or holds a "/", or the model holds no batch norm, or one
            without weights.

    Example:
        >>> statistics.save_set(model, "day")
        >>> statistics.precise(model, night_images, num_samples=1_000)
        >>> statistics.save_set(model, "night")
        >>> statistics.use_set(model, "day")

    Source: Wu & Johnson 2021, section 5.
    """
    _check_name(name)
    arrays = _read(model)
    _SETS.setdefault(model, {})[name] = arrays
    return copy.deepcopy(arrays)


def use_set(model: keras.layers.Layer, statistics_set: str | Mapping[str, np.ndarray]) -> None:
    """Gives `model` the population statistics of a set.

    Training goes on from these statistics, and adaptive limits begin again: see
    `BatchRenormalization.trust_statistics`.

    Args:
        model: A model or layer that holds batch norms.
        statistics_set: The name of a set that `save_set` or `read_sets` keeps for this model, or
            a set itself. It fits a model with as many batch norms, of the same kinds and numbers
            of channels in the same order. The layers' names may differ.

    Raises:
        TypeError: If `statistics_set` is neither a name nor a set.
        KeyError: If there is no set of this name.
        ValueError: If the set does not fit the model, which then stays as it is.
    """
    if isinstance(statistics_set, str):
        statistics_set = _named(model, statistics_set)
    if not isinstance(statistics_set, Mapping):
        raise TypeError(
            "`statistics_set` must be the name of a set or a set, as `save_set` returns it; "
            f"received {statistics_set!r} of type {type(statistics_set).__name__}. Keep the "
            'statistics with `save_set(model, "day")`, then write `use_set(model, "day")`.'
        )
    arrays = iter(_fitting(model, statistics_set).values())
    for layer in batch_norms(model):
        moving_statistics.write(
            layer, {name: next(arrays) for name in moving_statistics.variables(layer)}
        )


def sets(model: keras.layers.Layer) -> dict[str, StatisticsSet]:
    """Copies of all sets that are kept for `model`, by name."""
    return copy.deepcopy(_kept(model))


def write_sets(model: keras.layers.Layer, path: str | os.PathLike[str]) -> None:
    """Writes all sets that are kept for `model` to a new `.npz` file.

    `model.save` does not write them.

    Args:
        model: A model with sets.
        path: The new file. Its name must end in `.npz`.

    Raises:
        TypeError: If `model` is no model or layer, or `path` no path.
        ValueError: If there are no sets, or `path` does not end in `.npz`.
        FileExistsError: If the file exists.
    """
    kept = _kept(model)
    if not kept:
        raise ValueError(
            f"No set of statistics is kept for the model {model.name!r}. Keep one first: "
            "`keras_renorm.statistics.save_set(model, name)`."
        )
    path = _path(path)
    if not path.endswith(".npz"):
        raise ValueError(f"`path` must end in '.npz', received {path!r}.")
    arrays: dict[str, Any] = {
        f"{name}/{key}": array
        for name, statistics_set in kept.items()
        for key, array in statistics_set.items()
    }
    with open(path, "xb") as file:
        try:
            np.savez(file, **arrays)
        except BaseException:
            os.remove(path)  # or a second attempt would meet half a file
            raise


def read_sets(model: keras.layers.Layer, path: str | os.PathLike[str]) -> list[str]:
    """Reads the sets from a file of `write_sets`, and keeps them for `model`.

    Args:
        model: A model that the sets fit; see `use_set`.
        path: The file.

    Returns:
        The names of the sets. They replace sets of the same names.

    Raises:
        TypeError: If `model` is no model or layer, or `path` no path.
        FileNotFoundError: If there is no such file.
        ValueError: If `write_sets` did not write the file, or a set in it does not fit the model.
            Then no set is kept.
    """
    require_layer(model)
    found = _load(_path(path))
    found = {name: _fitting(model, arrays) for name, arrays in found.items()}
    _SETS.setdefault(model, {}).update(found)
    return list(found)


def _kept(model: Any) -> dict[str, StatisticsSet]:
    require_layer(model)
    return _SETS.get(model, {})


def _path(path: Any) -> str:
    if not isinstance(path, str | os.PathLike):
        raise TypeError(
            f"`path` must be the path of a file, received {path!r} of type {type(path).__name__}. "
            "Write e.g. 'statistics.npz'."
        )
    return os.fspath(path)


def _read(model: keras.layers.Layer) -> StatisticsSet:
    arrays = {}
    for number, layer in enumerate(batch_norms(model)):
        moving_statistics.require_weights(layer)
        for name, variable in moving_statistics.variables(layer).items():
            value = np.array(keras.ops.convert_to_numpy(variable))
            if value.dtype not in _OF_NUMPY:
                value = value.astype("float32")
            arrays[f"{number}/{layer.path}/{name}"] = value
    return arrays


def _load(path: str) -> dict[str, StatisticsSet]:
    found: dict[str, StatisticsSet] = {}
    # Opened here, because NumPy leaves a file open that it cannot read.
    with open(path, "rb") as file:
        try:
            with np.load(file, allow_pickle=False) as archive:
                if not archive.files:
                    raise ValueError("it is empty")
                for key in archive.files:
                    name, _, rest = key.partition("/")
                    found.setdefault(name, {})[rest] = archive[key]
        except _DAMAGED as error:
            raise ValueError(
                f"The file {path!r} holds no sets of statistics: it is empty, damaged, or no "
                "archive of NumPy arrays. Write it with `keras_renorm.statistics.write_sets`."
            ) from error
    return found


def _check_name(name: Any) -> None:
    if not isinstance(name, str):
        raise TypeError(
            f"`name` must be a string, received {name!r} of type {type(name).__name__}. Write e.g. "
            "'day'."
        )
    if not name or "/" in name:
        raise ValueError(
            f"`name` must not be empty nor hold a '/', received {name!r}. Write e.g. 'day'."
        )


def _named(model: keras.layers.Layer, name: str) -> StatisticsSet:
    kept = _kept(model)
    if name not in kept:
        raise KeyError(
            f"No set of statistics named {name!r} is kept for the model {model.name!r}; there are "
            f"{list(kept)}. Keep one with `keras_renorm.statistics.save_set(model, {name!r})`."
        )
    return kept[name]


def _fitting(model: keras.layers.Layer, arrays: Mapping[str, np.ndarray]) -> StatisticsSet:
    """`arrays` in the order of the numbers in their keys, if they are a set for `model`.

    Raises:
        ValueError: If they are none: other weights, of other shapes, or no numbers.
    """
    arrays = dict(sorted(arrays.items(), key=_number))
    misfit = _misfit(arrays, _read(model))
    if misfit:
        raise ValueError(
            f"The set does not fit the model {model.name!r}: {misfit}. The model is unchanged."
        )
    return arrays


def _misfit(arrays: StatisticsSet, own: StatisticsSet) -> str:
    """Why a set does not fit a model with its `own` arrays; empty if it does."""
    if len(arrays) != len(own):
        return f"it holds {len(arrays)} arrays, and the model's batch norms {len(own)}, {list(own)}"
    for (theirs, array), (ours, wanted) in zip(arrays.items(), own.items(), strict=True):
        if _weight(theirs) != _weight(ours) or np.shape(array) != wanted.shape:
            return (
                f"its {theirs!r} of shape {np.shape(array)} stands where the model has {ours!r} of "
                f"shape {wanted.shape}"
            )
        dtype = np.asarray(array).dtype
        if dtype.kind not in "fiu" and dtype.name != "bfloat16":
            return f"its {theirs!r} holds {dtype}, and no real numbers"
    return ""


def _number(item: tuple[str, Any]) -> int:
    """3 of `3/path/of/layer/moving_mean`, whose weights stay in their order; 0 of another key."""
    number = str(item[0]).partition("/")[0]
    return int(number) if number.isdecimal() else 0


def _weight(key: str) -> str:
    """`moving_mean` of `3/path/of/layer/moving_mean`."""
    return str(key).rpartition("/")[2]
