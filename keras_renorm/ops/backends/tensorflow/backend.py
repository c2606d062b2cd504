"""TensorFlow."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_renorm.ops.backends.interface import Backend, Elsewhere, Ragged, by_numpy
from keras_renorm.ops.backends.kernels import InferencePasses, Passes, StepCalls
from keras_renorm.ops.backends.tensorflow import calls, derivatives, devices, runtime
from keras_renorm.ops.backends.tensorflow.collective import StrategyReplicas
from keras_renorm.ops.backends.tensorflow.fused import InferenceKernel, TrainingKernel
from keras_renorm.ops.backends.tensorflow.ragged import RaggedRows
from keras_renorm.ops.native import loader


class TensorFlow(Backend):
    """See `keras_renorm.ops.backends.interface.Backend`."""

    fused = TrainingKernel()
    fused_inference = InferenceKernel()
    prefers_plain_passes = True
    compiles = True
    synchronizes = True
    takes_strings = True
    untraced = (
        "Take out the tf.function around it, or run tf.config.run_functions_eagerly(True) before "
        "the gauge."
    )
    differentiable = staticmethod(derivatives.apply)
    of_this_graph = staticmethod(derivatives.of_this_graph)
    conditional = staticmethod(derivatives.conditional)

    def ragged(self, x: Any) -> Ragged | None:
        """The values of a `tf.RaggedTensor`, or None."""
        return RaggedRows(x) if isinstance(x, tf.RaggedTensor) else None

    def is_sparse(self, x: Any) -> bool:
        """Whether `x` is a `tf.SparseTensor` or `tf.IndexedSlices`."""
        return isinstance(x, tf.SparseTensor | tf.IndexedSlices)

    def required(self, x: tf.Tensor, holds: tf.Tensor, message: str) -> tf.Tensor:
        """`x` behind an assertion. XLA leaves the assertion out."""
        with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(holds), [message, x])]):
            return tf.identity(x)

    def native_problem(self) -> str | None:
        """Why TensorFlow does not take the library, or None.

        Raises:
            ValueError: If KERAS_RENORM_CALLS is neither `xla` nor unset.
        """
        runtime.always_for_xla()
        return loader.problem(runtime.register)

    def off_cpu(self) -> str | None:
        """The visible accelerator, unless a device scope says CPU."""
        found = devices.accelerator()
        return None if found is None else f"{found.name} is visible and no device scope says CPU"

    @property
    def elsewhere(self) -> Elsewhere:  # type: ignore[override]
        """On a GPU cuDNN, where it fits; on a TPU plain operations, which XLA compiles."""
        return "fused" if devices.on_gpu() else "composite"

    def step_calls(self, x: tf.Tensor) -> StepCalls | None:
        """The library's ops, or modules that XLA compiles."""
        return calls

    def native_passes(self, x: tf.Tensor) -> Passes | None:
        """The library's passes."""
        return calls

    def inference_passes(
        self, x: tf.Tensor, *, portable: bool, demanded: bool
    ) -> InferencePasses | None:
        """The passes of training, which an exported graph must not hold."""
        return None if portable else calls

    def at_once(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """NumPy in eager programs, or a `tf.function` if an accelerator is visible."""
        if not tf.executing_eagerly():
            return function
        if self.off_cpu() is None:
            return functools.partial(by_numpy, function)

        # NumPy would wait for the accelerator.
        def call(*tensors: Any, **settings: Any) -> Any:
            ranks = tuple(len(getattr(t, "shape", ())) for t in tf.nest.flatten(tensors))
            return _compiled(function, ranks)(*tensors, **settings)

        return call

    def replicas(self) -> StrategyReplicas | None:
        """The replicas of the running strategy, or None for a single one."""
        context = tf.distribute.get_replica_context()
        alone = context is None or context.num_replicas_in_sync == 1
        return None if alone else StrategyReplicas(context)

    def in_replica(self) -> bool:
        """Whether a `tf.distribute` strategy runs this."""
        return bool(tf.distribute.has_strategy() and tf.distribute.get_replica_context())

    def is_traced(self, x: Any) -> bool:
        """Whether `x` is a tensor of a graph."""
        return keras.ops.is_tensor(x) and not hasattr(x, "numpy")

    def graph(self) -> Any:
        """The default graph. A function and the body of a loop in it have different ones."""
        return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()

    def number_of_replicas(self, variables: Sequence[Any]) -> int:
        """The replicas of the strategy under which the variables were made."""
        strategy = _strategy(variables)
        return strategy.num_replicas_in_sync if strategy else 1

    def compiled(
        self, function: Callable[..., Any], variables: Sequence[Any], *, eager: bool
    ) -> Callable[[Sequence[Any], Any], Any]:
        """A `tf.function`, which reads the variables as they are."""

        def on_one(part: Any, shared: Any) -> Any:
            return function((), part, shared)

        strategy = _strategy(variables)
        if strategy:
            return _on_replicas(on_one, strategy)
        call = on_one if eager else tf.function(on_one, autograph=False, reduce_retracing=True)
        return lambda parts, shared: call(_tensors(*parts), _tensors(shared))


@functools.cache
def _compiled(function: Callable[..., Any], _: tuple[int, ...]) -> Callable[..., Any]:
    """A `tf.function` for each combination of ranks: one for several would not know the rank."""
    return tf.function(function, autograph=False, reduce_retracing=True)


def _on_replicas(
    function: Callable[[Any, Any], Any], strategy: Any
) -> Callable[[Sequence[Any], Any], Any]:
    """`Backend.compiled` for all replicas of a strategy."""

    @tf.function(autograph=False, reduce_retracing=True)
    def run(own: Any, shared: Any) -> Any:
        return strategy.run(function, args=(own, shared))

    def distributed(parts: Sequence[Any], shared: Any) -> Any:
        own = strategy.experimental_distribute_values_from_function(
            lambda context: _tensors(parts[context.replica_id_in_sync_group])
        )
        return keras.tree.map_structure(
            lambda value: strategy.experimental_local_results(value)[0],
            run(own, _tensors(shared)),
        )

    return distributed


def _strategy(variables: Sequence[Any]) -> Any:
    """The strategy of several replicas that made the variables, or None."""
    strategies = (getattr(one.value, "distribute_strategy", None) for one in variables)
    return next((one for one in strategies if one and one.num_replicas_in_sync > 1), None)


def _tensors(arrays: Any) -> Any:
    return keras.tree.map_structure(
        lambda x: x if tf.is_tensor(x) else tf.convert_to_tensor(x),  # ragged ones stay
        arrays,
    )


BACKEND = TensorFlow("tensorflow", "TensorFlow")
