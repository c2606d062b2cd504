import csv
import io
import json
import pathlib
import re

import numpy as np
import pytest
from rich.console import Console

from zoo.errors import UserError
from zoo.trained.predicting import predict


def test_probabilities_are_those_of_images_prepared_by_pillow(model_file, photos, made):
    console = Console(file=io.StringIO(), width=200)
    found = predict(str(model_file), [str(photos / "red"), str(photos / "blue" / "0.jpg")], console)
    assert [one["path"] for one in found] == [
        *(f"{photos}/red/{i}.{'jpg' if i % 2 == 0 else 'png'}" for i in range(5)),
        f"{photos}/blue/0.jpg",
    ]
    for one in found:
        expected = made.expected_probabilities(pathlib.Path(one["path"]), model_file)
        told = {c["name"]: c["probability"] for c in one["classes"]}
        np.testing.assert_allclose([told[name] for name in made.CLASSES], expected, atol=2e-3)
        probabilities = [c["probability"] for c in one["classes"]]
        assert probabilities == sorted(probabilities, reverse=True)
    assert f"{100 * found[0]['classes'][0]['probability']:.1f} %" in console.file.getvalue()


def test_files_are_written_and_bad_images_named(model_file, photos, tmp_path):
    (photos / "red" / "bad.jpg").write_bytes(b"")
    outputs = [tmp_path / "out.json", tmp_path / "out.csv"]
    for output in outputs:
        found = predict(
            str(model_file), [str(photos)], Console(quiet=True), top=2, output=str(output)
        )
    assert json.loads(outputs[0].read_text()) == found
    assert found[-1] == {"path": f"{photos}/red/bad.jpg", "problem": "is empty"}
    rows = list(csv.DictReader(io.StringIO(outputs[1].read_text())))
    assert len(rows) == 2 * 15 + 1
    assert rows[0]["class"] == found[0]["classes"][0]["name"]
    assert float(rows[1]["probability"]) == pytest.approx(
        found[0]["classes"][1]["probability"], rel=1e-5
    )
    assert rows[-1]["problem"] == "is empty"


@pytest.mark.parametrize(
    ("names", "output", "message"),
    [
        (["nowhere"], None, "There is no file or folder 'nowhere'."),
        ([], "out.txt", "--output must end in .json or .csv, received out.txt."),
        ([], "nowhere/out.csv", "There is no folder nowhere to write out.csv to."),
    ],
)
def test_mistakes(model_file, names, output, message):
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        predict(str(model_file), names, Console(quiet=True), output=output)


def test_nothing_is_overwritten(model_file, photos, tmp_path):
    (tmp_path / "out.csv").write_text("precious")
    with pytest.raises(UserError, match=r"out\.csv exists already and is not overwritten"):
        predict(str(model_file), [str(photos)], Console(), output=str(tmp_path / "out.csv"))
    assert (tmp_path / "out.csv").read_text() == "precious"


def test_without_images_there_is_nothing_to_tell(model_file, tmp_path):
    (tmp_path / "notes.txt").write_text("words")
    with pytest.raises(UserError, match=r"no images that can be read .*notes.txt' is no image"):
        predict(str(model_file), [str(tmp_path / "notes.txt")], Console())
