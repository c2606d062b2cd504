"""Exporters get the backend's own operations, also of layers called for training."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_renorm import convert, layers, ops

L = keras.layers
KINDS = [layers.BatchNormalization, layers.BatchRenormalization]


class InTraining(keras.Model):
    """A norm that is called with `training=True` whatever the model is called with."""

    def __init__(self, norm):
        super().__init__()
        self.dense, self.norm = L.Dense(5), norm

    def call(self, x, training=None):
        return self.norm(self.dense(x), training=True)


@pytest.fixture
def x(rng):
    return rng.normal(1.0, 2.0, (6, 4)).astype("f4")


@pytest.fixture
def model(x, rng):
    """A dense layer and a norm whose statistics are not the initial ones."""

    def make(norm, shape=(4,), before=None):
        model = keras.Sequential([keras.Input(shape), before or L.Dense(5), norm])
        norm.moving_mean.assign(rng.normal(size=5))
        norm.moving_variance.assign(rng.uniform(0.5, 2.0, 5))
        norm.gamma.assign(rng.uniform(0.5, 2.0, 5))
        return model

    return make


def operations(graph):
    nodes = [
        *graph.node,
        *(node for function in graph.library.function for node in function.node_def),
    ]
    return {node.op for node in nodes}


def lite(content, x):
    """The operations of a LiteRT model, and what it computes."""
    plain = tf.lite.experimental.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = tf.lite.Interpreter(model_content=content, experimental_op_resolver_type=plain)
    interpreter.resize_tensor_input(0, x.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    y = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    return [one["op_name"] for one in interpreter._get_ops_details()], y


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("frozen", [True, False])
def test_a_saved_model_of_keras_holds_no_operation_of_the_library(kind, frozen, x, tmp_path):
    made = InTraining(kind(frozen_statistics=frozen, momentum=1.0))
    expected = made(x)
    made.export(tmp_path / "model", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "model")
    graph = loaded.signatures["serving_default"].graph.as_graph_def()
    assert not [name for name in operations(graph) if "Renorm" in name or "Xla" in name]
    np.testing.assert_allclose(loaded.serve(x), expected, rtol=1e-4, atol=1e-5)


def test_what_is_traced_elsewhere_holds_the_operations_of_the_library(x):
    if ops.lowering().name != "native":
        pytest.skip("the native library is not in use")
    made = InTraining(layers.BatchNormalization())
    made(x)
    traced = tf.function(made).get_concrete_function(tf.TensorSpec((None, 4)))
    assert "KerasRenormForward" in operations(traced.graph.as_graph_def())


@pytest.mark.parametrize("kind", [L.BatchNormalization, *KINDS])
@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
def test_a_norm_after_a_dense_layer_vanishes_in_lite_rt(kind, model, x, tmp_path):
    made = model(kind())
    made.export(tmp_path / "model.tflite", format="litert", verbose=False)
    names, y = lite((tmp_path / "model.tflite").read_bytes(), x)
    assert names == ["FULLY_CONNECTED"]
    np.testing.assert_allclose(y, made(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
def test_a_norm_after_a_convolution_vanishes_in_lite_rt(kind, model, rng, tmp_path):
    made = model(kind(), (8, 8, 3), L.Conv2D(5, 3))
    images = rng.normal(size=(2, 8, 8, 3)).astype("f4")
    made.export(tmp_path / "model.tflite", format="litert", verbose=False)
    names, y = lite((tmp_path / "model.tflite").read_bytes(), images)
    assert names == ["CONV_2D"]
    np.testing.assert_allclose(y, made(images), rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
def test_lite_rt_of_a_norm_in_training_takes_known_sizes_only(x, tmp_path):
    made, path = InTraining(layers.BatchRenormalization(momentum=1.0)), tmp_path / "model.tflite"
    expected = made(x)
    with pytest.raises(ValueError, match=r"LiteRT's .* unknown size, .* shape \(None, 5\)"):
        made.export(path, format="litert", verbose=False)
    signature = [keras.InputSpec(shape=x.shape, dtype="float32")]
    made.export(path, format="litert", input_signature=signature, verbose=False)
    np.testing.assert_allclose(lite(path.read_bytes(), x)[1], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
# Keras, which patches tf2onnx, asks NumPy for a name that it no longer has.
@pytest.mark.filterwarnings("ignore:In the future `np.object`:FutureWarning")
def test_onnx(kind, x, tmp_path):
    pytest.importorskip("tf2onnx")
    runtime = pytest.importorskip("onnxruntime")
    made = InTraining(kind(momentum=1.0))
    expected = made(x)
    made.export(tmp_path / "model.onnx", format="onnx", verbose=False)
    session = runtime.InferenceSession(tmp_path / "model.onnx")
    (y,) = session.run(None, {session.get_inputs()[0].name: x})
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("to", [convert.fold, convert.to_keras, convert.to_batch_renormalization])
def test_keras_exporters_take_what_converters_return(to, model):
    """They refuse a model that was never called: "has never called"."""
    converted = to(model(layers.BatchNormalization()))
    assert converted._called
