import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("counts TensorFlow's graphs", allow_module_level=True)

import pathlib
import runpy

import tensorflow as tf

TOOL = runpy.run_path(str(pathlib.Path(__file__).parents[2] / "tools" / "count_passes.py"))
SHAPE = (8, 4, 4, 16)
SIZE = int(np.prod(SHAPE)) * 4


def test_a_graph_costs_what_its_needed_operations_read_and_write():
    def function(x):
        tf.exp(x)  # not needed
        doubled = tf.reshape(2 * x, [-1, 16])  # 2 passes, the number and the shape none
        return doubled + tf.reduce_sum(doubled, 0)  # 1, the sums none, and 2

    graph = tf.function(function).get_concrete_function(tf.TensorSpec(SHAPE)).graph
    assert TOOL["of_graph"](graph, SIZE) == (3, 5.0)


def test_what_repeats_and_what_a_slice_leaves_out_costs_nothing():
    def function(x):
        sample = x[::2, :, :, :]  # half a pass to read, half a pass to write
        return (x - 1.0) * tf.exp(x - 1.0) + tf.reduce_sum(sample)  # 2, 2, 3, half a pass and 2

    graph = tf.function(function).get_concrete_function(tf.TensorSpec(SHAPE)).graph
    assert TOOL["of_graph"](graph, SIZE) == (6, 10.5)


def test_a_program_costs_what_its_entry_reads_and_writes():
    text = """HloModule m

%fused (p: f32[8,4,4,16]) -> f32[8,4,4,16] {
  %p = f32[8,4,4,16]{3,2,1,0} parameter(0)
  ROOT %y = f32[8,4,4,16]{3,2,1,0} exponential(%p)
}

ENTRY %main (x: f32[8,4,4,16]) -> (f32[8,4,4,16], f32[16]) {
  %x = f32[8,4,4,16]{3,2,1,0} parameter(0)
  %pair = (f32[8,4,4,16]{3,2,1,0}, f32[16]{0}) fusion(%x, %x), kind=kLoop, calls=%fused
  %y = f32[8,4,4,16]{3,2,1,0} get-tuple-element(%pair), index=0
  %s = f32[16]{0} reduce(%y), dimensions={0,1,2}
  %t = f32[16]{0} add(%s, %s)
  ROOT %r = (f32[8,4,4,16]{3,2,1,0}, f32[16]{0}) tuple(%y, %t)
}
"""
    assert TOOL["of_hlo"](text, SIZE) == (2, 4.0)


def test_a_program_reads_what_it_takes_of_a_tensor():
    text = """HloModule m

%fused (p: f32[8,4,4,16], q: f32[8,4,4,16]) -> f32[4,4,4,16] {
  %p = f32[8,4,4,16]{3,2,1,0} parameter(0)
  %q = f32[8,4,4,16]{3,2,1,0} parameter(1)
  %converted = f32[8,4,4,16]{3,2,1,0} convert(%p)
  %half = f32[4,4,4,16]{3,2,1,0} slice(%converted), slice={[0:8:2], [0:4], [0:4], [0:16]}
  %other = f32[4,4,4,16]{3,2,1,0} slice(%q), slice={[0:8:2], [0:4], [0:4], [0:16]}
  %s = f32[16]{0} reduce(%q), dimensions={0,1,2}
  ROOT %y = f32[4,4,4,16]{3,2,1,0} add(%half, %other)
}

ENTRY %main (x: f32[8,4,4,16], z: f32[8,4,4,16]) -> f32[4,4,4,16] {
  %x = f32[8,4,4,16]{3,2,1,0} parameter(0)
  %z = f32[8,4,4,16]{3,2,1,0} parameter(1)
  %y = f32[4,4,4,16]{3,2,1,0} fusion(%x, %z), kind=kLoop, calls=%fused
  ROOT %r = f32[4,4,4,16]{3,2,1,0} slice(%z), slice={[0:8:2], [0:4], [0:4], [0:16]}
}
"""
    assert TOOL["of_hlo"](text, SIZE) == (2, 3.0)  # 0.5 + 1 + 0.5, and twice 0.5


def test_ours_moves_half_of_keras_where_a_gpu_runs_cudnn_and_less_in_plain_operations():
    """Under XLA for the CPU in TensorFlow it moves 19 passes to Keras's 17."""
    counts = TOOL["tensorflow_counts"]((16, 8, 8, 16), "float32", -1, for_gpu=False)
    for kind in ("BatchNormalization", "BatchRenormalization", "adaptive"):
        for way, share in (("fused", 0.5), ("composite", 0.9), ("xla", 1.13)):
            ours, theirs = counts[f"{kind} {way}"], counts[f"keras {way}"]
            assert ours[1] <= share * theirs[1], (kind, way)
        assert counts[f"{kind} fused"][0] < counts["keras fused"][0]


@pytest.mark.parametrize("dtype", ["float32", "mixed_float16"])
def test_ours_moves_less_than_keras_compiled_by_jax(dtype):
    counts = TOOL["worker"]("jax", (16, 8, 8, 16), dtype, -1, for_gpu=False)
    for kind in ("BatchNormalization", "BatchRenormalization", "adaptive"):
        assert counts[f"{kind} jax"][1] <= 0.95 * counts["keras jax"][1], kind


@pytest.mark.skipif(not TOOL["compiles_for_gpu"](), reason="JAX's CUDA plugin is not installed")
@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("dtype", ["float32", "mixed_float16"])
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_ours_moves_less_than_keras_compiled_for_a_gpu(backend, dtype, axis):
    shape = (32, 56, 56, 64) if axis == -1 else (32, 64, 56, 56)
    way = {"tensorflow": "xla_gpu", "jax": "jax_gpu"}[backend]
    counts = TOOL["worker"](backend, shape, dtype, axis)
    for kind in ("BatchNormalization", "BatchRenormalization", "adaptive"):
        ours, theirs = counts[f"{kind} {way}"], counts[f"keras {way}"]
        assert ours[0] < theirs[0], kind
        assert 6 <= ours[1] <= 0.95 * theirs[1], kind


def test_ours_moves_a_quarter_of_keras_in_half_types_where_a_gpu_runs_cudnn():
    counts = TOOL["tensorflow_counts"]((16, 8, 8, 16), "mixed_float16", -1, for_gpu=False)
    assert counts["adaptive fused"][1] <= 0.25 * counts["keras fused"][1]


def test_the_page_has_a_row_for_each_layer():
    kinds, ways = TOOL["KINDS"], TOOL["WAYS"]
    counts = {f"{kind} {way}": (i, 1.5) for i, kind in enumerate(kinds) for way in ways}
    text = TOOL["page"]({"float32": counts}, SHAPE)
    assert "not measured: no GPU was there" in text
    for i, title in enumerate(kinds.values()):
        assert f"| {title} |" + f" {i}, 1.5 |" * len(ways) in text
