"""What an import of the package imports, and what it leaves alone: counted, not timed."""

import os
import pathlib
import subprocess
import sys

import keras
import pytest

import keras_renorm

PROGRAM = """
import pathlib, sys
import keras
before = set(sys.modules)
import keras_renorm
new = {name.partition("[")[0] for name in set(sys.modules) - before}
late = ("callbacks", "convert", "diagnostics", "models", "statistics")
assert not new & {f"keras_renorm.{name}" for name in late}, new
assert {name.partition(".")[0] for name in new} == {"keras_renorm"}, new
assert len(new) <= 66, len(new)
assert "keras_renorm.ops.backends.torch.pinning" not in new, new  # registering takes 50 ms
loaded = lambda: "libkeras_renorm" in pathlib.Path("/proc/self/maps").read_text()
assert not loaded()
layer = keras_renorm.layers.BatchNormalization()
layer(keras.ops.ones((4, 2)), training=True)
assert loaded() == (keras_renorm.ops.lowering().name == "native")
print(len(new), "modules")
"""


def run_python(code, **environment):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=os.environ | environment,
        cwd=pathlib.Path(keras_renorm.__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.skipif(not pathlib.Path("/proc/self/maps").exists(), reason="this system has no /proc")
@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_the_import_takes_layers_only_and_no_library(backend):
    pytest.importorskip(backend)
    found = run_python(PROGRAM, KERAS_BACKEND=backend, JAX_PLATFORMS="cpu")
    assert found.endswith(" modules\n")


def test_the_rest_is_there_when_asked_for():
    assert dir(keras_renorm) == sorted(keras_renorm.__all__)
    for name in keras_renorm.__all__:
        assert getattr(keras_renorm, name) is not None
    with pytest.raises(AttributeError, match="'keras_renorm' has no attribute 'layer'"):
        keras_renorm.layer  # noqa: B018


def test_zoo_imports_nothing_heavy():
    heavy = {"absl", "keras", "h5py", "matplotlib", "numpy", "rich", "tensorflow"}
    assert not eval(run_python("import sys, zoo; print(set(sys.modules))")) & heavy


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="a graph of TensorFlow")
def test_a_graph_that_holds_ops_of_the_library_is_imported(tmp_path):
    import tensorflow as tf

    layer = keras_renorm.layers.BatchNormalization()
    function = tf.function(lambda x: layer(x, training=True))
    graph = function.get_concrete_function(tf.TensorSpec((4, 2))).graph.as_graph_def()
    (tmp_path / "graph.pb").write_bytes(graph.SerializeToString())
    expected = {node.op for node in graph.node}
    code = f"""
import pathlib, tensorflow as tf
import keras_renorm
graph = tf.compat.v1.GraphDef.FromString(pathlib.Path({str(tmp_path / "graph.pb")!r}).read_bytes())
with tf.Graph().as_default() as made:
    tf.graph_util.import_graph_def(graph)
print({{node.op for node in made.as_graph_def().node}})
"""
    assert eval(run_python(code)) == expected
