"""Kernels and memory traffic of a training step of a layer, counted without running it.

Two kinds of programs are counted: TensorFlow's graph as it runs on a GPU without XLA (the devices
are faked: nothing runs), and XLA's programs for `jit_compile=True` and for JAX, compiled for an
H100 and for the CPU. JAX's CUDA plugin compiles for a GPU that is described to it, TensorFlow's
programs, too, so that none needs to be there. Traffic is what the kernels that touch a tensor of
the input's size read and write there, in sizes of the input: "passes". It leaves out what a kernel
moves inside, such as cuDNN's own transposes and second reading. The gradient of the output is
given, so that XLA may compute parts of the backward pass beside the forward one. No time is
measured.

    pip install --no-deps jax-cuda12-plugin==X jax-cuda12-pjrt==X  # X: the version of jaxlib
    python tools/count_passes.py --write=docs/passes.md
"""

import argparse
import importlib.util
import json
import math
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from typing import Any
from unittest import mock

KINDS = {
    "BatchNormalization": "BatchNormalization",
    "BatchRenormalization": "BatchRenormalization, numbers as limits",
    "adaptive": "BatchRenormalization",
    "keras": "Keras",
    "keras_renorm": "Keras, `renorm=True`",
}
WAYS = {
    "fused": "TensorFlow, fused",
    "composite": "TensorFlow, composite",
    "xla_gpu": "TensorFlow, XLA, H100",
    "jax_gpu": "JAX, H100",
    "xla": "TensorFlow, XLA, CPU",
    "jax": "JAX, CPU",
}
DTYPES = ("float32", "mixed_float16")
# An H100 with 80 GB, in the words of XLA's GpuTargetConfigProto.
GPU = """
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
dnn_version_info { major: 9 minor: 7 }
runtime_version { major: 12 minor: 9 patch: 0 }
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_block_limit: 65536 registers_per_core_limit: 65536
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472 l2_cache_size: 52428800
  device_memory_size: 84929347584 memory_bandwidth: 3352320000000
}
"""
# What moves no data.
FREE = {
    *("Reshape", "Identity", "IdentityN", "StopGradient", "Placeholder", "Const", "Shape", "Size"),
    *("ExpandDims", "Squeeze", "ShapeN", "NoOp", "ReadVariableOp", "PreventGradient", "Fill"),
    *("parameter", "bitcast", "get-tuple-element", "tuple", "constant", "iota"),
    *("BroadcastTo", "ZerosLike"),
}
BYTES = {"f32": 4, "f16": 2, "bf16": 2, "f64": 8, "pred": 1, "s32": 4, "s64": 8, "u8": 1}
HLO_LINE = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = (.+?) ([\w-]+)\((.*?)\)(?:, |$)")
HLO_TYPE = re.compile(r"(\w+)\[([\d,]*)\]")


def made(kind: str, dtype: str, axis: int, shape: tuple[int, ...]) -> Any:
    """A built layer with a ReLU."""
    import keras

    from keras_renorm import layers

    layer_class: Callable[..., Any] = getattr(layers, kind, layers.BatchRenormalization)
    options: dict[str, Any] = {"r_max": 3.0, "d_max": 5.0} if kind == "BatchRenormalization" else {}
    if "keras" in kind:
        layer_class, options = keras.layers.BatchNormalization, {"renorm": kind == "keras_renorm"}
    else:
        options["activation"] = "relu"
    layer = layer_class(axis=axis, dtype=dtype, **options)
    layer.build((None, *shape[1:]))
    return layer


def called(layer: Any, x: Any) -> Any:
    """The output after a ReLU, which is inside of our layers."""
    import keras

    y = layer(x, training=True)
    return keras.ops.relu(y) if type(layer).__module__.startswith("keras.") else y


def step_of(layer: Any) -> Callable[..., Any]:
    """Forward and backward under TensorFlow."""
    import tensorflow as tf

    def step(x: Any, dy: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = called(layer, x)
        return y, tape.gradient(y, [x, layer.gamma, layer.beta], output_gradients=dy)

    return step


def total(kernels: Iterable[list[int]], size: int) -> tuple[int, float]:
    """How many kernels touch tensors of a size in bytes, and the passes of all."""
    touched = [[b for b in sizes if b >= size / 4] for sizes in kernels]
    touched = [sizes for sizes in touched if sizes]
    return len(touched), round(sum(map(sum, touched)) / size, 1)


def of_graph(graph: Any, size: int) -> tuple[int, float]:
    """The kernels of a graph that its results need, each operation being one.

    Those that repeat another count once, as TensorFlow merges them before it runs a graph.
    """
    results = [tensor.op for tensor in graph.outputs] + list(graph.control_outputs)
    needed, waiting = set(), results
    while waiting:
        op = waiting.pop()
        if op not in needed:
            needed.add(op)
            waiting += [*(tensor.op for tensor in op.inputs), *op.control_inputs]
    called_graphs = {op.type for op in needed if op.type.endswith("PartitionedCall")}
    assert not called_graphs, f"the graph calls others: {called_graphs}"
    first: dict[Any, Any] = {}  # tensors by name, each as the first that is equal to it
    kernels = []
    for op in (op for op in graph.get_operations() if op in needed):
        inputs = tuple(first[tensor.name] for tensor in op.inputs)
        key = op.name if op.op_def.is_stateful or op.type == "Placeholder" else of_op(op, inputs)
        for tensor in op.outputs:
            first[tensor.name] = first.setdefault((key, tensor.value_index), tensor.name)
        is_first = not op.outputs or first[op.outputs[0].name] == op.outputs[0].name
        if is_first and op.type not in FREE:
            inputs_read = op.outputs if op.type == "StridedSlice" else op.inputs  # no more of them
            tensors = [t for t in (*inputs_read, *op.outputs) if t.shape.rank]
            kernels.append([t.shape.num_elements() * t.dtype.size for t in tensors])
    return total(kernels, size)


def of_op(op: Any, inputs: tuple[Any, ...]) -> str:
    """What an operation computes, the same text for equal ones."""
    attributes = {name: str(value) for name, value in sorted(op.node_def.attr.items())}
    return f"{op.type} {inputs} {attributes}"


def instructions(text: str) -> Iterable[tuple[str, int, str, list[str], str]]:
    """Of each line of a computation: name, bytes of what it returns, kind, operands, the line."""
    for line in text.splitlines():
        found = HLO_LINE.match(line)
        if found is not None:
            name, types, kind, operands = found.groups()
            size = sum(
                BYTES.get(element, 4) * math.prod(int(n) for n in sizes.split(",") if n)
                for element, sizes in HLO_TYPE.findall(types)
            )
            yield name, size, kind, re.findall(r"%([\w.-]+)", operands) or [operands], line


def of_slices(computation: str) -> dict[int, int]:
    """The bytes that a computation reads of those parameters of which it takes slices only."""
    numbers: dict[str, int] = {}
    read: dict[int, list[float]] = {}
    for name, size, kind, operands, _ in instructions(computation):
        if kind == "parameter":
            numbers[name] = int(operands[0])
        elif kind == "convert" and operands[0] in numbers:  # element by element, where it is needed
            numbers[name] = numbers[operands[0]]
            continue
        for operand in operands:
            if operand in numbers:
                read.setdefault(numbers[operand], []).append(size if kind == "slice" else math.inf)
    return {number: int(sum(sizes)) for number, sizes in read.items() if math.inf not in sizes}


def of_hlo(text: str, size: int) -> tuple[int, float]:
    """The kernels of a compiled program: the instructions of its entry."""
    others, entry = text.split("ENTRY", 1)
    sliced = {part.split(" (")[0].strip(): of_slices(part) for part in others.split("\n\n")}
    known: dict[str, int] = {}
    kernels = []
    for name, own, kind, operands, line in instructions(entry):
        known[name] = own
        if kind in FREE:
            continue
        called_by = re.search(r"calls=(%[\w.-]+)", line)
        some = sliced[called_by[1]] if called_by else {0: own} if kind == "slice" else {}
        whole = [known.get(operand, 0) for operand in operands]
        kernels.append([own, *(some.get(i, read) for i, read in enumerate(whole))])
    return total(kernels, size)


def compiles_for_gpu() -> bool:
    """Whether JAX's CUDA plugin is there, and not another of its plugins alone."""
    return all(map(importlib.util.find_spec, ("jax_plugins", "jax_plugins.xla_cuda12")))


def gpu() -> Any:
    """A GPU that XLA compiles for, and that is not there."""
    from jax.experimental import topologies

    return topologies.get_topology_desc("", "cuda", target_config=GPU, topology="1x1x1").devices[0]


def compiled_for_gpu(program: bytes) -> str:
    """A program of TensorFlow's, serialized before XLA compiles it, as XLA compiles it for a GPU.

    TensorFlow compiles for devices that are there alone, and JAX gives strangers' programs no
    public way to its compiler.
    """
    from jax._src import compiler
    from jax._src.interpreters import mlir
    from jax._src.lib import _jax
    from jaxlib.mlir import ir

    def found(op: Any) -> Any:
        if op.name == "mhlo.copy":
            copies.append(op)
        return ir.WalkResult.ADVANCE

    copies: list[Any] = []
    device = gpu()
    with mlir.make_ir_context():
        module = ir.Module.parse(_jax.mlir.hlo_to_stablehlo(program))
        module.operation.walk(found)
        for op in copies:  # of the new statistics, which JAX's compiler does not know
            op.results[0].replace_all_uses_with(op.operands[0])
            op.erase()
        options = compiler.get_compile_options(num_replicas=1, num_partitions=1)
        executable = device.client.compile(module, _jax.DeviceList((device,)), options)
    text: str = executable.hlo_modules()[0].to_string()
    return text


def tensorflow_counts(
    shape: tuple[int, ...], dtype: str, axis: int, for_gpu: bool = True
) -> dict[str, Any]:
    """The counts of each kind of layer, in each way that TensorFlow has."""
    import tensorflow as tf

    element = tf.float16 if "16" in dtype else tf.float32
    size = math.prod(shape) * element.size
    spec = tf.TensorSpec(shape, element)
    devices = [tf.config.PhysicalDevice("/physical_device:GPU:0", "GPU")]
    believed = mock.patch.object(
        tf.config, "get_visible_devices", lambda kind=None: devices if kind == "GPU" else []
    )
    counts: dict[str, Any] = {}
    for kind in KINDS:
        for way in ("fused", "composite", "xla"):
            forced = {"KERAS_RENORM_LOWERING": "composite"} if way == "composite" else {}
            with believed, mock.patch.dict(os.environ, forced):
                step = step_of(made(kind, dtype, axis, shape))
                run = tf.function(step, autograph=False, jit_compile=way == "xla")
                if way == "xla":
                    stage = run.experimental_get_compiler_ir(spec, spec)
                    counts[f"{kind} xla"] = of_hlo(stage(stage="optimized_hlo"), size)
                    if for_gpu:
                        text = compiled_for_gpu(stage(stage="hlo_serialized"))
                        counts[f"{kind} xla_gpu"] = of_hlo(text, size)
                else:
                    counts[f"{kind} {way}"] = of_graph(
                        run.get_concrete_function(spec, spec).graph, size
                    )
    return counts


def jax_counts(
    shape: tuple[int, ...], dtype: str, axis: int, for_gpu: bool = True
) -> dict[str, Any]:
    """The counts of each kind of layer under JAX, compiled for the CPU and for a GPU."""
    import jax

    element = "float16" if "16" in dtype else "float32"
    devices = {"jax": jax.devices()[0]} | ({"jax_gpu": gpu()} if for_gpu else {})
    counts: dict[str, Any] = {}
    for kind in KINDS:
        layer = made(kind, dtype, axis, shape)

        def step(trainable: Any, others: Any, x: Any, dy: Any, layer: Any = layer) -> Any:
            def output(trainable: Any, x: Any) -> Any:
                y, moved = layer.stateless_call(trainable, others, x, training=True)
                return jax.nn.relu(y) if "keras.src" in type(layer).__module__ else y, moved

            y, pull, moved = jax.vjp(output, trainable, x, has_aux=True)
            return y, moved, pull(dy)

        groups = layer.trainable_variables, layer.non_trainable_variables
        for way, device in devices.items():
            here = jax.sharding.SingleDeviceSharding(device)
            spec = jax.ShapeDtypeStruct(shape, element, sharding=here)
            given = [
                [jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=here) for v in group]
                for group in groups
            ]
            text = jax.jit(step).lower(*given, spec, spec).compile().as_text()
            counts[f"{kind} {way}"] = of_hlo(text, math.prod(shape) * spec.dtype.itemsize)
    return counts


def worker(
    backend: str, shape: tuple[int, ...], dtype: str, axis: int, for_gpu: bool = True
) -> dict[str, Any]:
    """Returns what a separate process counts under a backend."""
    arguments = ["--shape", "x".join(map(str, shape)), "--dtype", dtype, "--axis", str(axis)]
    arguments += [] if for_gpu else ["--no-gpu"]
    environment = {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": "cpu"}
    if backend == "jax":  # as on a GPU, where the library serves nobody
        environment["KERAS_RENORM_LOWERING"] = "composite"
    command = [sys.executable, __file__, *arguments, "--worker", backend]
    result = subprocess.run(
        command, env=os.environ | environment, stdout=subprocess.PIPE, text=True, check=True
    )
    counts: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return counts


def table(counts: dict[str, Any]) -> list[str]:
    """The lines of a table in Markdown: a row for each kind of layer, a column for each way."""
    lines = ["| | " + " | ".join(WAYS.values()) + " |", "|---|" + "---|" * len(WAYS)]
    for kind, title in KINDS.items():
        cells = [counts[f"{kind} {way}"] for way in WAYS]
        written = [f"{kernels}, {passes:g}" for kernels, passes in cells]
        lines.append(f"| {title} | " + " | ".join(written) + " |")
    return lines


def page(sections: dict[str, dict[str, Any]], shape: tuple[int, ...]) -> str:
    """The page: what was counted, a table for each section, and what was not measured."""
    text = __doc__ or ""
    lines = [
        "# Kernels and passes over memory, counted",
        "",
        "Written by `tools/count_passes.py`; not measured: no GPU was there, and nothing ran.",
        "",
        *text.split("\n\n", 1)[1].splitlines(),
        "",
        f"A layer of shape {'x'.join(map(str, shape))} (channels last) or the same elements with "
        "the channels first, then a ReLU, forward and backward. Each cell: kernels, passes. Keras "
        'has no fused batch norm: its two columns "fused" and "composite" are one.',
        "",
        "Masks, ghost batches and float64 take composite on a GPU. On the CPU, where it serves "
        "only where the native library does not, TensorFlow's XLA has ours move two passes more "
        "than Keras's layer in float32: it writes out x - shift before it sums it, which XLA for a "
        "GPU does not. Keras sums x, and a large mean loses digits.",
    ]
    for title, counts in sections.items():
        lines += ["", f"## {title}", "", *table(counts)]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Counts all and shows the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", default="32x56x56x64")
    parser.add_argument("--write", type=pathlib.Path, help="file to write the page to")
    parser.add_argument("--dtype", default="float32", help=argparse.SUPPRESS)
    parser.add_argument("--axis", type=int, default=-1, help=argparse.SUPPRESS)
    parser.add_argument("--no-gpu", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--worker", choices=("tensorflow", "jax"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    shape = tuple(map(int, options.shape.split("x")))
    if options.worker:
        count = {"tensorflow": tensorflow_counts, "jax": jax_counts}[options.worker]
        print(json.dumps(count(shape, options.dtype, options.axis, not options.no_gpu)))
        return
    if not compiles_for_gpu():
        parser.error("JAX's CUDA plugin is not installed: --help has the line that installs it")
    sections = {}
    for dtype in DTYPES:
        for axis, where in ((-1, "last"), (1, "first")):
            own = shape if axis == -1 else (shape[0], shape[-1], *shape[1:-1])
            parts = (worker(backend, own, dtype, axis) for backend in ("tensorflow", "jax"))
            sections[f"{dtype}, channels {where}"] = dict(p for part in parts for p in part.items())
    text = page(sections, shape)
    print(text)
    if options.write:
        options.write.write_text(text)


if __name__ == "__main__":
    main()
