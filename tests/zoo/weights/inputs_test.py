import keras
import numpy as np
import pytest

from zoo.weights import ImagePreprocessing, preprocessing
from zoo.weights.errors import WeightsError

THEIRS = {
    "resnet50.keras_imagenet": keras.applications.resnet.preprocess_input,
    "resnet152.keras_imagenet_notop": keras.applications.resnet.preprocess_input,
    "resnet50v2.keras_imagenet": keras.applications.resnet_v2.preprocess_input,
    "inception_v3.keras_imagenet": keras.applications.inception_v3.preprocess_input,
}


@pytest.mark.parametrize("name", THEIRS)
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32"])
def test_it_is_that_of_keras_applications(name, data_format, dtype, rng):
    shape = (2, 4, 5, 3) if data_format == "channels_last" else (2, 3, 4, 5)
    images = rng.integers(0, 256, shape).astype(dtype)
    expected = THEIRS[name](images.astype(np.float32), data_format=data_format)
    layer = preprocessing(name, data_format)
    np.testing.assert_allclose(layer(images), expected, rtol=0, atol=2e-5)
    np.testing.assert_allclose(layer(images[0]), expected[0], rtol=0, atol=2e-5)


def test_our_own_models_take_pixels_from_0_to_1():
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    layer = ImagePreprocessing("unit")
    np.testing.assert_allclose(layer(images), images / 255.0, rtol=1e-6)


def test_raw_pixels_stay_as_they_are():
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    np.testing.assert_array_equal(ImagePreprocessing("raw")(images), images)


def test_a_model_can_hold_it(tmp_path, rng):
    images = rng.integers(0, 256, (2, 4, 4, 3)).astype(np.uint8)
    model = keras.Sequential(
        [
            keras.Input((4, 4, 3), dtype="uint8"),
            preprocessing("resnet50.keras_imagenet"),
            keras.layers.Flatten(),
        ]
    )
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(loaded(images), model(images))


def test_it_is_exact_under_a_mixed_policy():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        assert ImagePreprocessing("tf")(np.full((1, 1, 1, 3), 254, np.uint8)).dtype == "float32"
    finally:
        keras.config.set_dtype_policy("float32")


def test_mistakes_are_named():
    with pytest.raises(
        ValueError, match="`mode` must be one of 'caffe', 'raw', 'tf', 'unit', received 'x'"
    ):
        ImagePreprocessing("x")
    with pytest.raises(ValueError, match="`data_format` must be 'channels_last' or"):
        ImagePreprocessing("tf", "NCHW")
    with pytest.raises(ValueError, match=r"received images of shape \(1, 4, 4, 1\)"):
        ImagePreprocessing("caffe")(np.zeros((1, 4, 4, 1)))
    with pytest.raises(WeightsError, match="There are no weights 'resnet50'"):
        preprocessing("resnet50")
