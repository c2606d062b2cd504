import hashlib
import json

import numpy as np
import pytest

import zoo
from zoo.weights import RECORDS, Record, fetching, load

TOOL = "make_checkpoint_record"


def finish_run(folder, model, **evaluated):
    """Writes what zoo.train and zoo.evaluate leave of a model."""
    model.save(folder / "model.keras")
    (folder / "config.json").write_text(json.dumps({"dataset": "fashion_mnist"}))
    report = {
        "accuracy": 0.98765,
        "num_examples": 2000,
        "statistics": "moving",
        "dataset": "fashion_mnist",
        "split": "test",
        "model": model.name,
        "norm": "batch_renorm",
        "model_sha256": hashlib.sha256((folder / "model.keras").read_bytes()).hexdigest(),
    }
    (folder / "evaluation.json").write_text(json.dumps(report | evaluated))


@pytest.fixture
def run_folder(tmp_path):
    """A finished run."""
    model = zoo.create_model(
        "mlp",
        input_shape=(4, 4, 1),
        num_classes=3,
        hidden_units=(5,),
        norm_options={"epsilon": 0.1},
    )
    for weight in model.weights:
        if weight.name == "moving_mean":
            weight.assign(np.arange(5.0))
    finish_run(tmp_path, model)
    return tmp_path, model


def test_the_entry_makes_the_weights_loadable_by_name(run_folder, run_tool, tmp_path, monkeypatch):
    workdir, model = run_folder
    folder = tmp_path / "files"
    arguments = f"--workdir={workdir}", "--tag=tiny", f"--folder={folder}", "--origin=zoo.train"
    status, out, err = run_tool(TOOL, *arguments)
    assert status == 0, err
    record = eval(out.rstrip().rstrip(","), {"Record": Record})
    assert record.name == "mlp.tiny"
    assert (record.top1, record.top1_source) == (98.77, "2,000 images of fashion_mnist, test")
    assert (record.input_shape, record.num_classes) == ((4, 4, 1), 3)
    assert (record.norm, record.norm_options) == ("batch_norm", {"epsilon": 0.1})
    assert record.parameters == model.count_params()

    monkeypatch.setattr(fetching, "PACKAGED_FILES", folder)
    monkeypatch.setitem(RECORDS, record.name, record)
    other = zoo.create_model(
        "mlp",
        input_shape=(4, 4, 1),
        num_classes=3,
        hidden_units=(5,),
        norm_options={"epsilon": 0.1},
    )
    load(other, "tiny")
    x = np.random.default_rng(0).uniform(size=(2, 4, 4, 1)).astype(np.float32)
    np.testing.assert_array_equal(other(x), model(x))

    status, out, err = run_tool(TOOL, *arguments)
    assert (status, out) == (1, "")
    assert "mlp.tiny.weights.h5 exists already and is not overwritten" in err


def test_a_model_with_an_auxiliary_classifier(run_tool, tmp_path):
    model = zoo.create_model("inception_bn", input_shape=(65, 65, 1), num_classes=2)
    finish_run(tmp_path, model)
    folder = tmp_path / "files"
    status, out, err = run_tool(
        TOOL, f"--workdir={tmp_path}", "--tag=tiny", f"--folder={folder}", "--origin=zoo.train"
    )
    assert status == 0, err
    record = eval(out.rstrip().rstrip(","), {"Record": Record})
    assert (record.name, record.num_classes) == ("inception_bn.tiny", 2)


@pytest.mark.parametrize("tag", ["", "../tiny", "a b"])
def test_what_is_no_tag_is_refused(run_folder, run_tool, tmp_path, tag):
    status, out, err = run_tool(
        TOOL,
        f"--workdir={run_folder[0]}",
        f"--tag={tag}",
        f"--folder={tmp_path / 'files'}",
        "--origin=zoo.train",
    )
    assert (status, out) == (1, "")
    assert f"error: --tag must be of letters, digits, _, - and ., received {tag!r}." in err
    assert not (tmp_path / "files").exists()


def test_an_evaluation_of_another_model_is_refused(run_folder, run_tool, tmp_path):
    workdir, model = run_folder
    model.save(workdir / "model.keras")
    with (workdir / "model.keras").open("ab") as file:
        file.write(b"x")
    status, out, err = run_tool(
        TOOL, f"--workdir={workdir}", "--tag=tiny", f"--folder={tmp_path}", "--origin=zoo.train"
    )
    assert (status, out) == (1, "")
    assert "is not about one view of each image by the moving statistics of" in err
    assert f"python -m zoo.evaluate --workdir={workdir} again." in err


@pytest.mark.parametrize("evaluated", [{"dataset": "mnist"}, {"split": "train"}])
def test_an_evaluation_on_other_images_is_refused(run_folder, run_tool, tmp_path, evaluated):
    workdir, model = run_folder
    finish_run(workdir, model, **evaluated)
    status, out, err = run_tool(
        TOOL, f"--workdir={workdir}", "--tag=tiny", f"--folder={tmp_path}", "--origin=zoo.train"
    )
    assert (status, out) == (1, "")
    assert "not about images of fashion_mnist that the model has not seen" in err


def test_a_norm_that_a_record_does_not_know_is_refused(run_folder, run_tool, tmp_path):
    workdir, model = run_folder
    finish_run(workdir, model, norm="none")
    status, out, err = run_tool(
        TOOL, f"--workdir={workdir}", "--tag=tiny", f"--folder={tmp_path}", "--origin=zoo.train"
    )
    assert (status, out) == (1, "")
    assert "has a model with norm='none'; a record holds one with batch_norm" in err
