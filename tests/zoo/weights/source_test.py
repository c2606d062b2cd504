import re

import pytest

from zoo.weights import find
from zoo.weights.errors import WeightsError


@pytest.mark.parametrize("weights", ["keras_imagenet", "resnet50.keras_imagenet"])
def test_a_tag_or_a_name(weights):
    source = find("resnet50", weights)
    assert source.name == source.record.name == "resnet50.keras_imagenet"
    assert source.path is None
    assert source.norm_options == {"epsilon": 1.001e-5}
    assert source.num_classes == 1000


@pytest.mark.parametrize(
    ("model", "weights", "message"),
    [
        (
            "resnet50",
            "keras_imagenets",
            "There are no weights 'keras_imagenets' for 'resnet50'. Did you mean 'keras_imagenet'? "
            "There are 'keras_imagenet', 'keras_imagenet_notop', and the path of a file",
        ),
        ("mlp", "x", "There are no weights 'x' for 'mlp'. There are none, and the path of a file"),
        ("resnet50", "resnet50.x", "There are no weights 'resnet50.x'."),
        (
            "resnet50",
            "resnet101.keras_imagenet",
            "resnet101.keras_imagenet are weights of 'resnet101', not of 'resnet50': write "
            "zoo.create_model('resnet101', weights='keras_imagenet'), or to zoo.train "
            "--config.model=resnet101.",
        ),
        ("resnet50", "no.h5", "There is no file no.h5. `weights` is the path of a file, or one of"),
        ("resnet50", "no/thing", "There is no file no/thing."),
    ],
)
def test_what_there_is_not_is_refused(model, weights, message):
    with pytest.raises(WeightsError, match=re.escape(message)):
        find(model, weights)


@pytest.mark.parametrize("weights", ["run", "./run", "run/"])
def test_the_model_in_the_folder_of_a_run_is_named(weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    with pytest.raises(WeightsError, match=r"^There (is no file|are no weights) '?run"):
        find("mlp", weights)
    (tmp_path / "run" / "model.keras").touch()
    message = r"^run is a folder, .* Its model is run/model\.keras: zoo\.train takes that as --conf"
    with pytest.raises(WeightsError, match=message):
        find("mlp", weights)


def test_other_types_are_refused():
    with pytest.raises(TypeError, match="`weights` must be a tag such as 'keras_imagenet', or the"):
        find("resnet50", True)
