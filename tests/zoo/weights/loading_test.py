import dataclasses
import hashlib
import logging

import keras
import numpy as np
import pytest

import zoo
from keras_renorm import schedules
from zoo.weights import RECORDS, find, load
from zoo.weights.errors import DownloadError, MismatchError, WrongHashError


def build(**options):
    return zoo.create_model("resnet20", **({"input_shape": (16, 16, 3)} | options))


def randomize(model, rng):
    for layer in model.layers:
        for weight in layer.weights:
            low, high = (0.5, 2.0) if weight.name == "moving_variance" else (-0.3, 0.3)
            weight.assign(rng.uniform(low, high, weight.shape))


def values(model):
    return [keras.ops.convert_to_numpy(weight) for weight in model.weights]


@pytest.fixture
def images(rng):
    return rng.uniform(0.0, 1.0, (4, 16, 16, 3)).astype(np.float32)


@pytest.fixture
def trained(rng):
    """A model with weights and statistics that no initializer makes."""
    model = build(norm="batch_renorm")
    randomize(model, rng)
    return model


@pytest.fixture
def path(trained, tmp_path):
    trained.save_weights(tmp_path / "trained.weights.h5")
    return tmp_path / "trained.weights.h5"


@pytest.fixture
def published(path, server, make_record, monkeypatch):
    """The model's file on a server, with a record."""
    server.contents = path.read_bytes()
    record = make_record(
        name="resnet20.published",
        hash=hashlib.sha256(server.contents).hexdigest(),
        bytes=len(server.contents),
    )
    monkeypatch.setitem(RECORDS, record.name, record)
    return record


@pytest.mark.parametrize("norm", ["batch_norm", "batch_renorm"])
def test_a_file_of_ours_fits_both_norms(trained, path, images, norm):
    model = build(norm=norm)
    assert find("resnet20", path).num_classes == 10
    loaded = load(model, path)
    assert loaded.layers == tuple(layer.name for layer in model.layers if layer.weights)
    assert loaded.fresh == loaded.unused == loaded.folded == loaded.messages == ()
    np.testing.assert_array_equal(model(images), trained(images))


@pytest.mark.parametrize("kind", ["with", "without"])
def test_the_counter_of_updates_is_kept_if_both_have_one(path, tmp_path, kind):
    paper = {"norm_options": {"r_max": schedules.PAPER_R_MAX, "d_max": schedules.PAPER_D_MAX}}
    counts = {"norm": "batch_renorm"} | paper
    source = build(**counts) if kind == "with" else build(norm="batch_norm")
    if kind == "with":
        source.get_layer("stem_norm").update_count.assign(1234)
    source.save_weights(tmp_path / "source.weights.h5")
    model = build(**counts)
    model.get_layer("stem_norm").update_count.assign(77)
    load(model, tmp_path / "source.weights.h5")
    assert int(model.get_layer("stem_norm").update_count) == (1234 if kind == "with" else 77)


@pytest.mark.parametrize("kind", ["with", "without"])
def test_what_adaptive_limits_have_seen_is_kept_if_both_have_it(tmp_path, kind):
    limits = {"r_max": schedules.Adaptive(3.0), "d_max": schedules.Adaptive(5.0)}
    adaptive = {"norm": "batch_renorm", "norm_options": limits}
    model = build(**adaptive)
    source = build(**adaptive) if kind == "with" else build(norm="batch_norm")
    norms = [each.get_layer("stem_norm") for each in (model, source)]
    norms[0].seen.assign([0.2, 0.2])
    norms[1].moving_mean.assign(norms[1].moving_mean + 1)
    if kind == "with":
        norms[1].seen.assign([0.5, 0.5])
    source.save_weights(tmp_path / "source.weights.h5")
    load(model, tmp_path / "source.weights.h5")
    np.testing.assert_array_equal(norms[0].seen, [0.5, 0.5] if kind == "with" else [0.0, 0.0])


def test_training_goes_on_from_the_statistics_of_the_file(trained, path, images):
    """Without limits, r and d undo the minibatch's own moments: training is inference."""
    unlimited = {"r_max": float("inf"), "d_max": float("inf")}
    model = build(norm="batch_renorm", norm_options=unlimited)
    load(model, path)
    np.testing.assert_allclose(model(images, training=True), trained(images), atol=1e-5)


def test_another_number_of_classes_leaves_the_head_fresh(path, caplog):
    model = build(num_classes=3)
    head = [weight.numpy() for weight in model.get_layer("logits").weights]
    with caplog.at_level(logging.WARNING, "zoo.weights"):
        loaded = load(model, path)
    assert loaded.fresh == ("logits",)
    for weight, before in zip(model.get_layer("logits").weights, head, strict=True):
        np.testing.assert_array_equal(weight, before)
    assert "logits" not in loaded.layers
    assert "stem_conv" in loaded.layers
    assert [record.message for record in caplog.records] == list(loaded.messages)
    assert "got no weights from" in caplog.text


def test_nothing_is_loaded_unless_everything_fits(path):
    model = build(input_shape=(16, 16, 1))
    before = values(model)
    with pytest.raises(MismatchError) as caught:
        load(model, path)
    assert str(caught.value) == (
        f"{path} does not fit the model 'resnet20', and nothing was loaded. 1 of its layers "
        "differs:\n  stem_conv: expected kernel (3, 3, 1, 16); got (3, 3, 3, 16)"
    )
    for weight, value in zip(values(model), before, strict=True):
        np.testing.assert_array_equal(weight, value)


def test_the_hint_to_fold_is_for_files_with_norms(path):
    zoo.create_model("mlp", norm="none", input_shape=(4,), num_classes=2).save_weights(path)
    other = zoo.create_model("mlp", norm="none", hidden_units=(7,), input_shape=(4,), num_classes=2)
    with pytest.raises(MismatchError, match="nothing was loaded") as caught:
        load(other, path)
    assert "convert.fold" not in str(caught.value)


def test_every_layer_that_does_not_fit_is_named(path):
    deeper = zoo.create_model("resnet32", input_shape=(16, 16, 3))
    with pytest.raises(MismatchError) as caught:
        load(deeper, path)
    lines = str(caught.value).splitlines()
    assert "24 of its layers differ" in lines[0]
    assert len(lines) == 25
    assert "  stage1_block4_1_conv: the model has it, the file does not" in lines

    deeper.save_weights(path)
    with pytest.raises(MismatchError) as caught:
        load(build(), path)
    assert "stage1_block4_1_conv: the file has it, the model does not" in str(caught.value)


def test_a_model_without_normalization_needs_the_folded_weights(path):
    with pytest.raises(MismatchError, match=r"norm='batch_norm', and take it out with .*\.fold"):
        load(build(norm="none"), path)


def test_features_of_other_sizes_are_no_other_classes(path):
    model = zoo.create_model("mlp", input_shape=(16, 16, 3), norm="none", hidden_units=(5,))
    model.save_weights(path)
    other = zoo.create_model("mlp", input_shape=(16, 16, 3), norm="none", hidden_units=(6,))
    with pytest.raises(
        MismatchError, match=r"logits: expected kernel \(6, 10\), bias \(10,\); got"
    ):
        load(other, path)


def test_integers_are_no_kernel(tmp_path):
    import h5py

    path = tmp_path / "m.weights.h5"
    model = zoo.create_model("mlp", input_shape=(2, 2, 1), norm="none", hidden_units=(5,))
    model.save_weights(path)
    with h5py.File(path, "r+") as file:
        vars_ = file["layers/dense/vars"]
        del vars_["0"]
        vars_["0"] = np.zeros((4, 5), np.int32)
    with pytest.raises(MismatchError, match="hidden1_dense: expected"):
        load(model, path)


def test_published_weights_are_downloaded_checked_and_loaded(
    trained, published, images, server, capfd
):
    model = build()
    loaded = load(model, "published")
    assert loaded.source.name == "resnet20.published"
    np.testing.assert_array_equal(model(images), trained(images))
    load(model, "resnet20.published")
    assert len(server.requests) == 1
    assert capfd.readouterr().err.count("Downloading") == 1


def test_a_flipped_bit_is_not_loaded(published, tmp_path):
    load(build(), "published", progress=False)
    file = tmp_path / "home" / "weights" / published.cache_name
    damaged = bytearray(file.read_bytes())
    damaged[-1000] ^= 4
    file.write_bytes(damaged)
    other = build()
    before = values(other)
    with pytest.raises(WrongHashError, match="has changed on the disk"):
        load(other, "published", progress=False)
    for weight, value in zip(values(other), before, strict=True):
        np.testing.assert_array_equal(weight, value)


def test_what_cannot_be_downloaded_changes_nothing(published, server):
    server.answers = [server.status(404)]
    model = build()
    before = values(model)
    with pytest.raises(DownloadError, match="the server answered 404"):
        load(model, "published", progress=False)
    for weight, value in zip(values(model), before, strict=True):
        np.testing.assert_array_equal(weight, value)


def test_options_of_the_record_that_the_model_lacks_are_told(published, monkeypatch):
    changed = dataclasses.replace(published, norm_options={"epsilon": 0.5})
    monkeypatch.setitem(RECORDS, published.name, changed)
    messages = []
    load(build(), "published", progress=False, report=messages.append)
    assert messages == [
        "The normalization layers of 'resnet20' have {'epsilon': 0.001}, the model of "
        "resnet20.published had {'epsilon': 0.5}: outputs will differ from its. Build the model "
        "with norm_options={'epsilon': 0.5}."
    ]
    messages.clear()
    load(build(norm_options={"epsilon": 0.5}), "published", progress=False, report=messages.append)
    assert messages == []


def test_weights_without_normalization_say_how_to_build_the_model():
    model = zoo.create_model("wide_resnet_16_1", num_classes=10, input_shape=(32, 32, 3))
    with pytest.raises(
        MismatchError, match=r"was loaded\. Build the model with norm='skip_init'\. "
    ):
        load(model, "cifar10_skip_init")
