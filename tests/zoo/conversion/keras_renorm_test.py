import re

import keras
import numpy as np
import pytest

from keras_renorm.layers import BatchNormalization, BatchRenormalization
from zoo.conversion.keras_renorm import convert_file
from zoo.data.preparation import Preparation
from zoo.errors import UserError
from zoo.trained.card import Card, read_card, write_card


@pytest.fixture
def source(tmp_path, rng):
    model = keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            keras.layers.Conv2D(4, 3, name="conv"),
            keras.layers.BatchNormalization(
                renorm=True,
                renorm_clipping={"rmax": 3.0, "rmin": 1 / 3, "dmax": 5.0},
                name="renorm",
            ),
            keras.layers.ReLU(),
            keras.layers.BatchNormalization(name="plain"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2),
        ]
    )
    model.compile("sgd", "mse")
    model.fit(rng.normal(3.0, 2.0, (64, 6, 6, 3)), rng.normal(0.0, 1.0, (64, 2)), verbose=0)
    model.save(tmp_path / "theirs.keras")
    return model, tmp_path / "theirs.keras"


def difference_told(said):
    [difference] = re.findall(r"largest difference of the outputs (\S+)", said[-1])
    return float(difference)


def test_a_model_is_converted_compared_and_never_overwritten(source, tmp_path, rng):
    theirs, path = source
    output, said = tmp_path / "ours.keras", []
    convert_file(path, output, said.append)
    assert difference_told(said) < 1e-5

    ours = keras.saving.load_model(output)
    assert type(ours.get_layer("renorm")) is BatchRenormalization
    assert type(ours.get_layer("plain")) is BatchNormalization
    assert ours.get_layer("renorm").current_limits() == (3.0, 5.0)
    x = rng.normal(3.0, 2.0, (8, 6, 6, 3)).astype(np.float32)
    np.testing.assert_allclose(ours(x), theirs(x), atol=1e-5)

    with pytest.raises(UserError, match=r"ours\.keras exists already and is not overwritten"):
        convert_file(path, output, said.append)


def test_what_a_model_says_of_itself_goes_along(source, tmp_path):
    _, path = source
    card = Card(("cat", "dog"), Preparation(size=6, pixels="caffe"), dataset="pets")
    write_card(path, card)
    convert_file(path, tmp_path / "ours.keras", print)
    assert read_card(tmp_path / "ours.keras") == card


def test_a_model_with_several_inputs_of_several_types(tmp_path):
    words, pixels = keras.Input((5,), dtype="int32"), keras.Input((4, 3))
    words_in_space = keras.layers.Embedding(2, 3)(words)
    x = keras.layers.Concatenate(axis=1)([words_in_space, pixels])
    x = keras.layers.BatchNormalization(renorm=True, name="renorm")(x)
    keras.Model([words, pixels], x).save(tmp_path / "theirs.keras")
    output, said = tmp_path / "ours.keras", []
    convert_file(tmp_path / "theirs.keras", output, said.append)
    assert difference_told(said) < 1e-5
    assert type(keras.saving.load_model(output).get_layer("renorm")) is BatchRenormalization


@pytest.mark.filterwarnings("ignore:You are saving a model that has not yet been built")
def test_a_model_without_weights_yet_is_refused(tmp_path):
    path = tmp_path / "theirs.keras"
    keras.Sequential([keras.layers.BatchNormalization(renorm=True)]).save(path)
    message = f"^The model in {re.escape(str(path))} has no weights yet: call it on an input"
    with pytest.raises(UserError, match=message):
        convert_file(path, tmp_path / "ours.keras", print)


@pytest.mark.parametrize(
    ("source", "output", "message"),
    [
        ("none.keras", "ours.keras", "There is no file "),
        ("bad.keras", "ours.h5", "--output must end in .keras, received "),
        ("bad.keras", "no/ours.keras", "There is no folder "),
        ("bad.keras", "ours.keras", "is damaged: it is not a whole .keras file"),
    ],
)
def test_mistakes(tmp_path, source, output, message):
    (tmp_path / "bad.keras").write_bytes(b"\x80\x04pickled")
    with pytest.raises(UserError, match=re.escape(message)):
        convert_file(tmp_path / source, tmp_path / output, print)
