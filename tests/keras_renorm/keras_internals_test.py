"""What Keras's private names hold in the Keras that runs here."""

import contextlib

import keras
import numpy as np
import pytest

from keras_renorm import keras_internals, layers

L = keras.layers


class Own(keras.Model):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def call(self, x):
        return self.layer(x)


def nested():
    shared = L.Dense(4, name="shared")
    inner = keras.Sequential([keras.Input((4,), name="inside"), shared], name="inner")
    x = keras.Input((4,), name="x")
    return keras.Model(x, shared(inner(x)), name="outer"), inner, shared, x


def test_layers_in_a_model_at_any_depth_and_directly():
    model, inner, shared, _ = nested()
    assert [layer.name for layer in keras_internals.flattened(model)] == [
        *("outer", "x", "inner", "shared", "inside")
    ]
    assert [layer.name for layer in keras_internals.children(model)] == ["x", "inner", "shared"]
    assert [layer.name for layer in keras_internals.children(inner)] == ["inside", "shared"]
    assert keras_internals.flattened(shared) == [shared]
    assert keras_internals.children(shared) == []


def test_what_a_layer_holds_by_its_attributes():
    dense = L.Dense(4)
    own = Own(dense)
    own.parts = [dense]
    held = keras_internals.attributes(own)
    assert held["layer"] is dense
    assert held["parts"] == [dense]
    assert not {name for name in held if name in ("_layers", "_tracker")}


def test_a_layer_in_the_place_of_another_in_one_that_is_built():
    own, new = Own(L.Dense(4)), L.Dense(3)
    own(np.ones((2, 4)))
    keras_internals.replace_child(own, own.layer, new)
    own.layer = new
    assert keras_internals.children(own) == [new]
    keras_internals.show_parameters(own)
    assert own(np.ones((2, 4))).shape == (2, 3)


@pytest.mark.parametrize("trainable", [True, False])
def test_variables_of_another_layer(trainable):
    old, new = (layers.BatchNormalization(trainable=trainable) for _ in range(2))
    for layer in (old, new):
        layer.build((None, 3))
    own = {"gamma": old.gamma, "beta": old.beta}
    keras_internals.adopt_variables(new, own)
    expected = [old.gamma, old.beta, new.moving_mean, new.moving_variance]
    assert [id(weight) for weight in new.weights] == [id(weight) for weight in expected]
    assert new.gamma is old.gamma
    with pytest.raises(ValueError, match="cannot add new elements of state"):
        new.other = keras.Variable(0.0)


def test_trainable_of_a_model_without_its_layers():
    old, new = Own(L.Dense(4)), Own(L.Dense(4))
    old.trainable = False
    keras_internals.copy_trainable(old, new)
    assert not new.trainable
    assert new.layer.trainable


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("keras.src.export.onnx", True),
        ("tf2onnx.convert", True),
        ("keras.src.trainers", False),
        (None, False),
    ],
)
def test_what_an_exporter_calls_knows_it(module, expected):
    names = {"__name__": module, "ask": keras_internals.is_exporting}
    exec("def trace():\n    return ask()", names)
    assert names["trace"]() is expected
    assert not keras_internals.is_exporting()


@pytest.mark.filterwarnings("ignore:In the future `np.object`:FutureWarning")
def test_keras_takes_a_model_that_was_marked_as_called(tmp_path):
    model = keras.Sequential([keras.Input((4,)), L.Dense(3)])
    with pytest.raises(ValueError, match="has never called"):
        model.export(tmp_path / "model.onnx", format="onnx", verbose=False)
    keras_internals.mark_called(model)
    with contextlib.suppress(ImportError):  # the writer of the file may be missing
        model.export(tmp_path / "model.onnx", format="onnx", verbose=False)


def test_functional_models():
    model, inner, shared, _ = nested()
    assert keras_internals.functional(model) is model
    built = keras_internals.functional(inner)
    assert [layer.name for layer in built.layers] == ["inside", "shared"]
    for other in (keras.Sequential([L.Dense(3)]), shared, Own(shared), None):
        assert keras_internals.functional(other) is None


def test_calls_in_the_order_in_which_they_are_made_without_inputs():
    model, inner, shared, x = nested()
    nodes = keras_internals.nodes(model)
    assert [node.operation for node in nodes] == [inner, shared]
    assert nodes[0].input_tensors == [x]
    assert nodes[1].input_tensors == list(nodes[0].outputs)
    assert nodes[0].arguments.args[0] is x
    assert keras_internals.number_of_calls(shared) == 2
    assert keras_internals.number_of_calls(L.Dense(3)) == 0


def test_the_operation_of_a_tensor():
    model, _, shared, x = nested()
    assert keras_internals.operation_of(model.outputs[0]) is shared
    assert isinstance(keras_internals.operation_of(x), L.InputLayer)


def test_a_copied_operation_has_no_place_in_a_graph():
    x = keras.Input((4,))
    operation = keras_internals.operation_of(keras.ops.pad(x, [[0, 0], [1, 1]]))
    copy = keras_internals.same_operation(operation)
    assert type(copy) is type(operation)
    assert copy.pad_width == operation.pad_width
    assert keras_internals.number_of_calls(operation) == 1
    assert keras_internals.number_of_calls(copy) == 0
    assert copy(x).shape == (None, 6)
    assert keras_internals.number_of_calls(operation) == 1


def test_seed_generators_are_those_of_the_layer_itself():
    dropout = L.Dropout(0.5, seed=1)
    (generator,) = keras_internals.seed_generators(dropout)
    assert isinstance(generator, keras.random.SeedGenerator)
    assert keras_internals.seed_generators(keras.Sequential([dropout])) == []
    assert keras_internals.seed_generators(L.Dense(3)) == []


def test_layers_that_know_training():
    assert keras_internals.knows_training(L.Dropout(0.5))
    for layer in (L.ReLU(), Own(L.Dense(3))):
        assert not keras_internals.knows_training(layer)


def test_the_output_shape_of_a_lambda():
    assert keras_internals.output_shape_of_lambda(L.Lambda(abs, output_shape=(3,))) == (3,)
    assert keras_internals.output_shape_of_lambda(L.Lambda(abs)) is None


@pytest.mark.parametrize("steps", [None, 2])
def test_batches_count_also_where_their_gradients_are_gathered(steps, rng):
    model = keras.Sequential([keras.Input((4,)), L.Dense(1)])
    model.compile(keras.optimizers.SGD(gradient_accumulation_steps=steps), "mse")
    x = rng.normal(size=(12, 4)).astype("f4")
    model.fit(x, x[:, :1], batch_size=3, verbose=0)
    assert keras_internals.batches_seen(model.optimizer) == 4
    assert int(np.array(model.optimizer.iterations)) == 4 // (steps or 1)


def test_methods_as_keras_wrote_them():
    assert keras_internals.is_keras_method(keras.Sequential, "call")
    assert keras_internals.is_keras_method(Own, "get_config")
    assert not keras_internals.is_keras_method(Own, "call")


def test_batch_norms_that_renormalize():
    for layer in (L.BatchNormalization(), layers.BatchNormalization(), L.Dense(3)):
        assert not keras_internals.renormalizes(layer)
    assert keras_internals.renormalizes(layers.BatchRenormalization())
    if hasattr(L.BatchNormalization(), "renorm"):
        assert keras_internals.renormalizes(L.BatchNormalization(renorm=True))


class OlderVariable(keras.Variable):
    """As before Keras 3.10."""

    def __init__(self, initializer, shape=None, aggregation="mean"):
        super().__init__(initializer, shape=shape)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's strategies")
@pytest.mark.parametrize("kind", [keras.Variable, OlderVariable])
def test_replicas_update_a_copy_of_their_own(monkeypatch, kind):
    import tensorflow as tf

    monkeypatch.setattr(keras, "Variable", kind)
    options = {"initializer": "zeros", "shape": (2,)}
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        variable = keras_internals.variable_of_each_replica("mean", **options)

    def update():
        index = tf.distribute.get_replica_context().replica_id_in_sync_group
        variable.value.assign(tf.fill([2], 2.0 * tf.cast(index, tf.float32)))

    strategy.run(update)
    assert variable.value.synchronization == tf.VariableSynchronization.ON_READ
    np.testing.assert_array_equal(variable.value.read_value(), [1.0, 1.0])


def test_keras_synchronizes_where_it_takes_the_argument():
    if keras_internals.keras_synchronizes():
        assert L.BatchNormalization(synchronized=True).synchronized
    else:
        with pytest.raises(ValueError, match="only supported with the TensorFlow backend"):
            L.BatchNormalization(synchronized=True)


def test_only_jax_sorts_what_is_trained_as_fit_begins(rng):
    model = keras.Sequential([keras.Input((4,)), L.Dense(1)])

    class Freezes(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            model.layers[0].bias.trainable = False
            if keras.backend.backend() != "jax":
                model.make_train_function(force=True)

    assert keras_internals.trains_fixed_variables() == (keras.backend.backend() == "jax")
    if not keras_internals.trains_fixed_variables():
        model.compile("sgd", "mse")
        x = rng.normal(size=(8, 4)).astype("f4")
        model.fit(x, x[:, :1] + 9, batch_size=8, verbose=0, callbacks=[Freezes()])
        bias = model.layers[0].bias.numpy().copy()
        model.fit(x, x[:, :1] + 9, batch_size=8, verbose=0, callbacks=[Freezes()])
        np.testing.assert_array_equal(model.layers[0].bias.numpy(), bias)


def test_only_jax_copies_state_to_callbacks(monkeypatch):
    callback, copies = keras.callbacks.Callback(), []
    callback.set_model(keras.Sequential([keras.Input((4,)), L.Dense(1)]))
    monkeypatch.setattr(keras.Model, "jax_state_sync", lambda x: copies.append(x), raising=False)
    assert isinstance(callback.model, keras.Sequential)
    assert bool(copies) == keras_internals.copies_state_to_callbacks()


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's `ops.add`")
@pytest.mark.parametrize(
    ("width", "calls", "expected"),
    [(9, 1, False), (6, 1, True), (None, 1, True), (9, 0, True), (9, 2, True)],
)
def test_widths_that_may_be_mistaken_for_channels(width, calls, expected):
    conv = L.Conv2D(4, 3, data_format="channels_first")
    conv.build((None, 3, 6, width))
    for _ in range(calls):
        conv(keras.Input((3, 6, width)))
    assert keras_internals.may_mistake_width(conv) == expected


# The mask inside compiled functions, and under JAX: layers/domain_backend_checks.py.


class Both(L.Layer):
    """Of two tensors, to which Keras hands no mask."""

    supports_masking = True

    def call(self, x, other, mask=None):
        assert mask is None
        self.found = keras_internals.attached_mask(x), keras_internals.attached_mask(other)
        return x


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_mask_of_the_tensor_and_none_of_another(dtype):
    x = np.array([[[1.0], [0.0], [2.0]]], dtype)
    masked = L.Masking(dtype=dtype)(x)
    layer = Both(dtype=dtype)
    layer(masked, keras.ops.ones((1, 3)))
    mask, none = layer.found
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(mask), [[True, False, True]])
    assert none is None


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_keras_tells_a_reader_the_same(dtype):
    """Which stands for the attribute under JAX."""
    masked = L.Masking(dtype=dtype)(np.array([[[1.0], [0.0], [2.0]]], dtype))
    for x in (masked, keras.ops.ones((1, 3))):
        reader = keras_internals._Reader()
        reader(x)
        (found,) = reader.found
        assert found is keras_internals.attached_mask(x)


def test_own_weights_are_those_of_no_layer_inside():
    layer = layers.BatchNormalization(activation=L.PReLU())
    layer.build((None, 3))
    assert len(layer.weights) == 5
    assert keras_internals.own_weight_count(layer) == 4


def test_the_callbacks_of_the_list_that_calls_one_of_them():
    class Looks(keras.callbacks.Callback):
        found = ()

        def on_train_begin(self, logs=None):
            self.found = keras_internals.callbacks_in_fit()

    others = keras.callbacks.Callback(), Looks()
    keras.callbacks.CallbackList([*others]).on_train_begin()
    assert all(a is b for a, b in zip(others[1].found, others, strict=True))
    others[1].on_train_begin()
    assert others[1].found == []


def test_losses_are_those_of_the_call_before(rng):
    model = keras.Sequential([L.Dense(3, activity_regularizer="l2")])
    x = rng.normal(size=(2, 4)).astype("float32")
    model(x)
    before = model.losses
    with keras_internals.losses_kept(model), keras.StatelessScope():
        model(2 * x)
    assert [id(loss) for loss in model.losses] == [id(loss) for loss in before] != []
