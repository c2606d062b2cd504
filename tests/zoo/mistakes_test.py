"""Wrong flags, values, files and folders of every program: a line each, and nothing is written."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import PIL.Image
import pytest

RUN, NEW = "--workdir=run", "--workdir=new"
FOLDER = ("--dataset=folder", "--data_dir=photos", "--split=all")
#: By program: the arguments, and what the line holds.
MISTAKES = {
    "train": [
        ((), "--workdir is missing: add it, as in --workdir=runs/quickstart."),
        (("--workdir=",), "--workdir is missing: add it"),
        (("--workdir",), "Missing value for flag --workdir."),
        (("--workdir=text.txt",), "--workdir=text.txt: text.txt is not a folder."),
        (("--workdir=text.txt/new",), "text.txt is not a folder."),
        (("--workdir=dangling",), "--workdir=dangling: dangling is not a folder."),
        (("--workdir=loop",), "--workdir=loop: loop is not a folder."),
        (("--workdir=/proc/x",), "--workdir=/proc/x cannot be written: "),
        (("--workdir=photos",), "photos is not empty and holds no run of zoo.train: nothing was"),
        (("--workdir=damaged",), "damaged/config.json cannot be read: Expecting property name"),
        (("--workdir=other_kind",), "other_kind is not empty and holds no run of zoo.train"),
        ((RUN, "--config.seed=1"), "run holds a run with another config: augment (there T"),
        ((NEW, "stray"), "'stray' is not a flag: flags look like --name=value."),
        ((NEW, "--wrkdir=x"), "There is no flag --wrkdir. Did you mean 'workdir'?"),
        ((NEW, "--dry_run=3"), "flag --dry_run=3: "),
        ((NEW, "--verbosity=x"), "flag --verbosity=x: "),
        ((NEW, "--flagfile=nowhere"), "Unable to open flagfile: "),
        ((NEW, "--flagfile=one.png"), "A --flagfile must be a text of flags in UTF-8: "),
        ((NEW, "--profile_steps=5"), "--profile_steps must be the first and the last step, such"),
        ((NEW, "--profile_steps=8,9000"), "--profile_steps must be at most num_steps (3000), rec"),
        ((NEW, "--config"), "--config needs a value: few_labels, "),
        ((NEW, "--config="), "there is no recipe ''. Recipes are few_labels"),
        ((NEW, "--config=resnet21"), "there is no recipe 'resnet21'. Did you mean 'resnet20'?"),
        ((NEW, "--config=nothing.py"), "--config=nothing.py: there is no such file."),
        ((NEW, "--config=photos/"), "--config=photos/: there is no such file."),
        ((NEW, "--config=garbage.py"), "--config=garbage.py failed: SyntaxError: "),
        ((NEW, "--config=raising.py"), "--config=raising.py failed: SystemExit: 3"),
        ((NEW, "--config.nrom=none"), "there is no config key 'nrom'. Did you mean 'norm'?"),
        ((NEW, "--config.norm.x=3"), "there is no config key 'norm.x'. Did you mean 'norm'?"),
        ((NEW, "--config.=3"), "there is no config key ''."),
        ((NEW, "--config.num_steps=many"), "must be a whole number, received 'many'."),
        ((NEW, "--config.num_steps=1e3"), "must be a whole number, received '1e3'."),
        ((NEW, "--config.num_steps=-5"), "--config.num_steps must be at least 1, received -5."),
        ((NEW, f"--config.num_steps={9**30}"), "must be at most 2147483647, received 4239"),
        ((NEW, "--config.learning_rate=nan"), "must be finite and at most 3.40282e+38, received"),
        ((NEW, "--config.learning_rate="), "--config.learning_rate must be a number, received ''."),
        ((NEW, "--config.learning_rate=1e-50"), "received 1e-50, which is 0 in float32."),
        ((NEW, "--config.warmup_steps=1.5"), "must be from 0 to 1 as a share, received 1.5."),
        ((NEW, "--config.warmup_steps=-inf"), "must be from 0 to 1 as a share, received -inf."),
        ((NEW, "--config.r_max_ramp=nan,nan"), "must be times with commas between, each a number"),
        ((NEW, "--config.jit=maybe"), "--config.jit must be true or false, received 'maybe'."),
        ((NEW, "--config.norm=batchnorm"), "Did you mean 'batch_norm'?"),
        ((NEW, "--config.norm=none", "--config.synchronized"), "has no effect with norm=none"),
        ((NEW, "--config.norm=batch_norm", "--config.r_max=3"), "has no effect with norm=batch_n"),
        ((NEW, "--config.num_replicas=3"), "has no effect with strategy=none: it is for strategy"),
        ((NEW, "--config.data_dir=photos"), "has no effect with dataset=fashion_mnist_subset"),
        ((NEW, "--config.batch_size=60", "--config.accumulate=7"), "must divide batch_size (60)"),
        ((NEW, "--config.strategy=multi_worker"), "needs the environment variable TF_CONFIG"),
        ((NEW, "--config.stochastic_depth_rate=1"), "must be at least 0 and below 1, received 1."),
        ((NEW, "--config.stochastic_depth_rate=x"), "_rate must be a number, received 'x'."),
        ((NEW, "--config.stochastic_depth_rate=0.5"), "model=mlp, which has no residual branches."),
        ((NEW, "--config.model=mpl"), "Unknown model 'mpl'. Did you mean 'mlp'?"),
        ((NEW, "--config.model=résnet20"), "Unknown model 'résnet20'. Did you mean 'resnet20'?"),
        ((NEW, "--config.model=wide_resnet_100000_100000"), "Choose a smaller depth or width."),
        ((NEW, "--config.model=raising.py:make"), "--config.model=raising.py:make failed, called"),
        ((NEW, "--config.model=raising.py:value"), "raising.py has no function or class 'value'."),
        ((NEW, "--config.optimizer=nothing:x"), "cannot be imported: ModuleNotFoundError: No mo"),
        ((NEW, "--config.dataset=mnits"), "Unknown dataset 'mnits'. Did you mean 'mnist'?"),
        ((NEW, "--config.dataset=../etc"), "'../etc' is not the name of a dataset."),
        ((NEW, "--config.dataset=mnist", "--config.data_dir=empty"), "'mnist' is not prepared in"),
        ((NEW, "--config.dataset=folder"), "Dataset 'folder' needs --config.data_dir=DIR, a fold"),
        (
            (NEW, "--config.dataset=folder", "--config.data_dir=empty"),
            "empty must hold a folder of images for each of two classes or more, received [].",
        ),
        (
            (NEW, "--config.dataset=folder", "--config.data_dir=one.png"),
            "data_dir 'one.png' is not a directory that can be read.",
        ),
        (
            (NEW, "--config=fine_tune", "--config.data_dir=photos", "--config.image_size=0"),
            "--config.crop=inception needs the --config.image_size that its crops are resized to",
        ),
        (
            (NEW, "--config.dataset=folder", "--config.data_dir=dirty", "--config.image_size=8"),
            "files in dirty cannot be used: 'a/empty.jpg' is empty. Mend or remove them, or leave",
        ),
        (
            ("--workdir=photos/run", "--config.dataset=folder", "--config.data_dir=photos"),
            "--workdir=photos/run lies in the class folders of --config.data_dir=photos, where it",
        ),
        ((NEW, "--config.weights=nowhere.keras"), "--config.weights=nowhere.keras: there is no s"),
        ((NEW, "--config.weights=run"), "run is a folder, and `weights` is the path of a file."),
        ((NEW, "--config.weights=garbage.keras"), "garbage.keras is damaged: it is not a whole"),
        (
            (NEW, "--config.weights=small.keras"),
            "does not fit: layer hidden1_dense has weights kernel (784, 100) here",
        ),
        ((NEW, "--config.weights=one.png"), "one.png"),
        ((NEW, "--config.weights=resnet20.fashion_mnist"), "resnet20.fashion_mnist"),
        ((NEW, "--config.freeze=nothing*"), "--config.freeze: 'nothing*' matches no layer."),
        ((NEW, "--config.labels_per_batch=11"), "11"),
    ],
    "evaluate": [
        ((), "--workdir is missing: add it, as in --workdir=runs/quickstart."),
        (("--workdr=a",), "There is no flag --workdr. Did you mean 'workdir'?"),
        (("--workdir=nowhere",), "nowhere holds no run of zoo.train: there is no nowhere/config"),
        (("--workdir=text.txt",), "text.txt/config.json cannot be read: "),
        (("--workdir=damaged",), "damaged/config.json cannot be read: Expecting"),
        (("--workdir=unfinished",), "unfinished holds an unfinished run: it has no model.keras"),
        ((RUN, "--weights=averaged"), "run has no model_averaged.keras: its run kept no averages"),
        ((RUN, "--weights=mean"), "flag --weights=mean: value should be one of <raw|averaged>."),
        ((RUN, "--pixels=raw"), "--pixels=raw is for a .keras file that does not say what its pi"),
        ((RUN, "--crops=3"), "flag --crops=3: value should be one of <1|2|10|144>."),
        ((RUN, "--model=small.keras"), "Say what to evaluate: --workdir=DIR, or --model=FILE or"),
        ((RUN, "--num_samples=9"), "--num_samples=9 is for --statistics=precise, received --stat"),
        ((RUN, "--statistics=precise", "--num_samples=10001"), "must be at most the 10000 images"),
        ((RUN, "--batch_size=0"), "flag --batch_size=0: 0 is not an integer in the range [1,"),
        ((RUN, "--batch_size=nan"), "flag --batch_size=nan: invalid literal"),
        ((RUN, "--split="), "Unknown split ''. Allowed are 'train' and 'test'."),
        ((RUN, "--dataset=nothing"), "Unknown dataset 'nothing'."),
        ((RUN, "--output="), "--output must end in .json, received ."),
        ((RUN, "--output=run/config.json"), "run/config.json exists already and is not overwri"),
        ((RUN, "--output=empty/a/b.json"), "There is no folder empty/a to write b.json to."),
        ((RUN, "--dataset=folder"), "Dataset 'folder' needs --data_dir=DIR, a folder that holds"),
        ((RUN, *FOLDER), "photos has folders that are no classes of the training images: cat, dog"),
        (("--model=small.keras",), "small.keras does not say which images it is for: name a set"),
        (("--model=small.keras", "--model=run", *FOLDER), "photos has folders that are no classes"),
        (("--model=run", "--pixels=raw"), "--pixels=raw is for a .keras file that does not say"),
    ],
    "predict": [
        (("--model=run",), "Say which images to classify, as in: python -m zoo.predict --model="),
        (("one.png",), "--model is missing: add it, as in --model=runs/quickstart."),
        (("--model=run", "nowhere.png"), "There is no file or folder 'nowhere.png'."),
        (("--model=run", ""), "There is no file or folder ''."),
        (("--model=run", "empty"), "There are no images that can be read in empty."),
        (("--model=run", "text.txt"), "'text.txt' is no image that can be read"),
        (("--model=run", "loop"), "'loop' cannot be read: Too many levels of symbolic links"),
        (("--model=run", "one.png", "--output=x.txt"), "must end in .json or .csv, received x.txt"),
        (("--model=run", "one.png", "--output=there.csv"), "there.csv exists already and is not"),
        (("--model=run", "one.png", "--top=0"), "flag --top=0: 0 is not an integer in the range"),
        (("--model=empty.keras", "one.png"), "empty.keras is damaged: it is not a whole .keras"),
        (("--model=folder.keras", "one.png"), "folder.keras holds no run of zoo.train"),
        (("--model=foreign.keras", "one.png"), "There is no item named 'config.json' in the arch"),
        (("--model=few_names.keras", "one.png"), "it names 1 classes, and its model knows 3."),
        (("--model=no_card.keras", "one.png"), "no_card.keras: its zoo.json cannot be read: "),
        (("--model=vector.keras", "one.png"), "vector.keras is no image classifier: its input"),
        (("--model=weights.h5", "one.png"), "weights.h5: a model is a .keras file, the working"),
        (("--model=resnet20.fashion", "one.png"), "Did you mean 'resnet20.fashion_mnist'?"),
    ],
    "export": [
        (("--model=run",), "--output is missing: add it, as in --output=served."),
        (("--model=run", "--output=x", "--format=c"), "flag --format=c: value should be one of"),
        (("--model=run", "--output=x.h5"), "--output=x.h5: there is no format for .h5. Give a"),
        (("--model=run", "--output=x", "--format=litert"), "must end in .tflite for --format=lit"),
        (("--model=run", "--output=dangling"), "dangling exists already and is not overwritten"),
        (("--model=run", "--output=photos"), "photos exists already and is not overwritten"),
        (("--model=run", "--output=empty/a/b"), "There is no folder empty/a to write b to."),
        (("--model=run", "--output=x", "nowhere"), "There is no file or folder 'nowhere'."),
        (("--model=any_size.keras", "--output=x", "photos"), "The images have several sizes, and"),
        (("--model=unfinished", "--output=x"), "unfinished holds an unfinished run: it has no mo"),
        (("--model=small.keras", "--output=x"), "small.keras does not say which images it is for"),
    ],
    "recalibrate": [
        (("--model=run", "photos"), "--output is missing: add it, as in --output=recalibrated.k"),
        (("--model=run", "--output=x.keras"), "Say which images to take the statistics of"),
        (("--model=run", "--output=x.h5", "photos"), "--output must end in .keras, received x.h5"),
        (("--model=run", "--output=small.keras", "photos"), "small.keras exists already and is no"),
        (("--model=run", "--output=x.keras", "empty"), "There are no images that can be read in"),
        (
            ("--model=run", "--output=x.keras", "photos", "--num_samples=99"),
            "--num_samples must be at most the 4 images of folder, all; received 99.",
        ),
        (("--model=any_size.keras", "--output=x.keras", "photos"), "The images have several size"),
    ],
    "convert": [
        ((), "--source is missing: add it, as in --source=model.keras."),
        (("--kind=torch",), "flag --kind=torch: value should be one of <keras_renorm|tf_keras|"),
        (("--source=small.keras", "--output=x.h5"), "--output must end in .keras, received x.h5."),
        (("--source=nowhere", "--output=x.keras"), "There is no file nowhere."),
        (("--source=small.keras", "--output=small.keras"), "small.keras exists already and is no"),
        (
            ("--source=vector.keras", "--output=x.keras"),
            "holds no batch norm: no layer of keras_re",
        ),
        (("--source=folder.keras", "--output=x.keras"), "folder.keras is a folder, and a model is"),
        (("--source=one.png", "--output=x.keras"), "one.png cannot be read: "),
        (("--source=a", "--output=b", "--model=c"), "--model=NAME goes with --kind=keras_applicat"),
        (
            (
                "--kind=keras_applications",
                "--model=mlp",
                "--source=one.png",
                "--output=x.weights.h5",
            ),
            "Unknown model 'mlp' of keras.applications. Allowed are inception_v3, ",
        ),
    ],
    "plot": [
        ((), "Say which runs to draw, as in: python -m zoo.plot runs/quickstart."),
        (("nowhere",), "nowhere holds no run of zoo.train: there is no nowhere/config.json."),
        (("text.txt",), "text.txt/config.json cannot be read: "),
        (("run", "--output=a.jpg"), "--output=a.jpg must end in one of .pdf, .png, .svg."),
        (("run", "--output=one.png"), "one.png exists: add --overwrite, or choose another"),
        (("run", "--output=empty/a/b.png"), "--output=empty/a/b.png: empty/a is not a folder."),
    ],
    "list": [
        (("a", "b"), "Give one pattern, received 2: a b."),
        (("nothing*",), "No model and no weights match 'nothing*'."),
    ],
    "fetch": [
        ((), "Say what to download, as in: python -m zoo.fetch resnet50.keras_imagenet."),
        (("resnet5.x",), "There are no weights 'resnet5.x'."),
        (("resnet50.keras_imagenet", "--zoo_url=ftp://x"), "cannot be loaded from 'ftp://x': --"),
        (("resnet50.keras_imagenet", "--zoo_url=empty"), "There is no file empty/resnet50_weights"),
    ],
    "reproduce": [
        ((), "--experiment is missing: add it, as in --experiment=non_iid."),
        (("--experiment=non_iid",), "--workdir is missing: add it, as in --workdir=runs/evidence."),
        (("--experiment=nothing", NEW), "There is no experiment 'nothing'."),
        (("--experiment=non_iid", NEW, "--scale=big"), "--scale must be one of smoke, default, "),
        (("--experiment=non_iid", NEW, "--seeds=0"), "flag --seeds=0: 0 is not an integer in the"),
        (("--experiment=non_iid", "--workdir=text.txt"), "text.txt is not a folder."),
        (("--experiment=non_iid", "--workdir=loop/a"), "loop is not a folder."),
        (("--experiment=non_iid", RUN), "run holds a run of zoo.train: nothing was written."),
    ],
}


def make_models(folder):
    """Files of several kinds that end in .keras."""
    layers = keras.layers
    flat = (layers.Flatten(), layers.Dense(3, "softmax"))
    for name, shape, between in (
        ("small", (8, 8, 3), (layers.BatchNormalization(), *flat)),
        ("vector", (5,), (layers.Dense(3),)),
        (
            "any_size",
            (None, None, 3),
            (layers.BatchNormalization(), layers.GlobalMaxPooling2D(), layers.Softmax()),
        ),
    ):
        keras.Sequential([keras.Input(shape), *between]).save(folder / f"{name}.keras")
    (folder / "garbage.keras").write_bytes(b"\0garbage")
    (folder / "empty.keras").touch()
    (folder / "folder.keras").mkdir()
    prepared = {"size": 8, "channels": 3}
    for name, card in (
        ("few_names", {"class_names": ["a"], "preparation": prepared}),
        ("no_card", {"class_names": 5}),
    ):
        shutil.copy(folder / "small.keras", folder / f"{name}.keras")
        with zipfile.ZipFile(folder / f"{name}.keras", "a") as archive:
            archive.writestr("zoo.json", json.dumps(card))
    with zipfile.ZipFile(folder / "foreign.keras", "w") as archive:
        archive.writestr("a", "b")


@pytest.fixture(scope="module")
def scene(finished_run, tmp_path_factory):
    """A folder with runs, models, images and what is none of these."""
    folder = tmp_path_factory.mktemp("scene")
    shutil.copytree(finished_run[0], folder / "run")
    shutil.copytree(finished_run[0], folder / "unfinished")
    (folder / "unfinished" / "model.keras").unlink()
    for name in ("damaged", "other_kind", "empty"):
        (folder / name).mkdir()
    (folder / "damaged" / "config.json").write_text("{")
    (folder / "other_kind" / "config.json").mkdir()
    (folder / "text.txt").write_text("words")
    (folder / "there.csv").write_text("kept")
    (folder / "weights.h5").write_bytes(b"words")
    (folder / "garbage.py").write_bytes(b"\xff\0")
    (folder / "raising.py").write_text(
        "value = 3\ndef make(**options):\n    raise RuntimeError('a\\nb')\n"
        "def get_config():\n    raise SystemExit(3)\n"
    )
    (folder / "dangling").symlink_to("nowhere")
    (folder / "loop").symlink_to("loop")
    for name in ("photos/cat", "photos/dog", "dirty/a", "dirty/b"):
        (folder / name).mkdir(parents=True)
    image = PIL.Image.fromarray(np.full((9, 8, 3), 99, np.uint8))
    for name in ("one", "photos/cat/a", "photos/cat/b", "photos/dog/a", "dirty/a/a", "dirty/b/a"):
        image.save(folder / f"{name}.png")
    image.resize((20, 30)).save(folder / "photos" / "dog" / "b.jpg")
    (folder / "dirty" / "a" / "empty.jpg").touch()
    make_models(folder)
    return folder


def test_a_mistake_is_one_line_and_nothing_is_written(scene, tmp_path):
    cases = [(f"zoo.{name}", a, says) for name, all_ in MISTAKES.items() for a, says in all_]
    calls = tmp_path / "calls.json"
    calls.write_text(json.dumps([case[:2] for case in cases]))
    cleared = {"TF_CPP_MIN_LOG_LEVEL", "KERAS_BACKEND", "TF_CONFIG"}
    # Python's own cache of a config file would count as written.
    added = {"PYTHONDONTWRITEBYTECODE": "1", "ZOO_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("many_programs.py"), calls],
        cwd=scene,
        env={k: v for k, v in os.environ.items() if k not in cleared}
        | {"PYTHONPATH": str(Path(__file__).parents[2]), **added},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    wrong = []
    for (module, arguments, says), found in zip(cases, json.loads(done.stdout), strict=True):
        line = found["err"].startswith("error: ") and found["err"].count("\n") == 1
        if not line or says not in found["err"] or found["status"] != 2 or found["out"]:
            wrong.append((module, arguments, says, found))
        elif found["touched"]:
            wrong.append((module, arguments, "touched", found["touched"]))
    assert not wrong, "\n".join(map(str, wrong))
    assert len(cases) > 150
