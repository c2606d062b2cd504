"""Files that keras.applications writes, with random weights and random statistics."""

import dataclasses
import hashlib
import shutil

import h5py
import keras
import numpy as np
import pytest
from keras.src.legacy.saving import legacy_h5_format

import zoo
from zoo.weights import RECORDS, find, hdf5, keras_applications, load
from zoo.weights.errors import MismatchError

APPLICATIONS = {
    "resnet50": keras.applications.ResNet50,
    "resnet101": keras.applications.ResNet101,
    "resnet152": keras.applications.ResNet152,
    "resnet50v2": keras.applications.ResNet50V2,
    "resnet101v2": keras.applications.ResNet101V2,
    "resnet152v2": keras.applications.ResNet152V2,
    "inception_v3": keras.applications.InceptionV3,
}
#: The least sizes of images.
SIZES = {"inception_v3": 75}
NORMS = ("batch_norm", "batch_renorm")


def build_theirs(name, **options):
    size = SIZES.get(name, 32)
    return APPLICATIONS[name](weights=None, input_shape=(size, size, 3), **options)


def randomize(model, rng):
    ranges = {
        "bias": (-0.5, 0.5),
        "beta": (-0.5, 0.5),
        "gamma": (0.3, 0.8),
        "moving_mean": (-0.5, 0.5),
        "moving_variance": (0.5, 2.0),
    }
    for weight in model.weights:
        if weight.name in ranges:
            weight.assign(rng.uniform(*ranges[weight.name], weight.shape))
        else:
            fan_in = np.prod(weight.shape[:-1])
            normal = rng.standard_normal(weight.shape, np.float32)
            weight.assign(normal * np.sqrt(2.0 / fan_in).astype(np.float32))


def write_older(model, path):
    """The layout of the public files."""
    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, model)


def write_whole_older(model, path):
    """That of `model.save("model.h5")`, without its warning."""
    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file.create_group("model_weights"), model)


def write_todays(model, path):
    model.save_weights(path)


def build_ours(name, norm, source, **options):
    size = SIZES.get(name, 32)
    return zoo.create_model(
        name, norm=norm, input_shape=(size, size, 3), norm_options=source.norm_options, **options
    )


@pytest.fixture(scope="module")
def resnet50(tmp_path_factory):
    """A ResNet-50 without a top, and a file of it in either layout."""
    theirs = build_theirs("resnet50", include_top=False)
    randomize(theirs, np.random.default_rng(1))
    folder = tmp_path_factory.mktemp("resnet50")
    write_older(theirs, folder / "older.h5")
    write_todays(theirs, folder / "todays.weights.h5")
    return theirs, folder / "older.h5", folder / "todays.weights.h5"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "layouts"),
    [
        ("resnet50", ("older.h5", "todays.weights.h5")),
        ("resnet152", ("older.h5",)),
        ("resnet50v2", ("older.h5", "todays.weights.h5")),
        ("inception_v3", ("older.h5", "todays.weights.h5")),
    ],
)
def test_outputs_are_those_of_keras_applications(name, layouts, tmp_path, rng):
    theirs = build_theirs(name, classes=7)
    images = rng.normal(0.0, 1.0, (2, *theirs.input_shape[1:])).astype(np.float32)
    ours = {}
    for file in layouts:
        write = write_older if file == "older.h5" else write_todays
        randomize(theirs, rng)
        expected = keras.ops.convert_to_numpy(theirs(images, training=False))
        assert expected.std(axis=-1).min() > 1e-3
        write(theirs, tmp_path / file)
        for norm in NORMS:
            source = find(name, tmp_path / file)
            if norm not in ours:
                ours[norm] = build_ours(name, norm, source, num_classes=7)
            loaded = load(ours[norm], source)
            assert (loaded.fresh, loaded.unused, loaded.messages) == ((), (), ())
            assert source.num_classes == 7
            got = keras.ops.convert_to_numpy(ours[norm](images, training=False))
            np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet101", "resnet152", "resnet101v2", "resnet152v2"])
def test_every_layer_is_found_by_order_and_by_name(name):
    theirs = build_theirs(name, include_top=False)
    stored = {
        layer.name: hdf5.StoredLayer(tuple(layer.weights))
        for layer in theirs.layers
        if layer.weights
    }
    expected = {name.replace("_bn", "_norm"): layer for name, layer in stored.items()}
    by_order = hdf5.StoredModel(stored, ordered=True)
    assert keras_applications.our_layers(by_order, name) == expected
    by_name = hdf5.StoredModel(dict(sorted(stored.items())), ordered=False)
    assert keras_applications.our_layers(by_name, name) == expected


def test_the_older_layout_goes_by_order_as_keras_does(resnet50, tmp_path):
    """The public files come from versions of Keras that had other names, such as "probs"."""
    theirs, older, _ = resnet50
    renamed = tmp_path / "renamed.h5"
    with h5py.File(older) as source, h5py.File(renamed, "w") as target:
        names = list(source.attrs["layer_names"])
        target.attrs["layer_names"] = [f"x{number}" for number in range(len(names))]
        for number, name in enumerate(names):
            source.copy(name, target, f"x{number}")
    source = find("resnet50", renamed)
    ours = build_ours("resnet50", "batch_norm", source, include_top=False)
    load(ours, source)
    kernel = theirs.get_layer("conv5_block1_0_conv").kernel
    np.testing.assert_array_equal(ours.get_layer("conv5_block1_0_conv").kernel, kernel)
    gamma = theirs.get_layer("conv5_block1_0_bn").gamma
    np.testing.assert_array_equal(ours.get_layer("conv5_block1_0_norm").gamma, gamma)


def test_models_with_and_without_a_top(tmp_path, rng):
    theirs = build_theirs("resnet50v2", classes=5)
    randomize(theirs, rng)
    write_whole_older(theirs, tmp_path / "top.h5")
    features = keras.Model(theirs.input, theirs.get_layer("post_relu").output)
    write_whole_older(features, tmp_path / "features.h5")
    images = rng.normal(0.0, 1.0, (2, 32, 32, 3)).astype(np.float32)
    expected = features(images, training=False)

    source = find("resnet50v2", tmp_path / "top.h5")
    ours = build_ours("resnet50v2", "batch_renorm", source, include_top=False)
    loaded = load(ours, source)
    assert (loaded.unused, loaded.fresh, loaded.messages) == (("logits",), (), ())
    np.testing.assert_allclose(ours(images, training=False), expected, atol=1e-5)

    messages = []
    ours = build_ours("resnet50v2", "batch_renorm", source, num_classes=9)
    head = [weight.numpy() for weight in ours.get_layer("logits").weights]
    for file in ("top.h5", "features.h5"):
        loaded = load(ours, tmp_path / file, report=messages.append)
        assert loaded.fresh == ("logits",)
        got = keras.Model(ours.input, ours.layers[-4].output)(images, training=False)
        np.testing.assert_allclose(got, expected, atol=1e-5)
        for weight, before in zip(ours.get_layer("logits").weights, head, strict=True):
            np.testing.assert_array_equal(weight, before)
    assert len(messages) == 2
    assert messages[0].startswith(
        f"logits of 'resnet50v2' got no weights from {tmp_path / 'top.h5'}, which has none that fit"
    )


def test_by_name_from_a_mirror(resnet50, server, monkeypatch, rng):
    """All of it: the registry, the download, the hash, the older layout, the options, the names."""
    theirs, older, _ = resnet50
    server.contents = older.read_bytes()
    name = "resnet50.keras_imagenet_notop"
    record = RECORDS[name]
    changed = {"hash": hashlib.md5(server.contents).hexdigest(), "bytes": len(server.contents)}
    monkeypatch.setitem(RECORDS, name, dataclasses.replace(record, **changed))
    monkeypatch.setenv("ZOO_URL", server.url)
    ours = zoo.create_model(
        "resnet50", weights="keras_imagenet_notop", include_top=False, input_shape=(32, 32, 3)
    )
    assert [request["path"] for request in server.requests] == [f"/{record.file}"]
    images = rng.normal(0.0, 1.0, (2, 32, 32, 3)).astype(np.float32)
    expected = keras.ops.convert_to_numpy(theirs(images, training=False))
    np.testing.assert_allclose(ours(images, training=False), expected, rtol=1e-5, atol=1e-5)


def test_channels_first_models_take_the_same_weights(resnet50):
    theirs, _, todays = resnet50
    source = find("resnet50", todays)
    assert source.num_classes is None
    ours = zoo.create_model(
        "resnet50",
        norm_options=source.norm_options,
        include_top=False,
        input_shape=(3, 32, 32),
        data_format="channels_first",
    )
    loaded = load(ours, source)
    assert len(loaded.folded) == 53
    mean = theirs.get_layer("conv1_bn").moving_mean - theirs.get_layer("conv1_conv").bias
    np.testing.assert_allclose(ours.get_layer("conv1_norm").moving_mean, mean, atol=1e-7)


def test_another_epsilon_is_told(resnet50):
    ours = zoo.create_model("resnet50", include_top=False, input_shape=(32, 32, 3))
    messages = []
    load(ours, resnet50[1], report=messages.append)
    assert len(messages) == 1
    assert "have {'epsilon': 0.001}" in messages[0]
    assert "Build the model with norm_options={'epsilon': 1.001e-05}" in messages[0]


def test_the_file_of_another_model_is_refused(resnet50):
    _, older, _ = resnet50
    message = (
        "The file does not hold resnet101 of keras.applications: expected 104 convolutions, 104 "
        "normalizations, 0 classifiers, got 53 convolutions, 53 normalizations, 0 classifiers."
    )
    with pytest.raises(MismatchError, match=message):
        find("resnet101", older)


@pytest.mark.parametrize("norm", ["none", "skip_init"])
def test_a_file_of_ours_without_normalizations_is_not_theirs(norm, tmp_path):
    options = {"norm": norm, "input_shape": (32, 32, 3), "num_classes": 3}
    source = zoo.create_model("resnet50", **options)
    source.save_weights(tmp_path / "ours.weights.h5")
    model = zoo.create_model("resnet50", weights=tmp_path / "ours.weights.h5", **options)
    for ours, theirs in zip(model.get_weights(), source.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_name_of_another_layer_is_refused(resnet50, tmp_path):
    renamed = tmp_path / "renamed.weights.h5"
    shutil.copy(resnet50[2], renamed)
    with h5py.File(renamed, "r+") as file:
        groups = [layer["vars"] for layer in file["layers"].values()]
        [group] = [group for group in groups if group.attrs["name"] == "conv1_bn"]
        group.attrs["name"] = "conv1_x"
    with pytest.raises(MismatchError, match=r"which has no layers conv1_x\. Nothing was loaded"):
        load(zoo.create_model("resnet20"), renamed, architecture="resnet50")


def test_inception_needs_layers_without_scale(tmp_path):
    write_todays(build_theirs("inception_v3", include_top=False), tmp_path / "x.weights.h5")
    ours = zoo.create_model("inception_v3", include_top=False, input_shape=(75, 75, 3))
    with pytest.raises(MismatchError) as caught:
        load(ours, tmp_path / "x.weights.h5")
    message = str(caught.value)
    assert "Build the model with norm_options={'epsilon': 0.001, 'scale': False}" in message
    assert "94 of its layers differ" in message
    assert (
        "mixed10_pool_norm: expected gamma (192,), beta (192,), moving_mean (192,), "
        "moving_variance (192,); got (192,), (192,), (192,)" in message
    )
