import keras
import numpy as np
import pytest
import tensorflow as tf

from zoo.data import Dataset
from zoo.data.sources import Streamed
from zoo.errors import UserError
from zoo.training.evaluation import Evaluator


def softmax_regression(scale=1.0):
    images = keras.Input((2, 2, 1))
    logits = keras.layers.Dense(3, name="logits")(keras.layers.Flatten()(images))
    model = keras.Model(images, keras.layers.Softmax()(logits))
    model.set_weights([scale * weight for weight in model.get_weights()])
    return model


@pytest.fixture
def dataset(rng):
    images = rng.integers(0, 256, (23, 2, 2, 1), dtype=np.uint8)
    return Dataset("blocks", "test", images, rng.integers(0, 3, 23), ("a", "b", "c"))


@pytest.mark.parametrize("batch_size", [1, 5, 23, 100])
def test_accuracy_and_loss_agree_with_numpy(dataset, batch_size):
    model = softmax_regression(5.0)
    kernel, bias = (np.array(w, np.float64) for w in model.get_weights())
    z = dataset.images.reshape(23, 4) / 255 @ kernel + bias
    log_p = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    result = Evaluator(model, dataset, batch_size)()
    assert result.accuracy == np.mean(np.argmax(z, axis=1) == dataset.labels)
    assert result.loss == pytest.approx(-np.mean(log_p[np.arange(23), dataset.labels]), rel=1e-5)
    assert result.num_examples == 23


def test_an_image_that_is_gone_is_one_line(dataset, tmp_path):
    path = tmp_path / "gone.bin"
    source = Streamed(
        name="made",
        split="test",
        class_names=("a", "b", "c"),
        image_shape=(2, 2, 1),
        length=5,
        fetch=lambda indices: indices,
        read=lambda i: (
            tf.reshape(tf.io.decode_raw(tf.io.read_file(str(path)), "uint8"), (2, 2, 1)),
            i % 3,
        ),
        find_labels=lambda: np.arange(5) % 3,
    )
    path.write_bytes(bytes(4))
    evaluate = Evaluator(softmax_regression(), source, 5)
    assert evaluate().num_examples == 5
    path.unlink()
    with pytest.raises(UserError, match=r"^An image can no longer be read: .*gone\.bin"):
        evaluate()


def test_the_weights_are_those_of_the_moment_of_the_call(dataset):
    model = softmax_regression()
    evaluator = Evaluator(model, dataset, 10)
    before = evaluator()
    model.set_weights([-9 * weight for weight in model.get_weights()])
    assert evaluator().loss != before.loss


def test_a_probability_of_zero_has_a_finite_loss(dataset):
    result = Evaluator(softmax_regression(1e6), dataset, 10)()
    wrong = 1 - result.accuracy
    assert wrong > 0
    assert result.loss == pytest.approx(wrong * -np.log(np.finfo(np.float32).tiny), rel=1e-5)
