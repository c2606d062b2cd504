import re

import keras
import numpy as np
import pytest

import zoo
from zoo.conversion.keras_applications import convert_file
from zoo.errors import UserError


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    theirs = keras.applications.ResNet50(weights=None, include_top=False)
    rng = np.random.default_rng(0)
    for weight in theirs.weights:
        if weight.name in ("bias", "moving_mean", "beta"):
            weight.assign(rng.uniform(-0.3, 0.3, weight.shape))
    path = tmp_path_factory.mktemp("source") / "theirs.weights.h5"
    theirs.save_weights(path)
    return path, theirs


def test_a_file_is_converted_compared_and_never_overwritten(source, tmp_path):
    output, said = tmp_path / "ours.weights.h5", []
    convert_file(source[0], output, said.append, name="resnet50")
    [difference] = re.findall(r"largest difference of the outputs (\S+)", said[0])
    assert float(difference) < 1e-4
    assert said[1] == "Load it into a model with norm_options={'epsilon': 1.001e-05}."

    ours = zoo.create_model(
        "resnet50", include_top=False, norm_options={"epsilon": 1.001e-5}, input_shape=(32, 32, 3)
    )
    ours.load_weights(output)
    images = np.random.default_rng(1).normal(0.0, 1.0, (2, 32, 32, 3)).astype(np.float32)
    theirs = keras.applications.ResNet50(weights=None, include_top=False, input_shape=(32, 32, 3))
    theirs.set_weights(source[1].get_weights())
    expected = keras.ops.convert_to_numpy(theirs(images, training=False))
    np.testing.assert_allclose(ours(images, training=False), expected, rtol=1e-4, atol=1e-4)

    before = output.read_bytes()
    message = f"^{re.escape(str(output))} exists already and is not overwritten: choose another "
    with pytest.raises(UserError, match=message):
        convert_file(source[0], output, said.append, name="resnet50")
    assert output.read_bytes() == before


def test_the_file_of_another_model_is_refused(source, tmp_path):
    output = tmp_path / "ours.weights.h5"
    message = "The file does not hold resnet101 of keras.applications: expected 104 "
    with pytest.raises(UserError, match=re.escape(message)):
        convert_file(source[0], output, print, name="resnet101")
    assert not output.exists()
