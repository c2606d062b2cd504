"""TensorFlow."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_renorm.ops.backends.interface import (
    Backend,
    Collective,
    Differentiable,
    InferencePasses,
    Passes,
    PlainBackend,
    StepCalls,
)
from keras_renorm.ops.backends.tensorflow import calls, derivatives, passes, runtime
from keras_renorm.ops.backends.tensorflow.collective import StrategyReplicas
from keras_renorm.ops.backends.tensorflow.fused import InferenceKernel, TrainingKernel
from keras_renorm.ops.maths.operands import Arguments
from keras_renorm.ops.native import loader


class TensorFlow(PlainBackend):
    """See `keras_renorm.ops.backends.interface.Backend`."""

    fused = TrainingKernel()
    fused_inference = InferenceKernel()
    native_passes: Passes | None = passes
    prefers_plain_passes = True
    synchronizes = True

    def native_problem(self) -> str | None:
        """Why TensorFlow does not take the library, or None."""
        return loader.problem(runtime.register)

    def off_cpu(self) -> str | None:
        """An accelerator that is visible, unless a device scope says CPU."""
        devices = [d for kind in ("GPU", "TPU") for d in tf.config.get_visible_devices(kind)]
        if not devices or "CPU" in tf.constant(0.0).device.upper():
            return None
        return f"{devices[0].name} is visible and no device scope says CPU"

    def check_environment(self) -> None:
        """Raises unless KERAS_RENORM_CALLS is `xla` or unset."""
        runtime.always_for_xla()

    def step_calls(self, x: tf.Tensor) -> StepCalls | None:
        """The library's ops, or modules that XLA compiles."""
        return calls

    def inference_passes(
        self, x: tf.Tensor, *, portable: bool, demanded: bool
    ) -> InferencePasses | None:
        """The passes of training: a graph that is exported must not hold them."""
        return None if portable else passes

    def differentiable(
        self, function: Differentiable, arguments: Arguments, constants: Any
    ) -> tuple[tf.Tensor, ...]:
        """By `tf.custom_gradient`, twice."""
        return derivatives.apply(function, arguments, constants)

    def of_this_graph(self, tensors: Sequence[tf.Tensor]) -> tuple[tf.Tensor, ...]:
        """Copies where a graph is traced."""
        return derivatives.of_this_graph(tensors)

    def collective(self) -> Collective | None:
        """The replicas of the running strategy."""
        return StrategyReplicas.running()

    def is_traced(self, x: Any) -> bool:
        """Whether `x` is a tensor of a graph."""
        return keras.ops.is_tensor(x) and not hasattr(x, "numpy")


BACKEND: Backend = TensorFlow("tensorflow", "TensorFlow")
