"""Models of others, which say nothing of their classes and images."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_renorm.models.members import named_layers
from zoo.data.preparation import Preparation
from zoo.errors import UserError
from zoo.trained.card import Card
from zoo.weights.inputs import ImagePreprocessing
from zoo.weights.record import Preprocessing

#: What pixels are, in words.
_PIXELS: dict[Preprocessing, str] = {
    "unit": "from 0 to 1",
    "tf": "from -1 to 1",
    "caffe": "blue, green, red without their means",
    "raw": "from 0 to 255",
}

#: Images to find out whether a model gives probabilities; their side where it takes any.
_PROBED, _SIDE = 4, 256


def adopted(
    model: keras.Model, path: Path, pixels: Preprocessing | None, report: Callable[[str], None]
) -> Card:
    """Returns a card for a model that has none, from what the model shows.

    Args:
        model: The model.
        path: Its file.
        pixels: What the pixels are, if that is known.
        report: Called with a sentence about what is assumed.

    Raises:
        UserError: If it is no classifier of images.
    """
    if problem := _problem(model):
        raise UserError(f"{path} is no image classifier: {problem}")
    height, width, channels = model.input_shape[1:]
    if pixels is None:
        pixels = _pixels_of(model)
        report(
            f"{path} does not say what its pixels are: taken as {_PIXELS[pixels]}. If they are "
            f"others, give --pixels={'|'.join(_PIXELS)}."
        )
    if pixels == "caffe" and channels != 3:
        raise UserError(
            f"--pixels=caffe needs a model that takes images with 3 channels, received {path} for "
            f"{channels}. Give another one of {', '.join(_PIXELS)}, or leave it out."
        )
    logits = not _is_distribution(_outputs(model))
    if logits:
        report(f"{path} gives no probabilities: its outputs are taken for logits.")
    size = height if height and height == width else 0
    prepared = Preparation(size=size, channels=channels, pixels=pixels)
    return Card(numbered(model.output_shape[-1]), prepared, model.name, logits=logits)


def numbered(count: int) -> tuple[str, ...]:
    """Returns names for classes that have none."""
    return tuple(map(str, range(count)))


def _problem(model: Any) -> str:
    """Returns why a model is no classifier of images; nothing for one that is."""
    inputs, outputs = (getattr(model, name, None) or [] for name in ("inputs", "outputs"))
    if (len(inputs), len(outputs)) != (1, 1):
        return (
            "it must be a functional or Sequential model with one input and one output, received "
            f"{len(inputs)} and {len(outputs)}."
        )
    shape, given = tuple(inputs[0].shape), tuple(outputs[0].shape)
    if len(shape) != 4 or shape[-1] not in (1, 3):
        return (
            "its input must be images (H, W, C) with 1 or 3 channels, the channels last, received "
            f"{shape}."
        )
    if len(given) != 2 or given[1] is None or given[1] < 2:
        return f"its output must be probabilities or logits of 2 classes or more, received {given}."
    found = _outputs(model)
    if not np.all(np.isfinite(found)):
        return "its outputs for images of noise are not finite."
    if np.all((found >= 0) & (found <= 1)) and not _is_distribution(found):
        return (
            "its outputs are from 0 to 1 and do not add up to 1, as of several labels for an image."
        )
    return ""


def _outputs(model: keras.Model) -> Any:
    """Returns what a model gives for noise, whichever pixels it takes."""
    shape = [side or _SIDE for side in model.inputs[0].shape[1:]]
    noise = np.random.default_rng(0).uniform(0, 1, [_PROBED, *shape]).astype(np.float32)
    return keras.ops.convert_to_numpy(model(noise, training=False)).astype(np.float32)


def _is_distribution(outputs: Any) -> bool:
    """Whether each row is of probabilities: to 1 %, as bfloat16 rounds."""
    return bool(np.all(outputs >= 0) and np.allclose(outputs.sum(axis=-1), 1.0, atol=0.01))


def _pixels_of(model: keras.Model) -> Preprocessing:
    """Returns what a model most likely takes: stored pixels if it has a layer that maps them."""
    mapping = (keras.layers.Rescaling, keras.layers.Normalization, ImagePreprocessing)
    return "raw" if any(isinstance(layer, mapping) for _, layer in named_layers(model)) else "unit"
