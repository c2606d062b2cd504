"""One contender of bench_norm.py: prepares settings and times them, as standard input asks.

A line of JSON is a setting, answered with true or null (cannot), or "time", answered with seconds.
"""

import ctypes
import functools
import json
import math
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

Step = Callable[[], Any]
Function = Callable[[Any], Any]

EPSILON = 1e-3
TURN = 0.02  # seconds

_KEPT: list[Any] = []  # memory whose addresses are in use


class Setting(NamedTuple):
    """What to normalise: `layers` times, one after the other, each followed by a ReLU or not."""

    shape: list[int]
    dtype: str
    relu: bool
    layers: int = 1

    @property
    def policy(self) -> str:
        """Keras's policy for layers that compute in the type and keep float32 variables."""
        return self.dtype if self.dtype == "float32" else f"mixed_{self.dtype}"


def _tensorflow_step(setting: Setting, functions: list[Function]) -> Step:
    """Forward and backward of functions, one after the other, in a graph."""
    import tensorflow as tf

    x, dy = (tf.cast(tf.random.normal(setting.shape), setting.dtype) for _ in range(2))

    @tf.function(autograph=False)
    def step(x: Any, dy: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = x
            for function in functions:
                y = function(y)
        return y, tape.gradient(y, [x, *tape.watched_variables()], dy)

    return lambda: step(x, dy)


def _jax_step(setting: Setting, layers: list[Any], relu: bool) -> Step:
    """Forward and backward of Keras layers, with their moving statistics, compiled by JAX."""
    import jax

    keys = jax.random.split(jax.random.key(0))
    x, dy = (jax.random.normal(key, setting.shape, setting.dtype) for key in keys)
    trained = [[v.value for v in layer.trainable_variables] for layer in layers]
    moving = [[v.value for v in layer.non_trainable_variables] for layer in layers]

    @jax.jit
    def step(trained: Any, moving: Any, x: Any, dy: Any) -> Any:
        def forward(trained: Any, x: Any) -> Any:
            updated = []
            for i, layer in enumerate(layers):
                x, after = layer.stateless_call(trained[i], moving[i], x, training=True)
                x = jax.nn.relu(x) if relu else x
                updated.append(after)
            return x, updated

        y, pull_back, updated = jax.vjp(forward, trained, x, has_aux=True)
        return y, updated, pull_back(dy)

    return lambda: jax.block_until_ready(step(trained, moving, x, dy))


def _torch_step(setting: Setting, layers: list[Any], relu: bool) -> Step:
    """Forward and backward of Keras layers, with their moving statistics, by PyTorch."""
    import torch

    dtype = getattr(torch, setting.dtype)
    device = layers[0].moving_mean.value.device
    x, dy = (torch.randn(*setting.shape, dtype=dtype, device=device) for _ in range(2))
    sources = [x.requires_grad_()]
    sources += [v.value for layer in layers for v in layer.trainable_variables]

    def step() -> Any:
        y = x
        for layer in layers:
            y = layer(y, training=True)
            y = torch.relu(y) if relu else y
        return y, torch.autograd.grad(y, sources, dy)

    return step


def _keras_step(setting: Setting, layer: Callable[..., Any], relu: bool) -> Step:
    """Forward and backward of Keras layers in training, with their moving statistics.

    `relu` adds one after the layer.
    """
    import keras

    layers = [layer(epsilon=EPSILON, dtype=setting.policy) for _ in range(setting.layers)]
    for one in layers:
        one.build(setting.shape)
    if keras.backend.backend() == "jax":
        return _jax_step(setting, layers, relu)
    if keras.backend.backend() == "torch":
        return _torch_step(setting, layers, relu)
    import tensorflow as tf

    def function(layer: Any, x: Any) -> Any:
        y = layer(x, training=True)
        return tf.nn.relu(y) if relu else y

    return _tensorflow_step(setting, [functools.partial(function, one) for one in layers])


def _layer(setting: Setting, adaptive: bool = False) -> Step:
    """The layer of this package, by the lowering that it chooses.

    It has the paper's limits, which follow from a count alone, or those that adapt.
    """
    from keras_renorm import schedules
    from keras_renorm.layers import BatchRenormalization

    limits = {"r_max": schedules.PAPER_R_MAX, "d_max": schedules.PAPER_D_MAX}
    options: dict[str, Any] = {} if adaptive else limits
    activation = "relu" if setting.relu else None
    layer = functools.partial(BatchRenormalization, activation=activation, **options)
    return _keras_step(setting, layer, relu=False)


def _lowered(name: str, setting: Setting) -> Step:
    """The layer of this package, by one lowering."""
    os.environ["KERAS_RENORM_LOWERING"] = name
    from keras_renorm import ops

    if ops.lowering().name != name:
        raise NotImplementedError
    if name == "fused" and setting.dtype != "float32":  # it would be composite
        raise NotImplementedError
    return _layer(setting)


def _keras(setting: Setting, renorm: bool = False) -> Step:
    """Keras's layer."""
    import keras

    layer = functools.partial(keras.layers.BatchNormalization, renorm=renorm)
    return _keras_step(setting, layer, setting.relu)


def _under(backend: str, contender: Callable[[Setting], Step], setting: Setting) -> Step:
    """A contender that is a Keras layer, under a backend."""
    os.environ["KERAS_BACKEND"] = backend
    return contender(setting)


def _tf_fused(setting: Setting) -> Step:
    """TensorFlow's fused plain batch norm, and ReLU after it."""
    import tensorflow as tf

    *positions, channels = setting.shape
    if len(positions) != 3:
        setting = setting._replace(shape=[math.prod(positions), 1, 1, channels])

    def function(scale: Any, offset: Any, x: Any) -> Any:
        y, *_ = tf.raw_ops.FusedBatchNormV3(
            x=x, scale=scale, offset=offset, mean=[], variance=[], epsilon=EPSILON
        )
        return tf.nn.relu(y) if setting.relu else y

    weights = [[tf.Variable(make([channels])) for make in (tf.ones, tf.zeros)]
               for _ in range(setting.layers)]  # fmt: skip
    return _tensorflow_step(setting, [functools.partial(function, *each) for each in weights])


def _torch(setting: Setting) -> Step:
    """The batch norm of torch, channels last where it has them."""
    import torch

    dtype = getattr(torch, setting.dtype)
    x = torch.randn(*setting.shape).movedim(-1, 1).to(dtype).requires_grad_()
    dy = torch.randn(*setting.shape).movedim(-1, 1).to(dtype)
    norm = torch.nn.BatchNorm1d if len(setting.shape) < 4 else torch.nn.BatchNorm2d
    net = torch.nn.Sequential()
    for _ in range(setting.layers):
        net.append(norm(setting.shape[-1], eps=EPSILON))
        if setting.relu:
            net.append(torch.nn.ReLU())

    def step() -> Any:
        y = net(x)
        return y, torch.autograd.grad(y, [x, *net.parameters()], dy)

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


def _passes(setting: Setting, copies: int, reads: int) -> Step:
    """Copies, and reads alone, of a tensor, on all cores, by the faster way to copy."""
    memory = _memory_speed()
    source, target = _in_parts(setting.shape, setting.dtype, 2)
    pool = ThreadPoolExecutor(len(source))

    def work(copy: Any, i: int) -> None:
        for _ in range(copies * setting.layers):
            copy(target[i][0], source[i][0], ctypes.c_size_t(source[i][1]))
        for _ in range(reads * setting.layers):
            memory.read_all(source[i][0], ctypes.c_size_t(source[i][1]))

    def step(copy: Any) -> None:
        list(pool.map(functools.partial(work, copy), range(len(source))))

    ways = [functools.partial(step, way) for way in (memory.stream_copy, memory.plain_copy)]
    return min(ways, key=lambda way: min(_average(way, 0) for _ in range(5)))


CONTENDERS: dict[str, Callable[[Setting], Step]] = {
    "native": functools.partial(_under, "tensorflow", functools.partial(_lowered, "native")),
    "fused": functools.partial(_under, "tensorflow", functools.partial(_lowered, "fused")),
    "composite": functools.partial(_under, "tensorflow", functools.partial(_lowered, "composite")),
    "adaptive": functools.partial(_under, "tensorflow", functools.partial(_layer, adaptive=True)),
    "keras": functools.partial(_under, "tensorflow", _keras),
    "keras_renorm": functools.partial(_under, "tensorflow", functools.partial(_keras, renorm=True)),
    "tf_fused": _tf_fused,
    "torch": _torch,
    "jax": functools.partial(_under, "jax", _layer),
    "jax_adaptive": functools.partial(_under, "jax", functools.partial(_layer, adaptive=True)),
    "jax_keras": functools.partial(_under, "jax", _keras),
    "jax_keras_renorm": functools.partial(_under, "jax", functools.partial(_keras, renorm=True)),
    "torch_layer": functools.partial(_under, "torch", _layer),
    "torch_keras": functools.partial(_under, "torch", _keras),
    # Eight passes at the speed of copying: four copies of the tensor.
    "floor": functools.partial(_passes, copies=4, reads=0),
    # The same as they are, six that read and two that write: reading is faster.
    "traffic": functools.partial(_passes, copies=2, reads=4),
}


def _prepare(name: str, setting: Setting) -> Step | None:
    """Returns the step of a setting, warm; None where this contender cannot do it."""
    try:
        step = CONTENDERS[name](setting)
        for _ in range(3):
            step()
    except (ImportError, NotImplementedError):
        return None
    return step


def _average(step: Step, seconds: float) -> float:
    """Seconds of a step, on average over at least as many seconds, and at least one step."""
    start = time.perf_counter()
    steps = 0
    while steps == 0 or time.perf_counter() - start < seconds:
        step()
        steps += 1
    return (time.perf_counter() - start) / steps


def _turn(step: Step) -> float:
    """Seconds of a step in a loop of them, as in training.

    A process that has waited for its turn starts slowly: its caches are full of another's data, its
    threads have to be woken, and a virtual machine's cores, which it has let go, wake up to 50 us
    later than in the middle of work. So a turn's first half does not count.
    """
    _average(step, TURN)
    return _average(step, TURN)


def main() -> None:
    """Answers requests until standard input ends."""
    step: Step | None = None
    setting = None
    for line in sys.stdin:
        request = json.loads(line)
        if request == "time":
            assert step is not None
            assert setting is not None
            answer: Any = _turn(step) / setting.layers
        else:
            step = None  # frees the last setting's memory
            setting = Setting(**request)
            step = _prepare(sys.argv[1], setting)
            answer = True if step is not None else None
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
