import re

import keras
import numpy as np
import pytest

from keras_renorm.layers import BatchNormalization, BatchRenormalization

TOOL = "convert_keras_renorm"


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


def test_a_model_is_converted_compared_and_never_overwritten(source, tmp_path, rng, run_tool):
    theirs, path = source
    output = tmp_path / "ours.keras"
    status, out, err = run_tool(TOOL, f"--source={path}", f"--output={output}")
    assert status == 0, err
    [difference] = re.findall(r"largest difference of the outputs (\S+)", out)
    assert float(difference) < 1e-5

    ours = keras.saving.load_model(output)
    assert type(ours.get_layer("renorm")) is BatchRenormalization
    assert type(ours.get_layer("plain")) is BatchNormalization
    assert ours.get_layer("renorm").current_limits() == (3.0, 5.0)
    x = rng.normal(3.0, 2.0, (8, 6, 6, 3)).astype(np.float32)
    np.testing.assert_allclose(ours(x), theirs(x), atol=1e-5)

    status, out, err = run_tool(TOOL, f"--source={path}", f"--output={output}")
    assert status == 1
    assert f"error: {output} exists already and is not overwritten" in err


def test_a_model_with_several_inputs_of_several_types(tmp_path, run_tool):
    words, pixels = keras.Input((5,), dtype="int32"), keras.Input((4, 3))
    words_in_space = keras.layers.Embedding(2, 3)(words)
    x = keras.layers.Concatenate(axis=1)([words_in_space, pixels])
    x = keras.layers.BatchNormalization(renorm=True, name="renorm")(x)
    keras.Model([words, pixels], x).save(tmp_path / "theirs.keras")
    output = tmp_path / "ours.keras"
    status, out, err = run_tool(TOOL, f"--source={tmp_path / 'theirs.keras'}", f"--output={output}")
    assert status == 0, err
    [difference] = re.findall(r"largest difference of the outputs (\S+)", out)
    assert float(difference) < 1e-5
    assert type(keras.saving.load_model(output).get_layer("renorm")) is BatchRenormalization


@pytest.mark.filterwarnings("ignore:You are saving a model that has not yet been built")
def test_a_model_without_weights_yet_is_refused(tmp_path, run_tool):
    path = tmp_path / "theirs.keras"
    keras.Sequential([keras.layers.BatchNormalization(renorm=True)]).save(path)
    status, out, err = run_tool(TOOL, f"--source={path}", f"--output={tmp_path / 'ours.keras'}")
    assert (status, out) == (1, "")
    assert f"error: The model in {path} has no weights yet: call it on an input" in err


@pytest.mark.parametrize(
    ("source", "output", "message"),
    [
        ("none.keras", "ours.keras", "error: There is no file "),
        ("bad.keras", "ours.h5", "error: --output must end in .keras, received "),
        ("bad.keras", "no/ours.keras", "error: There is no folder "),
        ("bad.keras", "ours.keras", "error: Keras cannot load "),
    ],
)
def test_a_mistake_is_one_line(tmp_path, source, output, message, run_tool):
    (tmp_path / "bad.keras").write_bytes(b"\x80\x04pickled")
    status, out, err = run_tool(
        TOOL, f"--source={tmp_path / source}", f"--output={tmp_path / output}"
    )
    assert (status, out) == (1, "")
    assert message in err
    assert "Traceback" not in err
