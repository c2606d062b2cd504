"""Some steps of every recipe, on images that TensorFlow Datasets makes up; documented commands."""

import re
import shlex
from pathlib import Path

import pytest

import zoo
from zoo.training import fine_tuning
from zoo.training.cli.recipes import DEFAULT_RECIPE, load_recipe

ROOT = Path(__file__).parents[2]
#: A command, with the lines of flags that follow, after a backslash or not.
COMMAND = re.compile(r"(?:python -m zoo\.train|keras-renorm-train) (?:.|\n\s+(?=--))*")

RUN = """
import pathlib, sys
import tensorflow_datasets as tfds
from tensorflow_datasets.testing import mocking
from rich.console import Console
from zoo.data.dataset import PACKAGED
from zoo.training.cli.recipes import load_recipe, recipes
from zoo.training.run import train

EXAMPLES = 8
SIZES = {"inception_v3": 107, "inception_bn": 65}
SHORT = {
    "batch_size": 4, "eval_batch_size": 4, "num_steps": 3, "log_every_steps": 1,
    "eval_every_steps": 3, "checkpoint_every_steps": 3, "data_dir": FOLDER,
}

# That of TensorFlow Datasets 4.9 asks for a \"self\" that it is not given.
mocking._getitems = lambda keys, generator: [generator[key] for key in keys]

def describe(name):
    \"\"\"Writes what a prepared set says of itself.\"\"\"
    builder = tfds.builder(name, file_format="array_record")
    template = tfds.core.ShardedFileTemplate(
        dataset_name=name, data_dir=builder.data_path, filetype_suffix="array_record"
    )
    splits = [
        tfds.core.SplitInfo(
            name=split, shard_lengths=[EXAMPLES], num_bytes=0, filename_template=template
        )
        for split in ("train", "validation")
    ]
    builder.info.set_splits(tfds.core.SplitDict(splits))
    pathlib.Path(builder.data_path).mkdir(parents=True)
    builder.info.write_to_directory(builder.data_path)

with tfds.testing.mock_data(num_examples=EXAMPLES, data_dir=FOLDER):
    for recipe in recipes():
        config = load_recipe(recipe).to_dict() | SHORT
        if config["dataset"] == "folder":
            config["dataset"] = "imagenet2012"
        if config["image_size"]:
            config["image_size"] = SIZES.get(config["model"], 32)
        if config["dataset"] != PACKAGED and not pathlib.Path(FOLDER, config["dataset"]).exists():
            describe(config["dataset"])
        workdir = pathlib.Path(FOLDER, "runs", recipe)
        assert train(config, str(workdir), Console(quiet=True)) == 0
        print(recipe, (workdir / "model.keras").exists())
print(len(recipes()))
"""


@pytest.mark.slow
def test_every_recipe_trains_on_mock_data(run_python, tmp_path):
    code = RUN.replace("FOLDER", repr(str(tmp_path)))
    done = run_python(code, timeout=900, TF_CPP_MIN_LOG_LEVEL="3")
    assert done.returncode == 0, done.stderr
    *trained, count = done.stdout.splitlines()
    assert len(trained) == int(count) >= 9
    assert all(line.endswith(" True") for line in trained)


def freezing_commands():
    """The arguments of each command in docstrings and documents that freezes layers."""
    paths = [*ROOT.glob("zoo/**/*.py"), *ROOT.glob("docs/**/*.md"), ROOT / "README.md"]
    for path in paths:
        for command in COMMAND.findall(path.read_text(encoding="utf-8")):
            if "--config.freeze=" in command:
                words = shlex.split(re.sub(r"\\*\n", " ", command))
                given = dict(word[2:].split("=", 1) for word in words if "=" in word)
                yield pytest.param(given, id=path.name)


@pytest.mark.parametrize("given", [*freezing_commands()])
def test_every_command_that_freezes_layers_names_layers_of_its_model(given):
    recipe = load_recipe(given.get("config", DEFAULT_RECIPE))
    model = zoo.create_model(given.get("config.model", recipe.model))
    fine_tuning.freeze(model, given["config.freeze"])
    assert not all(layer.trainable for layer in model.layers)
