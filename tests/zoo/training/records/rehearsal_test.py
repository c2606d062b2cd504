import io

import keras
from rich.console import Console

import zoo
from zoo.training.config import default_config
from zoo.training.records import rehearsal
from zoo.training.times import in_steps


def test_multiply_adds_are_those_of_the_papers():
    # He et al. 2015: table 1 has 3.8e9 for ResNet-50; torchvision and fvcore count 4.09e9.
    resnet50 = zoo.create_model("resnet50", norm="batch_norm")
    assert 3.8e9 < rehearsal.multiply_adds(resnet50) < 4.2e9
    mlp = zoo.create_model("mlp", input_shape=(28, 28, 1), norm="none")
    assert rehearsal.multiply_adds(mlp) == 784 * 100 + 100 * 100 * 2 + 100 * 10


def test_a_depthwise_convolution_counts_each_channel_once():
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, keras.layers.DepthwiseConv2D(3, padding="same")(inputs))
    assert rehearsal.multiply_adds(model) == 8 * 8 * 3 * 9


def test_layers_of_several_outputs_count():
    inputs = keras.Input((5, 3))
    outputs, *_ = keras.layers.LSTM(4, return_sequences=True, return_state=True)(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2)(outputs))
    assert rehearsal.multiply_adds(model) == 5 * (3 * 4 * 4 + 4 * 2)


def test_memory_of_outputs():
    inputs = keras.Input((8,))
    model = keras.Model(inputs, keras.layers.Dense(4)(inputs))
    assert rehearsal.activation_bytes(model, 10) == 10 * (8 + 4) * 4


def test_what_is_printed():
    console = Console(file=io.StringIO(), width=200)
    config = in_steps(default_config().to_dict() | {"num_steps": 101, "eval_every_steps": 10})
    model = zoo.create_model("mlp", input_shape=(28, 28, 1), norm="none")
    measured = rehearsal.Measured(first=5.0, second=0.5, evaluation=2.0, state_bytes=3_000_000)
    rehearsal.print_rehearsal(config, model, measured, console)
    printed = console.file.getvalue()
    for words in (
        "hidden1",
        "99,710, of which 99,710 are trained",
        "99,400 for an image",
        "3.0 MB",
    ):
        assert words in printed
    assert "256 images/s" in printed
    assert "about 0:01:17 at this speed" in printed  # 5 + 100 * 0.5 + 11 * 2
