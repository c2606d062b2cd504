"""Forward passes that give the moments of what every batch norm receives.

The model's own call runs, in inference mode, and each batch norm's call is wrapped. The statistics
that the batch norms use are given to the pass in the place of the weights: so a pass changes no
variable of the model, whatever happens in it.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import keras
import numpy as np

from keras_renorm import ops
from keras_renorm.keras_internals import attached_mask
from keras_renorm.statistics import batches, norms
from keras_renorm.typing import Tensor

#: Count, mean and variance of what a batch norm received in one call on one replica, `[C]` each.
Call: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray]


class Pass:
    """A function of inputs and statistics; compiled, unless the model runs eagerly.

    Args:
        model: The model.
        layers: The batch norms whose inputs to look at.
        at_once: Whether each of them normalises with the moments of the batch that it is called
            with, instead of the statistics that are given. All examples must be in that batch.

    Attributes:
        order: The numbers of the batch norms that are called, in the order of the calls. Known
            after a pass.
    """

    def __init__(self, model: Any, layers: Sequence[Any], *, at_once: bool = False) -> None:
        self._model = model
        self._layers = list(layers)
        self._at_once = at_once
        self.order: list[int] = []
        self._variables = [v for one in layers for v in norms.variables(one).values()]
        # A thread for each replica, of which one may be half through while another starts.
        self._here = threading.local()
        self._run = self._runner()

    def hooks(self) -> Iterator[tuple[Any, str, Callable[..., Any]]]:
        """The hooks that must be in place in calls of this."""
        for number, layer in enumerate(self._layers):
            yield layer, "call", self._recording(number, layer)

    def __call__(
        self, x: Any, size: int, statistics: Sequence[dict[str, np.ndarray]]
    ) -> list[list[Call]]:
        """The moments in one batch, for each batch norm of its calls on all replicas.

        Args:
            x: The model's inputs, arrays.
            size: The number of examples in them.
            statistics: For each batch norm the values of its `norms.variables`.
        """
        arrays = (array for one in statistics for array in one.values())
        values = [
            array.astype(norms.dtype(variable))
            for variable, array in zip(self._variables, arrays, strict=True)
        ]
        recorded = self._run(x, size, values)
        return [[part for call in calls for part in _parts(call)] for calls in recorded]

    def _recording(self, number: int, layer: Any) -> Callable[..., Any]:
        """The call of `layer` that also records the moments of its inputs."""
        own = layer.call

        def call(
            inputs: Tensor, training: bool | None = None, mask: Tensor | None = None, **kwargs: Any
        ) -> Tensor:
            self._check_place(layer)
            if mask is None:  # Keras hands it over only where a layer has one tensor argument.
                mask = attached_mask(inputs)
            moments = _moments(layer, inputs, mask, kwargs.get("domain"))
            moments = moments._replace(count=moments.count * self._here.weight)
            if self._at_once:
                moments = self._used(layer, moments)
            rows = [moments.count, moments.mean, moments.mean_remainder, moments.variance]
            self._here.calls[number].append(keras.ops.stack(rows))
            self._here.order.append(number)
            return own(inputs, training=training, mask=mask, **kwargs)

        return call

    @staticmethod
    def _used(layer: Any, moments: ops.Moments) -> ops.Moments:
        """What `layer` normalises with in this pass: `moments`, of all replicas, as rounded."""
        replicas = ops.Replicas.running()
        merged = replicas.merge(moments) if replicas else moments
        for variable, value in [
            (layer.moving_mean, merged.mean),
            (layer.moving_variance, merged.variance),
        ]:
            # In a StatelessScope this assigns for the rest of the scope.
            variable.assign(keras.ops.where(merged.count > 0, value, variable.value))
        return merged._replace(mean_remainder=keras.ops.zeros_like(merged.mean))

    def _check_place(self, layer: Any) -> None:
        """Raises inside a loop or a branch, from which nothing can be brought out."""
        if self._place() is not self._here.place:
            raise _in_a_loop(layer.path)

    @staticmethod
    def _place() -> Any:
        """What tells the graph of a loop's body from the one around it."""
        if keras.backend.backend() != "tensorflow":
            return None
        import tensorflow as tf

        return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()

    def _forward(
        self, x: Any, values: Sequence[Tensor], others: Sequence[Tensor] = (), weight: Any = 1.0
    ) -> Any:
        """For each batch norm its calls' moments, `[4, C]` each, with their counts weighted."""
        self._here.weight = weight
        self._here.calls = [[] for _ in self._layers]
        self._here.order = []
        self._here.place = self._place()
        mapping = [*zip(self._others(), others, strict=True)] if others else []
        mapping += zip(self._variables, values, strict=True)
        with keras.StatelessScope(state_mapping=mapping):
            self._model(x, training=False)
        self.order = self._here.order
        return self._here.calls

    def _others(self) -> list[Any]:
        """The model's other variables; under JAX, arguments of the compiled function."""
        own = {id(variable) for variable in self._variables}
        return [variable for variable in self._model.variables if id(variable) not in own]

    def _runner(self) -> Callable[[Any, int, list[np.ndarray]], Any]:
        backend = keras.backend.backend()
        if backend == "tensorflow":
            strategy = _strategy(self._variables[0])
            return self._on_replicas(strategy) if strategy else self._in_tensorflow()
        if backend == "jax":
            return self._in_jax()
        if backend == "torch":
            return self._in_torch()
        return lambda x, size, values: _with_replica_axis(self._forward(x, values))

    def _is_eager(self) -> bool:
        return bool(getattr(self._model, "run_eagerly", False))

    def _in_tensorflow(self) -> Callable[[Any, int, list[np.ndarray]], Any]:
        import tensorflow as tf

        def run(x: Any, values: list[Tensor]) -> Any:
            return _with_replica_axis(self._forward(x, values))

        if not self._is_eager():
            run = tf.function(run, autograph=False, reduce_retracing=True)
        return lambda x, size, values: run(_tensors(x), _tensors(values))

    def _in_torch(self) -> Callable[[Any, int, list[np.ndarray]], Any]:
        import torch

        def run(x: Any, size: int, values: list[np.ndarray]) -> Any:
            # With gradients the moments would keep all activations until the end of the pass.
            with torch.no_grad():
                return _with_replica_axis(self._forward(x, values))

        return run

    def _on_replicas(self, strategy: Any) -> Callable[[Any, int, list[np.ndarray]], Any]:
        """Each replica takes a part of the batch; all get the moments of all."""
        import tensorflow as tf

        def of_replica(own: Any, values: list[Tensor]) -> Any:
            replicas = ops.Replicas.running()
            recorded = self._forward(own[0], values, weight=own[1])
            return _gathered(replicas, recorded) if replicas else _with_replica_axis(recorded)

        @tf.function(autograph=False, reduce_retracing=True)
        def run(own: Any, values: list[Tensor]) -> Any:
            return strategy.run(of_replica, args=(own, values))

        def distributed(x: Any, size: int, values: list[np.ndarray]) -> Any:
            parts = batches.split(x, size, strategy.num_replicas_in_sync)
            own = strategy.experimental_distribute_values_from_function(
                lambda context: _tensors(parts[context.replica_id_in_sync_group])
            )
            results = run(own, _tensors(values))
            return keras.tree.map_structure(
                lambda value: strategy.experimental_local_results(value)[0], results
            )

        return distributed

    def _in_jax(self) -> Callable[[Any, int, list[np.ndarray]], Any]:
        import jax

        def run(x: Any, values: list[Tensor], others: list[Tensor]) -> Any:
            return _with_replica_axis(self._forward(x, values, others))

        compiled = run if self._is_eager() else jax.jit(run)

        def guarded(x: Any, size: int, values: list[np.ndarray]) -> Any:
            try:
                return compiled(x, values, [variable.value for variable in self._others()])
            except jax.errors.UnexpectedTracerError as error:
                raise _in_a_loop(self._model.name) from error

        return guarded


def _moments(layer: Any, inputs: Tensor, mask: Tensor | None, domain: Any) -> ops.Moments:
    """The moments of a call's inputs, in the shape of the statistics: `[C]`, or `[D, C]`."""
    mask = None if mask is None else keras.ops.expand_dims(mask, -1)
    if len(layer.moving_mean.shape) == 1:
        return ops.moments(inputs, layer.axis, mask)
    examples = (-1, *(1 for _ in inputs.shape[1:]))
    ids = keras.ops.broadcast_to(domain, (keras.ops.shape(inputs)[0],))
    rows = []
    for number in range(layer.moving_mean.shape[0]):
        own = keras.ops.reshape(ids == number, examples)
        own = own if mask is None else keras.ops.logical_and(own, mask)
        rows.append(ops.moments(inputs, layer.axis, own))
    return ops.Moments(*(keras.ops.stack(values) for values in zip(*rows, strict=True)))


def _parts(call: Tensor) -> list[Call]:
    """The replicas' moments in one call, from `[R, 4, ...]`; each mean with its remainder."""
    rows = keras.ops.convert_to_numpy(call).astype("float64")
    return [(count, mean + rest, variance) for count, mean, rest, variance in rows]


def _tensors(arrays: Any) -> Any:
    import tensorflow as tf

    return keras.tree.map_structure(tf.convert_to_tensor, arrays)


def _in_a_loop(path: str) -> ValueError:
    return ValueError(
        f"A batch norm is called in a loop or a branch of the compiled graph: at {path!r}. The "
        "statistics of its inputs cannot be brought out of there. Give the layer the whole "
        "sequence instead, or leave the layer out of `layers`."
    )


def _with_replica_axis(recorded: Any) -> Any:
    return [[keras.ops.expand_dims(rows, 0) for rows in calls] for calls in recorded]


def _gathered(replicas: ops.Replicas, recorded: Any) -> Any:
    """All replicas' moments, `[R, 4, C]` each, in one collective."""
    flat = [keras.ops.cast(keras.ops.reshape(r, (-1,)), "float64") for c in recorded for r in c]
    ends = np.cumsum([part.shape[0] for part in flat])[:-1].tolist()
    table = replicas.gather(keras.ops.concatenate(flat))
    # Of an empty list of ends Keras makes a float under TensorFlow.
    parts = iter(keras.ops.split(table, ends, axis=1) if ends else [table])
    return [[keras.ops.reshape(next(parts), (-1, *r.shape)) for r in c] for c in recorded]


def _strategy(variable: Any) -> Any:
    """The strategy of several replicas that a variable was made under; None if there is none."""
    strategy = getattr(variable.value, "distribute_strategy", None)
    return strategy if strategy is not None and strategy.num_replicas_in_sync > 1 else None
