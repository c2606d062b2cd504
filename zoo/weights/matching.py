"""Matches the arrays of a file with the variables of a model."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from keras_renorm.layers import BatchNormalization
from keras_renorm.ops.maths.adaptive import EARLIER_ROWS, ROWS
from zoo.weights.hdf5 import StoredLayer

_HEAD = re.compile(r"(auxiliary_)?logits|auxiliary_.*")

Read = Callable[[], npt.NDArray[Any]]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a loading will do. Nothing is read or assigned yet.

    Attributes:
        assignments: Each variable, with a function that reads its value.
        layers: Names of the layers of these variables.
        fresh: Names of the layers that keep their weights.
        unused: Names of the file's layers that the model does not have.
        folded: Names of the convolutions whose bias goes into the normalization after them.
        problems: What does not fit, a line each.
    """

    assignments: tuple[tuple[Any, Read], ...]
    layers: tuple[str, ...]
    fresh: tuple[str, ...]
    unused: tuple[str, ...]
    folded: tuple[str, ...]
    problems: tuple[str, ...]


def is_head(name: str) -> bool:
    """Whether a layer is one of the classifiers, which may stay as they are, or before the second.

    A model or a file may lack them.
    """
    return _HEAD.fullmatch(name) is not None


def plan(model: keras.Model, stored: Mapping[str, StoredLayer]) -> Plan:
    """Compares a file with a model.

    Args:
        model: The model.
        stored: The layers of the file, by the model's names.

    Returns:
        What fits, and what does not.
    """
    layers = {layer.name: layer for layer in model.layers if layer.weights}
    matcher = _Matcher(layers, stored)
    for name in layers:
        matcher.match(name)
    unused = [name for name in stored if name not in layers]
    problems = [
        f"{name}: the file has it, the model does not" for name in unused if not is_head(name)
    ]
    return Plan(
        tuple(matcher.assignments),
        tuple(name for name in layers if name not in matcher.fresh),
        tuple(matcher.fresh),
        tuple(unused),
        tuple(matcher.folded),
        tuple(matcher.problems + problems),
    )


class _Matcher:
    """Collects what fits and what does not, layer by layer."""

    def __init__(self, layers: Mapping[str, Any], stored: Mapping[str, StoredLayer]) -> None:
        self._layers = layers
        self._stored = stored
        self.assignments: list[tuple[Any, Read]] = []
        self.fresh: list[str] = []
        self.folded: list[str] = []
        self.problems: list[str] = []

    def match(self, name: str) -> None:
        """Adds a layer of the model."""
        if name not in self._stored:
            if is_head(name):
                self.fresh.append(name)
            else:
                self.problems.append(f"{name}: the model has it, the file does not")
            return
        variables, arrays = _without_states(self._layers[name], self._stored[name])
        if is_head(name) and _other_classes(variables, arrays):
            self.fresh.append(name)
            return
        if self._folds(name):
            arrays = arrays[:1]
            self.folded.append(name)
        problem = _difference(variables, arrays, self._stored[name].names)
        if problem:
            self.problems.append(f"{name}: {problem}")
        for variable, array in zip(variables, arrays, strict=False):
            self.assignments.append((variable, self._reader(name, variable, array)))

    def _folds(self, name: str) -> bool:
        """Whether a convolution has a bias in the file and only a normalization in the model."""
        norm = _norm_of(name)
        return (
            norm in self._layers
            and norm in self._stored
            and name in self._layers
            and len(self._layers[name].weights) == 1
            and len(self._stored[name].weights) == 2
        )

    def _reader(self, name: str, variable: Any, array: Any) -> Read:
        """What reads an array; a moving mean takes in the bias of its convolution."""
        convolution = name.removesuffix("_norm") + "_conv"
        if variable.name != "moving_mean" or convolution not in self._stored:
            return lambda: np.asarray(array[()])
        if not self._folds(convolution):
            return lambda: np.asarray(array[()])
        bias = self._stored[convolution].weights[1]
        return lambda: np.asarray(array[()], np.float64) - np.asarray(bias[()], np.float64)


def _norm_of(name: str) -> str:
    """The normalization after a convolution."""
    return name.removesuffix("_conv") + "_norm"


def _without_states(layer: Any, stored: StoredLayer) -> tuple[list[Any], list[Any]]:
    """The weights of a layer and of the file, without the state of limits that only one has."""
    # `variables` also holds the state of a norm's limits, which is no weight.
    weights = layer.variables if isinstance(layer, BatchNormalization) else layer.weights
    (ours, own), (theirs, given) = map(_split, (weights, stored.weights))
    if _shapes(own) == _shapes(given):
        return list(weights), list(stored.weights)
    return ours, theirs


def _split(weights: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """The weights of a layer, and its counter or deviations, which its limits go by."""
    shapes = _shapes(list(weights))
    at = len(shapes)
    if at >= 4 and shapes[-1] == (2,) and shapes[-2][:1] in ((ROWS,), (EARLIER_ROWS,)):
        at -= 2
    at -= int(shapes[at - 1 : at] == [()])
    return list(weights[:at]), list(weights[at:])


def _other_classes(variables: list[Any], arrays: list[Any]) -> bool:
    """Whether two classifiers of the same features differ in their number of classes only."""
    ours, theirs = (_shapes(weights) for weights in (variables, arrays))
    return ours != theirs and [s[:-1] for s in ours] == [s[:-1] for s in theirs]


def _difference(variables: list[Any], arrays: list[Any], names: tuple[str, ...]) -> str:
    """What keeps arrays from being the values of variables; empty if nothing does."""
    expected = ", ".join(f"{v.name} {tuple(v.shape)}" for v in variables)
    named = names[: len(arrays)] if names else ("",) * len(arrays)
    got = ", ".join(f"{n} {a.shape}".strip() for n, a in zip(named, arrays, strict=True))
    fits = _shapes(variables) == _shapes(arrays) and all(
        _same_kind(v, a) and (not n or n == v.name)
        for v, a, n in zip(variables, arrays, named, strict=True)
    )
    return "" if fits else f"expected {expected}; got {got}"


def _same_kind(variable: Any, array: Any) -> bool:
    """Whether both are integers, or both are not; a counter may have been one."""
    if variable.name == "update_count":
        return True
    return (array.dtype.kind == "f") == keras.backend.is_float_dtype(variable.dtype)


def _shapes(weights: list[Any]) -> list[tuple[int, ...]]:
    return [tuple(weight.shape) for weight in weights]
