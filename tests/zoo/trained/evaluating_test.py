import dataclasses
import hashlib
import io
import json
import re
import zipfile

import keras
import numpy as np
import PIL.Image
import pytest
from rich.console import Console

from keras_renorm import layers
from zoo.data import Dataset, load
from zoo.errors import UserError
from zoo.trained.card import read_card, write_card
from zoo.trained.evaluating import evaluate
from zoo.training import pictures
from zoo.training.config import default_config
from zoo.training.storage.workdir import Workdir


@pytest.fixture
def workdir(tmp_path):
    """A finished run whose model takes images of Fashion-MNIST."""
    images = keras.Input((28, 28, 1))
    logits = keras.layers.Dense(10, name="logits")(keras.layers.Flatten()(images))
    keras.Model(images, keras.layers.Softmax()(logits)).save(tmp_path / "model.keras")
    config = {
        "model": "regression",
        "norm": "none",
        "dataset": "fashion_mnist_subset",
        "data_dir": None,
        "eval_batch_size": 500,
        "num_steps": 3,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def test_a_report_is_written(workdir):
    console = Console(record=True, quiet=True)
    result = evaluate(console, workdir=str(workdir))
    report = json.loads((workdir / "evaluation.json").read_text())
    assert report == result
    told = {key: report[key] for key in ("classes", "confusion", "most_confused", "top5_accuracy")}
    assert {key: value for key, value in report.items() if key not in told} == {
        "accuracy": result["accuracy"],
        "loss": result["loss"],
        "num_examples": 2000,
        "seconds": result["seconds"],
        "statistics": "moving",
        "num_samples": None,
        "batch_size": 500,
        "crops": 1,
        "dataset": "fashion_mnist_subset",
        "split": "test",
        "model": "regression",
        "norm": "none",
        "steps": 3,
        "model_file": "model.keras",
        "model_sha256": hashlib.sha256((workdir / "model.keras").read_bytes()).hexdigest(),
    }
    assert np.sum(told["confusion"], axis=1).tolist() == [200] * 10
    assert [one["examples"] for one in told["classes"]] == [200] * 10
    assert told["classes"][9]["name"] == "Ankle boot"
    assert 0 <= result["accuracy"] <= 1


def test_a_report_that_cannot_be_written_is_shown(workdir):
    (workdir / "evaluation.json").mkdir()  # fails like a full or read-only disk
    console = Console(file=io.StringIO(), width=200)
    message = f"{workdir / 'evaluation.json'} cannot be written: Is a directory."
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        evaluate(console, workdir=str(workdir))
    assert re.search(r"accuracy\W+\d+\.\d\d %", console.file.getvalue())


@pytest.fixture
def normalized_workdir(workdir):
    """A finished run whose model normalizes each pixel, with statistics that nobody trained."""
    keras.utils.set_random_seed(0)
    images = keras.Input((28, 28, 1))
    x = layers.BatchRenormalization(name="norm")(keras.layers.Flatten()(images))
    logits = keras.layers.Dense(10, name="logits")(x)
    keras.Model(images, keras.layers.Softmax()(logits)).save(workdir / "model.keras")
    return workdir


def loss_in_numpy(path, images, labels, moments):
    model = keras.saving.load_model(path / "model.keras", compile=False)
    kernel, bias = (np.array(w, np.float64) for w in model.get_layer("logits").get_weights())
    mean, variance = moments
    z = (images - mean) / np.sqrt(variance + 1e-3) @ kernel + bias
    log_p = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    return -np.mean(log_p[np.arange(len(labels)), labels])


def pixels(split):
    data = load("fashion_mnist_subset", split)
    return data.images.reshape(-1, 784) / 255, data.labels


@pytest.mark.parametrize("samples", [300, 777])
def test_precise_statistics_are_those_of_training_images(normalized_workdir, samples, capsys):
    options = {"statistics": "precise", "num_samples": samples, "batch_size": 250}
    result = evaluate(Console(quiet=True), workdir=str(normalized_workdir), **options)
    train, _ = pixels("train")
    moments = train[:samples].mean(axis=0), train[:samples].var(axis=0)
    expected = loss_in_numpy(normalized_workdir, *pixels("test"), moments)
    assert result["loss"] == pytest.approx(expected, rel=1e-4)
    report = json.loads((normalized_workdir / "evaluation.json").read_text())
    assert (report["statistics"], report["num_samples"]) == ("precise", samples)
    assert capsys.readouterr().out == ""  # A bar is for terminals.


def test_precise_statistics_of_a_small_set_are_those_of_all_its_images(model_file, photos):
    console = Console(file=io.StringIO(), width=200)
    options = {"dataset": "folder", "data_dir": str(photos), "statistics": "precise"}
    assert evaluate(console, model=[str(model_file)], **options)["num_samples"] == 12
    assert "precise, of 12 training images" in console.file.getvalue()


def test_minibatch_statistics_are_those_of_each_batch(normalized_workdir):
    options = {"statistics": "minibatch", "batch_size": 500}
    result = evaluate(Console(quiet=True), workdir=str(normalized_workdir), **options)
    images, labels = pixels("test")
    parts = np.split(images, 4), np.split(labels, 4)
    losses = [
        loss_in_numpy(normalized_workdir, x, y, (x.mean(axis=0), x.var(axis=0)))
        for x, y in zip(*parts, strict=True)
    ]
    assert result["loss"] == pytest.approx(np.mean(losses), rel=1e-4)


@pytest.mark.parametrize(
    ("statistics", "batch_size", "warned"),
    [("minibatch", 1999, True), ("minibatch", 400, False), ("moving", 1999, False)],
)
def test_a_smaller_last_minibatch_is_told_of(normalized_workdir, statistics, batch_size, warned):
    console = Console(file=io.StringIO(), width=200)
    options = {"statistics": statistics, "batch_size": batch_size}
    evaluate(console, workdir=str(normalized_workdir), **options)
    told = console.file.getvalue()
    message = (
        "warning: the last minibatch has 1 of the 2000 images, and the statistics of those alone: "
        "choose a --batch_size that divides 2000.\n"
    )
    assert (message in told) == warned
    assert (f"minibatch, of {batch_size} images at a time" in told) == (statistics == "minibatch")
    report = json.loads((normalized_workdir / "evaluation.json").read_text())
    assert report["batch_size"] == batch_size


def test_images_that_a_run_may_have_been_trained_on_are_told_of(tmp_path, model_file, photos):
    """A file that comes or goes moves others into the share that is held out, or out of it."""
    run = tmp_path / "run"
    run.mkdir()
    model_file.rename(run / "model.keras")
    values = {"dataset": "folder", "data_dir": str(photos), "model": "small", "norm": "batch_norm"}
    config = default_config().to_dict() | values | {"num_steps": 3}
    (run / "config.json").write_text(json.dumps(config))
    pictures.keep_description(run / "data.json", *pictures.open_sets(config, Console(quiet=True)))

    def warned(**options):
        console = Console(file=io.StringIO(), width=200)
        evaluate(console, workdir=str(run), **options)
        told = console.file.getvalue()
        return f"evaluated on other images than these 3, as {run / 'data.json'} says: it" in told

    assert not warned()
    assert not warned(split="evaluation")
    moved = photos.rename(tmp_path / "moved")
    assert not warned(data_dir=str(moved))
    for i in range(5):
        (moved / "green" / f"{i}.{('jpg', 'png')[i % 2]}").rename(moved / "green" / f"new{i}.jpg")
    assert warned(data_dir=str(moved))
    assert not warned(data_dir=str(moved), dataset="folder")
    assert not warned(data_dir=str(moved), split="train")


def test_models_of_other_seeds_were_trained_on_images_that_others_hold_out(
    tmp_path, model_file, photos
):
    values = {"dataset": "folder", "data_dir": str(photos), "image_size": 16}
    paths = []
    for seed in (0, 1):
        config = default_config().to_dict() | values | {"seed": seed, "held_out": 0.4}
        train, evaluation = pictures.open_sets(config, Console(quiet=True))
        path = tmp_path / f"seed{seed}.keras"
        keras.saving.load_model(model_file).save(path)
        write_card(path, pictures.card(config, train, evaluation))
        paths.append(str(path))

    def told(*models):
        console = Console(file=io.StringIO(), width=300)
        report = evaluate(console, model=models, data_dir=str(photos))
        assert report["num_examples"] == 6  # the share that the runs held out, not the default one
        return [line for line in console.file.getvalue().splitlines() if "other images" in line]

    for path in paths:
        assert told(path) == []
    (warning,) = told(*paths)
    assert warning.startswith(f"warning: the run of {paths[1]} was evaluated on other images than ")
    assert "evaluate models of other seeds each by itself" in warning


def test_an_empty_name_of_a_data_set_is_no_name(workdir):
    with pytest.raises(UserError, match="''"):
        evaluate(Console(quiet=True), workdir=str(workdir), dataset="")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"statistics": "precise"}, "no batch norm"),
        ({"statistics": "minibatch"}, "no batch norm"),
        (
            {"statistics": "precise", "num_samples": 10001},
            "--num_samples must be at most the 10000 images of fashion_mnist_subset, train; "
            "received 10001.",
        ),
    ],
)
def test_statistics_that_cannot_be_had_are_a_users_mistake(workdir, options, message):
    with pytest.raises(UserError, match=message):
        evaluate(Console(quiet=True), workdir=str(workdir), **options)
    assert not (workdir / "evaluation.json").exists()


def test_another_split(workdir):
    assert (
        evaluate(Console(quiet=True), workdir=str(workdir), split="train")["num_examples"] == 10000
    )


def test_data_of_another_shape_are_refused(workdir, monkeypatch, rng):
    pixels = rng.integers(0, 256, (23, 2, 2, 1), dtype=np.uint8)
    dataset = Dataset("blocks", "test", pixels, rng.integers(0, 3, 23), ("a", "b", "c"))
    monkeypatch.setattr("zoo.data.opening.open_split", lambda *_: dataset)
    message = (
        "The model takes images of shape (28, 28, 1) and knows 10 classes; blocks has (2, 2, 1) "
        "and 3."
    )
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        evaluate(Console(quiet=True), workdir=str(workdir), dataset="blocks")
    assert not (workdir / "evaluation.json").exists()


def test_an_unfinished_run_is_refused(workdir):
    (workdir / "model.keras").unlink()
    with pytest.raises(UserError, match="holds an unfinished run: it has no model"):
        evaluate(Console(quiet=True), workdir=str(workdir))


def test_a_model_that_was_cut_off_is_refused(workdir):
    model = Workdir(workdir).model
    model.write_bytes(model.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"model\.keras is damaged: it is not a whole \.keras file"):
        evaluate(Console(quiet=True), workdir=str(workdir))


def test_a_folder_in_the_place_of_the_model_is_refused(workdir):
    (workdir / "model.keras").unlink()
    (workdir / "model.keras").mkdir()
    with pytest.raises(UserError, match=r"model\.keras is a folder, not a model\.$"):
        evaluate(Console(quiet=True), workdir=str(workdir))


@pytest.mark.parametrize("old", [b'"class_name": "Dense"', b'"units": 10'])
def test_a_model_that_keras_cannot_build_is_refused_in_one_line(workdir, old):
    path = workdir / "model.keras"
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    assert old in parts["config.json"]
    parts["config.json"] = parts["config.json"].replace(old, old.split(b":")[0] + b': "Dnese"')
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    with pytest.raises(UserError, match=r"model\.keras cannot be read: ") as info:
        evaluate(Console(quiet=True), workdir=str(workdir))
    assert "\n" not in str(info.value)


def test_a_config_of_another_version_is_refused(workdir):
    (workdir / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"has no key 'model': another version wrote it\.$"):
        evaluate(Console(quiet=True), workdir=str(workdir))


def softmax_of(path, images):
    """The probabilities of the workdir's regression of images in [0, 255], in float64."""
    model = keras.saving.load_model(path / "model.keras", compile=False)
    kernel, bias = (np.array(w, np.float64) for w in model.get_layer("logits").get_weights())
    z = images.reshape(len(images), -1) / 255 @ kernel + bias
    p = np.exp(z - z.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


@pytest.fixture
def two_workdirs(workdir, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    (other / "config.json").write_bytes((workdir / "config.json").read_bytes())
    model = keras.saving.load_model(workdir / "model.keras", compile=False)
    model.set_weights([-2 * weight for weight in model.get_weights()])
    model.save(other / "model.keras")
    return workdir, other


def test_the_probabilities_of_several_models_and_crops_are_averaged(two_workdirs):
    data = load("fashion_mnist_subset", "test")
    images = data.images.astype(np.float64)
    crops = [images, images[:, :, ::-1]]
    each = [np.mean([softmax_of(path, x) for x in crops], axis=0) for path in two_workdirs]
    mean = np.mean(each, axis=0)
    labels = np.arange(len(data)), data.labels
    console = Console(file=io.StringIO(), width=200)
    found = evaluate(console, model=[str(path) for path in two_workdirs], crops=2)
    assert found["loss"] == pytest.approx(-np.log(mean[labels]).mean(), rel=1e-5)
    assert found["accuracy"] == np.mean(mean.argmax(axis=1) == data.labels)
    in_five = np.sum(mean > mean[labels][:, None], axis=1) < 5
    assert found["top5_accuracy"] == np.mean(in_five)
    for member, alone in zip(found["members"], each, strict=True):
        assert member["accuracy"] == np.mean(alone.argmax(axis=1) == data.labels)
        assert member["loss"] == pytest.approx(-np.log(alone[labels]).mean(), rel=1e-5)
    told = console.file.getvalue()
    assert "the average of 2 models: regression with norm=none" in told
    assert re.search(r"crops\W+2\b", told)
    assert f"{100 * found['members'][1]['accuracy']:.2f} % alone" in told
    assert not (two_workdirs[0] / "evaluation.json").exists()


def test_ten_crops_are_cut_from_the_image_and_resized(workdir, monkeypatch, rng):
    """Blocks of 7 pixels: a crop of 24 of 28 is resized as Pillow does it."""
    pixels = rng.integers(0, 256, (23, 28, 28, 1), dtype=np.uint8)
    labels = rng.integers(0, 10, 23)
    dataset = Dataset("noise", "test", pixels, labels, tuple("abcdefghij"))
    monkeypatch.setattr("zoo.data.opening.open_split", lambda *_: dataset)
    found = []
    for row, column in ((0, 0), (0, 4), (4, 0), (4, 4), (2, 2)):
        # 0.875 of 28 is 24.5, which is rounded to the even 24.
        cut = [PIL.Image.fromarray(x[row : row + 24, column : column + 24, 0]) for x in pixels]
        floats = [x.convert("F").resize((28, 28), PIL.Image.Resampling.BILINEAR) for x in cut]
        resized = np.stack([np.asarray(x, np.float64) for x in floats])
        found += [softmax_of(workdir, x) for x in (resized, resized[:, :, ::-1])]
    mean = np.mean(found, axis=0)
    result = evaluate(Console(quiet=True), workdir=str(workdir), dataset="noise", crops=10)
    assert result["loss"] == pytest.approx(-np.log(mean[np.arange(23), labels]).mean(), rel=1e-5)
    assert result["accuracy"] == np.mean(mean.argmax(axis=1) == labels)


def test_the_averaged_weights_of_a_run_are_asked_for(two_workdirs):
    first, other = two_workdirs
    message = f"{first} has no model_averaged.keras: its run kept no averages, which zoo.train does"
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        evaluate(Console(quiet=True), workdir=str(first), weights="averaged")
    (first / "model_averaged.keras").write_bytes((other / "model.keras").read_bytes())
    averaged = evaluate(Console(quiet=True), workdir=str(first), weights="averaged")
    raw = evaluate(Console(quiet=True), workdir=str(other))
    assert averaged["loss"] == raw["loss"]
    assert averaged["model_file"] == "model_averaged.keras"
    with pytest.raises(UserError, match=r"^--weights=averaged is for the working "):
        evaluate(Console(quiet=True), model=[str(first / "model.keras")], weights="averaged")


def test_models_of_other_classes_are_not_averaged(workdir, model_file, photos):
    del photos
    with pytest.raises(
        UserError, match=r"^The model takes images of shape \(16, 16, 3\) and knows"
    ):
        evaluate(Console(quiet=True), model=[str(workdir), str(model_file)])


def test_models_with_classes_in_another_order_are_not_averaged(model_file, photos, tmp_path):
    other = tmp_path / "other.keras"
    keras.saving.load_model(model_file).save(other)
    card = read_card(model_file)
    write_card(other, dataclasses.replace(card, class_names=card.class_names[::-1]))
    message = (
        "Models that are averaged must know the same classes in the same order: class 0 is "
        f"'blue' of {model_file} and 'red' of {other}."
    )
    options = {"dataset": "folder", "data_dir": str(photos), "split": "all"}
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        evaluate(Console(quiet=True), model=[str(model_file), str(other)], **options)
