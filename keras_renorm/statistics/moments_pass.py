"""Forward passes that give the moments of every batch norm's inputs.

The model's own call runs in inference mode, and each batch norm's call is wrapped. The pass gets
the batch norms' statistics in the place of their weights. So it changes no variable of the model,
whatever happens in it.
"""

import contextlib
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import keras
import numpy as np

from keras_renorm import models, ops
from keras_renorm.keras_internals import attached_mask
from keras_renorm.layers.inputs import taken
from keras_renorm.ops import backends
from keras_renorm.ops.domains import narrowed
from keras_renorm.statistics import batches, moving_statistics
from keras_renorm.typing import Tensor

#: Count, mean and variance of a batch norm's inputs in one call on one replica, `[C]` each.
Received: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray]


class MomentsPass:
    """A function of inputs and statistics; compiled, unless the model runs eagerly.

    Args:
        model: The model.
        layers: The batch norms whose inputs to look at.
        at_once: Whether each batch norm normalises with the moments of its batch, instead of the
            given statistics. All examples must be in that batch.

    Attributes:
        order: The numbers of the batch norms that were called, in the order of the calls. A pass
            sets it.
    """

    def __init__(self, model: Any, layers: Sequence[Any], *, at_once: bool = False) -> None:
        self._model = model
        self._layers = list(layers)
        self._at_once = at_once
        self.order: list[int] = []
        self._variables = [v for one in layers for v in moving_statistics.variables(one).values()]
        # Each replica has a thread, and one may be half through while another starts.
        self._here = threading.local()
        self._backend = backends.current()
        self._replicas = self._backend.number_of_replicas(self._variables)
        self._run = self._backend.compiled(
            self._forward, model.variables, eager=bool(getattr(model, "run_eagerly", False))
        )

    def watching(self) -> contextlib.AbstractContextManager[None]:
        """The context in which this must be called."""
        return models.watched(dict.fromkeys(self._layers, self._record))

    def __call__(
        self, x: Any, size: int, statistics: Sequence[dict[str, np.ndarray]]
    ) -> list[list[Received]]:
        """The moments in one batch, for each batch norm of its calls on all replicas.

        Args:
            x: The model's inputs, arrays.
            size: The number of examples in them.
            statistics: For each batch norm the values of its `moving_statistics.variables`.
        """
        arrays = (array for one in statistics for array in one.values())
        values = [
            array.astype(moving_statistics.dtype(variable))
            for variable, array in zip(self._variables, arrays, strict=True)
        ]
        try:
            recorded = self._run(batches.split(x, size, self._replicas), values)
        except self._backend.leaks as error:
            raise _in_a_loop(self._model.name) from error
        return [[part for call in calls for part in _parts(call)] for calls in recorded]

    def _forward(self, state: Sequence[Any], part: tuple[Any, Any], values: Sequence[Any]) -> Any:
        """For each batch norm its calls' moments on all replicas, `[R, 4, C]` each."""
        x, self._here.weight = part
        self._here.calls = [[] for _ in self._layers]
        self._here.order = []
        self._here.graph = self._backend.graph()
        mapping = [*state, *zip(self._variables, values, strict=True)]
        with keras.StatelessScope(state_mapping=mapping):
            self._model(x, training=False)
        self.order = self._here.order
        return _on_all_replicas(self._here.calls, self._running())

    def _record(self, call: models.LayerCall) -> Any:
        """Makes the call, and records the moments of its inputs."""
        layer = call.layer
        if self._backend.graph() is not self._here.graph:
            raise _in_a_loop(layer.path)
        moments = moments_of(layer, *call.args, **call.kwargs)
        weight = keras.ops.cast(self._here.weight, moments.count.dtype)
        moments = moments._replace(count=moments.count * weight)
        if self._at_once:
            moments = self._used(layer, moments)
        rows = [moments.count, moments.mean, moments.mean_remainder, moments.variance]
        number = next(i for i, one in enumerate(self._layers) if one is layer)
        self._here.calls[number].append(keras.ops.stack(rows))
        self._here.order.append(number)
        return call.run()

    def _running(self) -> ops.Replicas | None:
        """The replicas that a batch is cut among. Each of PyTorch's processes makes a pass."""
        return ops.Replicas.running() if self._replicas > 1 else None

    def _used(self, layer: Any, moments: ops.Moments) -> ops.Moments:
        """Makes `layer` use the `moments` of all replicas in this pass; returns them as rounded."""
        replicas = self._running()
        merged = replicas.merge(moments) if replicas else moments
        for variable, value in [
            (layer.moving_mean, merged.mean),
            (layer.moving_variance, merged.variance),
        ]:
            # In a StatelessScope the value holds for the rest of the scope.
            variable.assign(keras.ops.where(merged.count > 0, value, variable.value))
        return merged._replace(mean_remainder=keras.ops.zeros_like(merged.mean))


def dense(
    layer: Any, inputs: Any, mask: Any
) -> tuple[Tensor, Tensor | None, int, Callable[[Any], Any]]:
    """What a call of a batch norm is of, as `ops.moments` takes it.

    Returns:
        The inputs, of a ragged batch their values; the mask, with the inputs' rank; the axis; and
        a function that gives what examples have, such as ids, for each of the inputs' rows.
    """
    # Keras hands the mask over only to a layer with one tensor argument.
    mask = attached_mask(inputs) if mask is None else mask
    given = taken(inputs, mask, layer.axis, layer.moving_mean.shape[-1])
    full = None if given.mask is None else keras.ops.expand_dims(given.mask, -1)
    return given.x, full, given.axis, lambda each: given.by_value(keras.ops.convert_to_tensor(each))


def moments_of(
    layer: Any,
    inputs: Tensor,
    training: bool | None = None,
    mask: Tensor | None = None,
    domain: Any = None,
    **_others: Any,
) -> ops.Moments:
    """The moments of a call's inputs, in the shape of the statistics: `[C]`, or `[D, C]`.

    A subclass of the layer may take other arguments.
    """
    x, mask, axis, by_value = dense(layer, inputs, mask)
    if len(layer.moving_mean.shape) == 1:
        return ops.moments(x, axis, mask)
    ids = keras.ops.broadcast_to(by_value(domain), (keras.ops.shape(x)[0],))
    domains = range(layer.moving_mean.shape[0])
    rows = [ops.moments(x, axis, narrowed(mask, ids == number, x)) for number in domains]
    return ops.Moments(*(keras.ops.stack(values) for values in zip(*rows, strict=True)))


def _parts(call: Tensor) -> list[Received]:
    """The replicas' moments in one call, from `[R, 4, ...]`; each mean with its remainder."""
    rows = keras.ops.convert_to_numpy(call).astype("float64")
    return [(count, mean + rest, variance) for count, mean, rest, variance in rows]


def _in_a_loop(path: str) -> ValueError:
    return ValueError(
        f"A batch norm is called in a loop or a branch of the compiled graph, at {path!r}. The "
        "statistics of its inputs cannot leave that graph. Give the layer the whole sequence "
        "instead, or leave the layer out of `layers`."
    )


def _on_all_replicas(recorded: Any, replicas: ops.Replicas | None) -> Any:
    """All replicas' moments, `[R, 4, C]` each, in one collective."""
    if replicas is None or not any(recorded):
        return [[keras.ops.expand_dims(rows, 0) for rows in calls] for calls in recorded]
    flat = [keras.ops.cast(keras.ops.reshape(r, (-1,)), "float64") for c in recorded for r in c]
    ends = np.cumsum([part.shape[0] for part in flat])[:-1].tolist()
    table = replicas.gather(keras.ops.concatenate(flat))
    # Keras turns an empty list of ends into floats under TensorFlow.
    parts = iter(keras.ops.split(table, ends, axis=1) if ends else [table])
    return [[keras.ops.reshape(next(parts), (-1, *r.shape)) for r in c] for c in recorded]
