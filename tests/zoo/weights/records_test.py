import inspect
import re

import keras
import pytest

import zoo
from zoo.weights import RECORDS, get_record, list_weights
from zoo.weights.errors import WeightsError

KERAS = {
    "resnet50": keras.applications.ResNet50,
    "resnet101": keras.applications.ResNet101,
    "resnet152": keras.applications.ResNet152,
    "resnet50v2": keras.applications.ResNet50V2,
    "resnet101v2": keras.applications.ResNet101V2,
    "resnet152v2": keras.applications.ResNet152V2,
    "inception_v3": keras.applications.InceptionV3,
}


@pytest.mark.parametrize("model", ["resnet50", "inception_v3"])
@pytest.mark.parametrize("top", [True, False])
def test_files_are_those_that_keras_asks_for(model, top, monkeypatch):
    asked = {}

    class AskedError(Exception):
        pass

    def get_file(name, url, *, file_hash, **options):
        asked.update(file=name, url=url, hash=file_hash)
        raise AskedError

    monkeypatch.setattr(inspect.getmodule(KERAS[model]).file_utils, "get_file", get_file)
    with pytest.raises(AskedError):
        KERAS[model](include_top=top)
    record = get_record(f"{model}.keras_imagenet{'' if top else '_notop'}")
    assert {"file": record.file, "url": record.url, "hash": record.hash} == asked
    assert record.hash_kind == "md5"


@pytest.mark.parametrize("model", [name for name in KERAS if name.startswith("resnet")])
def test_hashes_are_those_in_keras(model):
    module = inspect.getmodule(keras.applications.ResNet50)
    records = [get_record(f"{model}.keras_imagenet{tail}") for tail in ("", "_notop")]
    assert tuple(record.hash for record in records) == module.WEIGHTS_HASHES[model]
    assert {record.url.rpartition("/")[0] + "/" for record in records} == {module.BASE_WEIGHTS_PATH}


@pytest.mark.parametrize("model", ["resnet50", "resnet50v2", "inception_v3"])
def test_numbers_and_options_are_those_of_keras(model):
    built = KERAS[model](weights=None)
    record = get_record(f"{model}.keras_imagenet")
    assert record.parameters == built.count_params()
    assert record.input_shape == built.input_shape[1:]
    assert record.num_classes == built.output_shape[-1] == 1000
    notop = get_record(f"{model}.keras_imagenet_notop")
    assert notop.parameters == record.parameters - built.layers[-1].count_params()
    assert notop.num_classes is None
    norms = [x for x in built.layers if isinstance(x, keras.layers.BatchNormalization)]
    assert {norm.epsilon for norm in norms} == {record.norm_options["epsilon"]}
    assert {norm.scale for norm in norms} == {record.norm_options.get("scale", True)}


def test_every_record_is_complete():
    for name, record in RECORDS.items():
        assert record.name == name
        assert re.fullmatch(r"\w+\.\w+", name)
        # A wide ResNet goes by its depth and width, of which the list has a few.
        listed = record.architecture in zoo.list_models()
        assert listed or re.fullmatch(r"wide_resnet_\d+_\d+", record.architecture)
        digits = {"sha256": 64, "md5": 32}[record.hash_kind]
        assert re.fullmatch(rf"[0-9a-f]{{{digits}}}", record.hash)
        assert record.file.endswith(".h5")
        assert "/" not in record.file
        assert record.licence
        assert record.origin
        assert (record.top1 is None) == (record.top1_source == "")
        assert record.bytes is None or 0 < record.bytes - 4 * record.parameters < 2**21
        assert record.max_bytes > 4 * record.parameters


def test_files_of_the_package_are_those_of_the_records():
    from zoo.weights import fetching

    packaged = {record.file for record in RECORDS.values() if record.url is None}
    there = fetching.PACKAGED_FILES.glob("*") if fetching.PACKAGED_FILES.exists() else ()
    assert {path.name for path in there if path.suffix == ".h5"} == packaged
    for record in RECORDS.values():
        if record.url is None:
            fetching.fetch(record)


def test_names_are_listed_by_pattern():
    assert list_weights("resnet152.*") == [
        "resnet152.keras_imagenet",
        "resnet152.keras_imagenet_notop",
    ]
    assert list_weights() == sorted(RECORDS)
    assert list_weights("nothing") == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "resnet50.keras_imagnet",
            "There are no weights 'resnet50.keras_imagnet'. "
            r"Did you mean 'resnet50.keras_imagenet'\? "
            "For 'resnet50' there are resnet50.keras_imagenet, resnet50.keras_imagenet_notop.",
        ),
        ("xyz", "There are no weights 'xyz'. `python -m zoo.list` lists them all."),
    ],
)
def test_an_unknown_name_is_refused(name, message):
    with pytest.raises(WeightsError, match=message):
        get_record(name)
