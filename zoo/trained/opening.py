"""A trained model: of a working directory, of a file, or by the name of a checkpoint."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
from rich.console import Console

import zoo
from zoo.data import datasets
from zoo.data.dataset import PACKAGED
from zoo.data.preparation import Preparation
from zoo.errors import UserError, nearest
from zoo.trained.card import Card, read_card
from zoo.trained.strangers import adopted, numbered
from zoo.training import builders, pictures
from zoo.training.cli import terminal
from zoo.training.keys import KEYS
from zoo.training.storage import model_files
from zoo.training.storage.workdir import Workdir
from zoo.weights import WeightsError, get_record, list_weights
from zoo.weights.inputs import ImagePreprocessing
from zoo.weights.record import Preprocessing


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained model and what is known of it.

    Attributes:
        name: The name by which it was asked for.
        model: From prepared images to probabilities, with an auxiliary classifier if it has one.
        card: Its classes and how images are prepared.
        config: The config of the run that made it, with defaults for what is not known.
        file: The .keras file; None for a checkpoint.
        workdir: The run's working directory, or None.
        notes: Sentences about what is assumed, which a user should see.
    """

    name: str
    model: keras.Model
    card: Card
    config: Mapping[str, Any]
    file: Path | None = None
    workdir: Workdir | None = None
    notes: tuple[str, ...] = ()

    @property
    def classifier(self) -> keras.Model:
        """The model without the auxiliary classifier, to probabilities."""
        model = builders.classifier_of(self.model)
        if not self.card.logits:
            return model
        probabilities = keras.layers.Softmax()(model.outputs[0])
        return keras.Model(model.inputs[0], probabilities, name=model.name)


def open_trained(
    name: str,
    *,
    averaged: bool = False,
    pixels: Preprocessing | None = None,
) -> Trained:
    """Opens a trained model.

    Args:
        name: The working directory of a finished run, a .keras file, or one of
            `zoo.list_weights()`.
        averaged: Whether to take the averages of all weights, which a working directory may have.
        pixels: What a .keras file takes, if it does not say so: see `ImagePreprocessing`.

    Raises:
        UserError: If there is no such model; the message says what was looked for.
    """
    path = Path(name).expanduser()
    if path.is_file() and not averaged:
        return _open_file(path, pixels)
    refuse_pixels(pixels, name)
    if path.is_dir():
        return open_workdir(name, averaged=averaged)
    if averaged:
        raise UserError(
            f"--weights=averaged is for the working directory of a run, received --model={name}."
        )
    if "/" in name or name.endswith((".keras", ".h5")):
        raise UserError(f"--model={name}: there is no such file or folder.")
    return _open_checkpoint(name)


def refuse_pixels(pixels: Preprocessing | None, name: str) -> None:
    """Raises a `UserError` when pixels were given for a model that says them itself."""
    if pixels is not None:
        raise UserError(
            f"--pixels={pixels} is for a .keras file that does not say what its pixels are, "
            f"received {name}. Leave it out."
        )


def open_workdir(path: str, *, averaged: bool = False) -> Trained:
    """Opens the model of a finished run of `zoo.train`.

    Args:
        path: The working directory.
        averaged: Whether to take the averages of all weights.

    Raises:
        UserError: If there is no such model in this folder.
    """
    workdir = Workdir(path)
    config = defaults() | workdir.read_config("model", "norm", "dataset", "num_steps")
    model = load_model(workdir, averaged=averaged)
    file = workdir.averaged if averaged else workdir.model
    card = read_card(file) or _card_of_run(model, config)
    return Trained(path, model, _sized(card, model), config, file, workdir)


def _sized(card: Card, model: keras.Model) -> Card:
    """Returns a card that says the size of the images, also where they were taken as stored.

    Images that a model is shown later, mostly photographs, have other sizes and are resized.
    """
    height, width, _ = builders.classifier_of(model).input_shape[1:]
    if card.preparation.size or height is None or height != width:
        return card
    return dataclasses.replace(card, preparation=dataclasses.replace(card.preparation, size=height))


def say_notes(trained: Trained, console: Console) -> None:
    """Prints what is assumed of a model. Call it when nothing can prevent its use any more."""
    for note in trained.notes:
        terminal.say(console, note)


def defaults() -> dict[str, Any]:
    """Returns the values of keys that a run's config does not have."""
    return {name: key.default for name, key in KEYS.items()}


def _card_of_run(model: keras.Model, config: Mapping[str, Any]) -> Card:
    """Returns the card that an older release did not write: images kept their stored size."""
    classes = datasets.load(PACKAGED, "test").class_names if config["dataset"] == PACKAGED else None
    channels = builders.classifier_of(model).input_shape[-1]
    prepared = dataclasses.replace(pictures.preparation(config), channels=channels)
    return Card(
        classes or numbered(builders.classifier_of(model).output_shape[-1]),
        prepared,
        config["model"],
        config["norm"],
        config["dataset"],
    )


def load_model(workdir: Workdir, *, averaged: bool = False) -> keras.Model:
    """Returns the model of a finished run, or the averages of its weights.

    Raises:
        UserError: When the run is not finished, has no such model, or it cannot be read.
    """
    if not workdir.model.exists():
        raise UserError(
            f"{workdir.path} holds an unfinished run: it has no {workdir.model.name} yet. The "
            "zoo.train command that began it resumes it."
        )
    if workdir.model.is_dir():
        raise UserError(f"{workdir.model} is a folder, not a model.")
    if averaged and not workdir.averaged.is_file():
        raise UserError(
            f"{workdir.path} has no {workdir.averaged.name}: its run kept no averages, which "
            "zoo.train does with --config.average_decay=0.999."
        )
    return model_files.load(workdir.averaged if averaged else workdir.model)


def _open_file(path: Path, pixels: Preprocessing | None) -> Trained:
    """Opens a .keras file, of this package or another."""
    if path.suffix != ".keras":
        raise UserError(
            f"--model={path}: a model is a .keras file, the working directory of a run, or the "
            "name of a checkpoint. Weights alone are loaded by zoo.create_model(weights=...)."
        )
    model, card = model_files.load(path), read_card(path)
    notes: list[str] = []
    if card is None:
        card = adopted(model, path, pixels, notes.append)
    elif len(card.class_names) != builders.classifier_of(model).output_shape[-1]:
        raise UserError(
            f"{path} is damaged: it names {len(card.class_names)} classes, and its model knows "
            f"{builders.classifier_of(model).output_shape[-1]}."
        )
    elif pixels not in (None, card.preparation.pixels):
        raise UserError(
            f"--pixels={pixels} contradicts {path}, which says that its pixels are "
            f"{card.preparation.pixels}. Leave it out."
        )
    config = defaults() | {
        key: value
        for key, value in (("held_out", card.held_out), ("seed", card.seed))
        if value is not None
    }
    return Trained(str(path), model, _sized(card, model), config, path, notes=tuple(notes))


def _open_checkpoint(name: str) -> Trained:
    """Opens a checkpoint that is known by name."""
    try:
        record = get_record(name)
    except WeightsError as error:
        raise UserError(
            f"--model={name}: there is no such file, folder or checkpoint."
            f"{nearest(name, list_weights())} python -m zoo.list lists the checkpoints."
        ) from error
    if record.num_classes is None:
        raise UserError(f"--model={name}: these weights have no classifier.")
    model = zoo.create_model(
        record.architecture,
        weights=record.tag,
        input_shape=record.input_shape,
        num_classes=record.num_classes,
        norm=record.norm,
        norm_options=record.norm_options,
        data_format="channels_last",
    )
    height, _, channels = record.input_shape
    prepared = Preparation(
        height, channels, 0.875 if height >= 224 else 1.0, pixels=record.preprocessing
    )
    names = record.class_names or numbered(record.num_classes)
    card = Card(names, prepared, record.architecture, record.norm, record.dataset)
    return Trained(name, model, card, defaults() | {"dataset": record.dataset})


def pipeline_model(trained: Trained, model: keras.Model) -> keras.Model:
    """Returns a model of stored pixels in [0, 255], of the size that `model` takes.

    Args:
        trained: Says what pixels are mapped to.
        model: A model of prepared images.
    """
    images = keras.Input(model.input_shape[1:], name="images")
    mapped = ImagePreprocessing(trained.card.preparation.pixels, "channels_last")(images)
    return keras.Model(images, model(mapped), name=model.name)
