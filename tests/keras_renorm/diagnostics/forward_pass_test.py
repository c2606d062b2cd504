"""What a watched pass sees, what it leaves as it was, and what it says of randomness."""

import keras
import numpy as np
import pytest

from keras_renorm import statistics
from keras_renorm.diagnostics import forward_pass
from keras_renorm.layers import BatchNormalization

L = keras.layers


class Draws(L.Layer):
    """Adds noise in training and in inference, such as the sampling layer of an autoencoder."""

    def __init__(self, **options):
        super().__init__(**options)
        self.seed_generator = keras.random.SeedGenerator(1)

    def call(self, x):
        return x + keras.random.normal(keras.ops.shape(x), seed=self.seed_generator)


class Block(L.Layer):
    """Dropout and a norm, drawn and normalised in one call."""

    def __init__(self, rate, **options):
        super().__init__(**options)
        self.rate = rate
        self.seed_generator = keras.random.SeedGenerator(1)
        self.norm = BatchNormalization(name="norm")

    def build(self, shape):
        self.norm.build(shape)

    def call(self, x, training=None):
        if training:
            x = keras.random.dropout(x, self.rate, seed=self.seed_generator)
        return self.norm(x, training=training)


@pytest.fixture
def x(rng):
    return rng.normal(size=(16, 4)).astype("float32")


def sequential(*layers):
    return keras.Sequential([keras.Input((4,)), *layers])


def through(call):
    return call.run()


@pytest.mark.parametrize("training", [False, True])
def test_the_function_stands_in_the_place_of_the_call(training, x):
    first, second = BatchNormalization(), BatchNormalization()
    model = sequential(first, L.ReLU(), second)
    seen = []

    def around(call):
        x, mode = keras.ops.convert_to_numpy(call.args[0]), call.kwargs["training"]
        seen.append((call.layer, x, mode))
        return 2 * call.run()

    output = forward_pass.forward(
        model, x, dict.fromkeys([first, second], around), training=training
    )
    assert [(layer, mode) for layer, _, mode in seen] == [(first, training), (second, training)]
    np.testing.assert_array_equal(seen[0][1], x)

    def doubled_norm(z):
        mean, variance = (z.mean(0), z.var(0)) if training else (0, 1)
        return 2 * (z - mean) / np.sqrt(variance + 1e-3)

    between = np.maximum(doubled_norm(x.astype("float64")), 0)
    np.testing.assert_allclose(seen[1][1], between, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(output, doubled_norm(between), rtol=1e-4, atol=1e-4)
    for layer in (first, second):
        np.testing.assert_array_equal(layer.moving_mean, np.zeros(4))
        assert "call" not in vars(layer)


def test_what_stood_in_the_place_of_a_call_before_stands_there_again(x):
    norm = BatchNormalization()
    model = sequential(norm)
    own = vars(norm)["call"] = lambda inputs, **_: 3 * inputs
    output = forward_pass.forward(model, x, {norm: through}, training=True)
    np.testing.assert_array_equal(output, 3 * x)
    with pytest.raises(ZeroDivisionError):
        forward_pass.forward(model, x, {norm: lambda *_: 1 / 0}, training=True)
    assert vars(norm)["call"] is own


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("random", [False, True])
def test_dropout_only_where_it_is_asked_for_and_in_training(training, random, x):
    model = sequential(L.Dropout(0.5))
    output = np.array(forward_pass.forward(model, x, {}, training=training, random=random))
    again = np.array(forward_pass.forward(model, x, {}, training=training, random=random))
    np.testing.assert_array_equal(output, again)  # the same numbers are drawn in each pass
    kept = output != 0
    assert kept.all() == (not (training and random))
    np.testing.assert_array_equal(output, np.where(kept, x * (2 if training and random else 1), 0))


def test_losses_of_the_last_call_stay(x):
    model = keras.Sequential([L.Dense(8, activity_regularizer="l2"), BatchNormalization()])
    model(x)
    before = model.losses
    forward_pass.forward(model, 2 * x, {}, training=True)
    statistics.precise(model, 2 * x, verbose=0)
    assert [id(loss) for loss in model.losses] == [id(loss) for loss in before]
    assert len(before) == 1


def test_a_layer_that_holds_a_norm_stays_in_training_mode(x):
    block = Block(0.5, name="block")
    model = sequential(block, L.Dropout(0.5, name="drop"))
    watched = []

    def around(call):
        watched.append(np.array(call.args[0]))
        return call.run()

    forward_pass.forward(model, x, {block.norm: around}, training=True)
    assert 0.2 < np.mean(watched[0] == 0) < 0.8
    assert forward_pass.left_out(model) == ["drop"]
    assert forward_pass.noise(model) == [
        "Left out, because they are random in training: drop.",
        "With their randomness, as they hold a norm: block.",
    ]


@pytest.mark.parametrize(("rate", "out"), [(0.0, []), (0.5, ["lstm/lstm_cell"])])
def test_a_recurrent_cell_is_random_if_it_drops(rate, out):
    recurrent = L.LSTM(4, dropout=rate, name="lstm")
    recurrent.cell.name = "lstm_cell"
    model = keras.Sequential([keras.Input((5, 3)), recurrent, BatchNormalization()])
    assert [name for name in forward_pass.left_out(model) if "cell" in name] == out


def test_what_draws_in_inference_too_is_not_left_out(x):
    model = sequential(Draws(name="draws"), BatchNormalization())
    first, second = (forward_pass.forward(model, x, {}, training=mode) for mode in (False, True))
    drawn = np.array(first) * np.sqrt(1.001) - x
    assert np.std(drawn) > 0.5
    z = x.astype("float64") + drawn
    np.testing.assert_allclose(
        second, (z - z.mean(0)) / np.sqrt(z.var(0) + 1e-3), rtol=1e-3, atol=1e-4
    )
    assert forward_pass.left_out(model) == []
    assert forward_pass.noise(model) == ["With their randomness, which inference has, too: draws."]


def test_a_model_that_draws_nothing_has_no_notes():
    model = sequential(L.Dense(3), L.Dropout(0.0), BatchNormalization())
    assert forward_pass.left_out(model) == []
    assert forward_pass.noise(model) == []


def test_layers_that_keep_quiet_are_named_behind_their_models():
    inner = keras.Sequential([L.Dropout(0.5, name="drop"), L.GaussianNoise(1.0, name="noise")])
    inner.name = "inner"
    model = sequential(inner, L.Dropout(0.1, name="drop"))
    assert forward_pass.left_out(model) == ["inner/drop", "inner/noise", "drop"]


def test_a_model_without_weights_is_refused(x):
    model = keras.Sequential([L.Dense(3)], name="net")
    message = r"The model 'net' has no weights yet. Call it once on a batch, `model\(x\)`, and then"
    with pytest.raises(ValueError, match=message):
        forward_pass.forward(model, x, {}, training=True)


def two_inputs():
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    return keras.Model({"a": a, "b": b}, a + b)


@pytest.mark.parametrize("rows", [(0, 3), (3, 0), (0, 0)])
def test_a_batch_without_examples_is_refused_in_any_of_the_inputs(rows, x):
    batch = {"a": x[: rows[0]], "b": keras.ops.convert_to_tensor(x[: rows[1]])}
    with pytest.raises(ValueError, match=r"`x` holds no examples\. Give a batch of the size that"):
        forward_pass.forward(two_inputs(), batch, {}, training=True)


def test_one_example_is_a_batch(x):
    batch = {"a": x[:1], "b": x[:1]}
    output = forward_pass.forward(two_inputs(), batch, {}, training=True)
    np.testing.assert_array_equal(output, 2 * x[:1])


@pytest.mark.parametrize(
    "x", [range(3), "images", {1, 2}, map(abs, [1]), None, 3], ids=lambda x: type(x).__name__
)
def test_what_is_no_batch_is_refused(x):
    message = rf"`x` must be one batch of the model's inputs, received a {type(x).__name__}\."
    with pytest.raises(TypeError, match=message):
        forward_pass.forward(two_inputs(), x, {}, training=True)
