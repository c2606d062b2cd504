"""One contender of bench_norm.py: prepares settings and times them, as standard input asks.

A line of JSON is a setting, answered with true or null (cannot), or "time", answered with seconds.
"""

import ctypes
import functools
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

Step = Callable[[], Any]

EPSILON = 1e-3

_KEPT: list[Any] = []  # memory whose addresses are in use


def _random(shape: list[int], dtype: str) -> tuple[Any, Any]:
    """Returns x and dy."""
    import tensorflow as tf

    return tuple(tf.cast(tf.random.normal(shape), dtype) for _ in range(2))


def _native(shape: list[int], dtype: str, relu: bool) -> Step:
    """The kernels of this package, called directly."""
    import tensorflow as tf

    from keras_renorm.ops.xla import tensorflow_calls as calls

    x, dy = _random(shape, dtype)
    axis, one, zero = len(shape) - 1, tf.ones(shape[-1]), tf.zeros(shape[-1])
    limits = tf.constant(3.0), tf.constant(5.0)

    @tf.function(autograph=False)
    def step(x: Any, dy: Any) -> Any:
        y, saved, *_ = calls.forward(
            x, one, zero, zero, one, *limits, axis=axis, epsilon=EPSILON, relu=relu
        )
        return y, calls.backward(dy, x, saved, axis=axis, relu=relu)

    return lambda: step(x, dy)


def _fused(shape: list[int], dtype: str, relu: bool) -> Step:
    """Batch renorm by the fused kernel, called directly."""
    import tensorflow as tf

    from keras_renorm.ops import fused

    x, dy = _random(shape, dtype)
    one, zero = tf.ones(shape[-1]), tf.zeros(shape[-1])
    limits = tf.constant(3.0), tf.constant(5.0)

    @tf.function(autograph=False)
    def step(x: Any, dy: Any) -> Any:
        result = fused.forward(x, one, zero, zero, one, *limits, epsilon=EPSILON, relu=relu)
        return result.y, fused.backward(dy, result.saved, epsilon=EPSILON)

    if dtype != "float32":
        raise NotImplementedError
    return lambda: step(x, dy)


def _layer_step(layer: Any, shape: list[int], dtype: str, relu: bool) -> Step:
    """Forward and backward of a layer in training, with its update of the moving statistics.

    `relu` is one after the layer.
    """
    import tensorflow as tf

    x, dy = _random(shape, dtype)
    layer.build(x.shape)

    @tf.function(autograph=False)
    def step(x: Any, dy: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
            y = tf.nn.relu(y) if relu else y
        return y, tape.gradient(y, [x, *layer.trainable_variables], dy)

    return lambda: step(x, dy)


def _layer(shape: list[int], dtype: str, relu: bool) -> Step:
    """The layer of this package, by the lowering that it chooses."""
    from keras_renorm.layers import BatchRenormalization

    activation = "relu" if relu else None
    layer = BatchRenormalization(epsilon=EPSILON, activation=activation, dtype=_policy(dtype))
    return _layer_step(layer, shape, dtype, relu=False)


def _composite(shape: list[int], dtype: str, relu: bool) -> Step:
    """The layer of this package, in plain operations."""
    os.environ["KERAS_RENORM_LOWERING"] = "composite"
    return _layer(shape, dtype, relu)


def _keras(shape: list[int], dtype: str, relu: bool, renorm: bool = False) -> Step:
    """Keras's layer."""
    import keras

    layer = keras.layers.BatchNormalization(renorm=renorm, epsilon=EPSILON, dtype=_policy(dtype))
    return _layer_step(layer, shape, dtype, relu)


def _policy(dtype: str) -> str:
    """Keras's policy for layers that compute in a type and keep float32 variables."""
    return dtype if dtype == "float32" else f"mixed_{dtype}"


def _keras_renorm(shape: list[int], dtype: str, relu: bool) -> Step:
    """Keras's layer with renorm."""
    return _keras(shape, dtype, relu, renorm=True)


def _tf_fused(shape: list[int], dtype: str, relu: bool) -> Step:
    """TensorFlow's fused plain batch norm, and ReLU after it."""
    import tensorflow as tf

    x, dy = (tf.reshape(a, shape if len(shape) == 4 else [-1, 1, 1, shape[-1]])
             for a in _random(shape, dtype))  # fmt: skip
    one, zero = tf.ones(shape[-1]), tf.zeros(shape[-1])

    @tf.function(autograph=False)
    def step(x: Any, dy: Any) -> Any:
        y, _, _, *reserved = tf.raw_ops.FusedBatchNormV3(
            x=x, scale=one, offset=zero, mean=[], variance=[], epsilon=EPSILON
        )
        if relu:
            y = tf.nn.relu(y)
            dy = tf.raw_ops.ReluGrad(gradients=dy, features=y)
        spaces = {f"reserve_space_{i + 1}": space for i, space in enumerate(reserved)}
        return y, tf.raw_ops.FusedBatchNormGradV3(
            y_backprop=dy, x=x, scale=one, epsilon=EPSILON, **spaces
        )[:3]

    return lambda: step(x, dy)


def _torch(shape: list[int], dtype: str, relu: bool) -> Step:
    """The batch norm of torch, channels last where it has them."""
    import torch

    x = torch.randn(*shape).movedim(-1, 1).to(getattr(torch, dtype)).requires_grad_()
    dy = torch.randn(*shape).movedim(-1, 1).to(getattr(torch, dtype))
    norm = torch.nn.BatchNorm1d if len(shape) < 4 else torch.nn.BatchNorm2d
    layer = norm(shape[-1], eps=EPSILON)

    def step() -> Any:
        y = layer(x)
        y = torch.relu(y) if relu else y
        return y, torch.autograd.grad(y, [x, *layer.parameters()], dy)

    return step


def _memory_speed() -> ctypes.CDLL:
    """memory_speed.c, compiled for this machine."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise NotImplementedError
    source = pathlib.Path(__file__).with_name("memory_speed.c")
    with tempfile.TemporaryDirectory() as folder:
        library = pathlib.Path(folder, "memory_speed.so")
        flags = ["-O3", "-march=native", "-shared", "-fPIC"]
        command = [compiler, *flags, "-o", str(library), str(source)]
        if subprocess.run(command, check=False).returncode != 0:  # a processor that is not x86
            raise NotImplementedError
        return ctypes.CDLL(str(library))


def _in_parts(shape: list[int], dtype: str, arrays: int) -> list[list[tuple[Any, int]]]:
    """Addresses and sizes of `arrays` tensors' parts, one for each core."""
    import numpy as np

    cores = len(os.sched_getaffinity(0))
    size = int(np.prod(shape)) * (4 if dtype == "float32" else 2) // (256 * cores) * 256
    tensors = [np.ones(size * cores + 64, np.uint8) for _ in range(arrays)]
    _KEPT[:] = tensors
    starts = [tensor.ctypes.data + -tensor.ctypes.data % 64 for tensor in tensors]
    return [[(ctypes.c_void_p(s + size * i), size) for i in range(cores)] for s in starts]


def _passes(shape: list[int], dtype: str, copies: int, reads: int) -> Step:
    """Copies, and reads alone, of a tensor, on all cores, by the faster way to copy."""
    memory = _memory_speed()
    source, target = _in_parts(shape, dtype, 2)
    pool = ThreadPoolExecutor(len(source))

    def work(copy: Any, i: int) -> None:
        for _ in range(copies):
            copy(target[i][0], source[i][0], ctypes.c_size_t(source[i][1]))
        for _ in range(reads):
            memory.read_all(source[i][0], ctypes.c_size_t(source[i][1]))

    def step(copy: Any) -> None:
        list(pool.map(functools.partial(work, copy), range(len(source))))

    ways = [functools.partial(step, way) for way in (memory.stream_copy, memory.plain_copy)]
    return min(ways, key=lambda way: min(_turn(way) for _ in range(5)))


def _floor(shape: list[int], dtype: str, relu: bool) -> Step:
    """Eight passes at the speed of copying: four copies of the tensor."""
    del relu
    return _passes(shape, dtype, copies=4, reads=0)


def _traffic(shape: list[int], dtype: str, relu: bool) -> Step:
    """The same eight passes as they are, six that read and two that write: reading is faster."""
    del relu
    return _passes(shape, dtype, copies=2, reads=4)


CONTENDERS = {
    "native": _native,
    "fused": _fused,
    "layer": _layer,
    "composite": _composite,
    "keras": _keras,
    "keras_renorm": _keras_renorm,
    "tf_fused": _tf_fused,
    "torch": _torch,
    "floor": _floor,
    "traffic": _traffic,
}


def _prepare(name: str, setting: dict[str, Any]) -> Step | None:
    """Returns the step of a setting, warm; None where this contender cannot do it."""
    try:
        step = CONTENDERS[name](setting["shape"], setting["dtype"], setting["relu"])
        for _ in range(3):
            step()
    except (ImportError, AttributeError, NotImplementedError):
        return None
    return step


def _turn(step: Step) -> float:
    """Seconds of a step, on average over about 20 ms.

    One before is not counted: it finds the caches full of another contender's data, and threads
    that have to be woken (about 1 ms, whatever the shape).
    """
    start = time.perf_counter()
    step()
    repeats = max(1, min(100, round(0.02 / (time.perf_counter() - start))))
    start = time.perf_counter()
    for _ in range(repeats):
        step()
    return (time.perf_counter() - start) / repeats


def main() -> None:
    """Answers requests until standard input ends."""
    step: Step | None = None
    for line in sys.stdin:
        request = json.loads(line)
        if request == "time":
            assert step is not None
            answer: Any = _turn(step)
        else:
            step = None  # frees the last setting's memory
            step = _prepare(sys.argv[1], request)
            answer = True if step is not None else None
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
