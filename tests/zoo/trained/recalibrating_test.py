import keras
import numpy as np
import pytest
import tensorflow as tf
from rich.console import Console

from zoo.data import evaluation_batches
from zoo.errors import UserError
from zoo.trained.card import read_card
from zoo.trained.images import find_files
from zoo.trained.opening import open_trained
from zoo.trained.recalibrating import recalibrate


@pytest.mark.parametrize(
    ("samples", "taken"), [(None, list(range(15))), (7, [0, 2, 4, 6, 8, 10, 12])]
)
def test_statistics_are_those_of_the_images(model_file, photos, tmp_path, samples, taken):
    output = tmp_path / "new.keras"
    recalibrate(
        str(model_file), [str(photos)], str(output), Console(quiet=True), num_samples=samples
    )
    trained = open_trained(str(model_file))
    found = find_files([str(photos)], trained)
    [(images, _)] = evaluation_batches(found.source, 100, trained.card.preparation)
    chosen = tf.gather(images, taken)
    before = tf.nn.conv2d(chosen, trained.model.layers[1].kernel.value, 1, "VALID")
    model = keras.saving.load_model(output, compile=False)
    norm = model.get_layer("norm")
    axes = (0, 1, 2)
    np.testing.assert_allclose(norm.moving_mean, np.mean(before, axes), atol=1e-5)
    np.testing.assert_allclose(norm.moving_variance, np.var(before, axes), rtol=1e-3)
    np.testing.assert_array_equal(
        model.get_layer("logits").kernel, trained.model.get_layer("logits").kernel
    )
    assert read_card(output) == trained.card


def test_mistakes(model_file, photos, tmp_path):
    options = (str(model_file), [str(photos)])
    output = str(tmp_path / "new.keras")
    with pytest.raises(UserError, match="--num_samples must be at most the 15 images of folder"):
        recalibrate(*options, output, Console(), num_samples=16)
    with pytest.raises(UserError, match=r"--output must end in \.keras, received x\.h5"):
        recalibrate(*options, "x.h5", Console())
    with pytest.raises(UserError, match=r"small\.keras exists already and is not overwritten"):
        recalibrate(*options, str(model_file), Console())
    assert not (tmp_path / "new.keras").exists()
