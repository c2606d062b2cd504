"""Exports trained models in the forms that others run, each compared with the model."""

import contextlib
import dataclasses
import functools
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console

from keras_renorm import convert
from zoo.conversion import comparing
from zoo.data.decoding import PILLOW, Encoded, Image, as_encoded, decode_with_pillow
from zoo.data.preparation import Preparation
from zoo.data.sources import Source
from zoo.errors import as_user_errors
from zoo.trained import images, onnx
from zoo.trained.opening import Trained, open_trained, pipeline_model, say_notes
from zoo.trained.precision import in_float32
from zoo.trained.recalibrating import save
from zoo.training.cli import terminal
from zoo.training.storage import files, places
from zoo.training.storage.writing import writing
from zoo.weights.record import Preprocessing

#: What a format's file or folder ends in.
FORMATS = {"keras": ".keras", "saved_model": "", "litert": ".tflite", "onnx": ".onnx"}

#: So many images are compared.
_COMPARED = 16


def export(
    model: str,
    output: str,
    kind: str,
    console: Console,
    *,
    names: list[str] | None = None,
    data_dir: str | None = None,
    pixels: Preprocessing | None = None,
) -> float:
    """Writes a model in another form, with batch norms folded into the layers before them.

    What was written is read again, run on real images, and gets its name only if its probabilities
    are those of the model. It computes in float32, also where the model did in half precision.

    Args:
        model: A working directory, a .keras file or the name of a checkpoint.
        output: File, or for "saved_model" folder, to write; it must not exist.
        kind: "keras": a .keras file that loads without this package, from prepared images.
            "saved_model": its signature `serving_default` takes the bytes of image files, JPEG or
            whatever else TensorFlow decodes, and gives probabilities and the names of the most
            probable classes; `pixels` takes images of the model's size in [0, 255]. "litert" and
            "onnx" take one, or several, of the latter.
        console: Where to report to.
        names: Images to compare on: files and folders; by default those of the run.
        data_dir: Where the run's images are, if they have moved.
        pixels: What a .keras file takes, if it does not say so.

    Returns:
        The largest difference of a probability from the model's in float32.

    Raises:
        UserError: If something does not exist, a converter is missing, or the outputs do not agree.
    """
    path = places.new_path(output, FORMATS[kind], f" for --format={kind}")
    places.check_name(path, "--output")
    if kind == "onnx":
        onnx.require()
    say = functools.partial(terminal.say, console)
    trained = open_trained(model, pixels=pixels)
    source = _images(trained, names, data_dir, say)
    say_notes(trained, console)
    classifier = trained.classifier
    with as_user_errors(TypeError, ValueError):
        precise = in_float32(classifier)
        folded = convert.fold(precise)
    temporary = path.with_name(f"{files.TEMPORARY_PREFIX}{os.getpid()}-{path.name}")
    contents, (own, expected) = _examples(trained, source, classifier, precise)
    halved = comparing.largest_difference([own], [expected], comparing.tolerance_of(classifier))
    try:
        with writing(path):
            found = _write(kind, trained, folded, temporary, contents)
            difference = comparing.largest_difference([expected], [found])
            places.new_path(output, FORMATS[kind], f" for --format={kind}")  # it took minutes
            os.rename(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # what stopped the writing is told
            _remove(temporary)
    differs = f"{path}: on {len(contents)} images probabilities differ by {difference:.2g} at most"
    if precise is not classifier:
        differs += f" from the model's in float32, and those by {halved:.2g} from its own"
    say(differs)
    return difference


def _images(
    trained: Trained,
    names: list[str] | None,
    data_dir: str | None,
    report: Callable[[str], None],
) -> Source:
    if names:
        return images.find_files(names, trained).source
    return images.open_for(trained, report, data_dir=data_dir)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _write(
    kind: str, trained: Trained, folded: keras.Model, path: Path, contents: list[bytes]
) -> Any:
    """Writes a format; returns the probabilities that it gives of the images."""
    prepared = np.concatenate([_prepare(trained.card.preparation, c)[None] for c in contents])
    if kind == "keras":
        save(folded, dataclasses.replace(trained.card, logits=False), path)
        loaded = keras.saving.load_model(path, compile=False)
        return loaded.predict(trained.card.preparation.mapped(prepared), verbose=0)
    if kind == "saved_model":
        served = _Served(trained, folded)
        signatures = {"serving_default": served.serve, "pixels": served.pixels}
        tf.saved_model.save(served, str(path), signatures)
        signature = tf.saved_model.load(str(path)).signatures["serving_default"]
        return signature(images=tf.constant(contents))["probabilities"].numpy()
    if kind == "litert":
        path.write_bytes(_litert(pipeline_model(trained, folded)))
        return _run_litert(path, prepared)
    onnx.write(pipeline_model(trained, folded), path)
    return onnx.run(path, prepared)


def _examples(
    trained: Trained, source: Source, *models: keras.Model
) -> tuple[list[bytes], list[Any]]:
    """Returns the bytes of some images, and the probabilities of them by each model."""
    contents = list(_contents(source))
    pixels = [_prepare(trained.card.preparation, one)[None] for one in contents]
    prepared = trained.card.preparation.mapped(tf.concat(pixels, 0))
    found = [np.asarray(model(prepared, training=False), np.float32) for model in models]
    return contents, found


def _contents(source: Source) -> Iterator[bytes]:
    """Yields the bytes of the first images as files."""
    count = min(len(source), _COMPARED)
    items = tf.data.Dataset.from_tensor_slices(source.fetch(tf.range(count)))
    for item in items:
        stored, _ = source.read(item)
        if not isinstance(stored, Encoded):
            yield tf.io.encode_png(stored).numpy()
        elif int(stored.decoder) == PILLOW:  # which no exported model has
            yield tf.io.encode_png(decode_with_pillow(stored.contents.numpy(), 3)).numpy()
        else:
            yield stored.contents.numpy()


def _prepare(preparation: Preparation, contents: Any) -> Any:
    """Returns the pixels in [0, 255] that a model takes of the bytes of a file."""
    return preparation(Image(as_encoded(contents), preparation.channels, pillow=False))


class _Served(tf.Module):
    """What a SavedModel holds: the model, and the way to it from the bytes of image files.

    Args:
        trained: The model and its card.
        folded: The network.
    """

    def __init__(self, trained: Trained, folded: keras.Model) -> None:
        super().__init__()
        self._preparation = trained.card.preparation
        self._model = folded
        self._mapped = pipeline_model(trained, folded)
        self._names = tf.constant(trained.card.class_names)
        height, width, channels = folded.input_shape[1:]
        self._shape = [height, width, channels]
        spec = tf.TensorSpec([None, height, width, channels], tf.float32, name="images")
        self.serve = tf.function(
            self._serve, input_signature=[tf.TensorSpec([None], tf.string, name="images")]
        )
        self.pixels = tf.function(self._pixels, input_signature=[spec])

    def _serve(self, images: Any) -> dict[str, Any]:
        def one(contents: Any) -> Any:
            return tf.ensure_shape(_prepare(self._preparation, contents), self._shape)

        spec = tf.TensorSpec(self._shape, tf.float32)
        return self._pixels(tf.map_fn(one, images, fn_output_signature=spec))

    def _pixels(self, images: Any) -> dict[str, Any]:
        probabilities = self._mapped(images, training=False)
        best = tf.argmax(probabilities, axis=-1)
        return {"probabilities": probabilities, "class": tf.gather(self._names, best)}


def _litert(model: keras.Model) -> bytes:
    """Returns a LiteRT model of one image at a time."""
    spec = tf.TensorSpec([1, *model.input_shape[1:]], tf.float32, name="images")
    # Variables would stay outside of the file, and be read as nothing.
    weights = [
        [tf.constant(variable.numpy()) for variable in group]
        for group in (model.trainable_variables, model.non_trainable_variables)
    ]

    def probabilities(images: Any) -> Any:
        return model.stateless_call(*weights, images, training=False)[0]

    function = tf.function(probabilities, input_signature=[spec]).get_concrete_function()
    converted: bytes = tf.lite.TFLiteConverter.from_concrete_functions([function]).convert()
    return converted


def _run_litert(path: Path, prepared: Any) -> Any:
    """Returns the probabilities that a LiteRT model gives, image by image."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow announces another package for it.
        interpreter = tf.lite.Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    [given], [told] = interpreter.get_input_details(), interpreter.get_output_details()
    found = []
    for image in prepared:
        interpreter.set_tensor(given["index"], np.asarray(image, np.float32)[None])
        interpreter.invoke()
        found.append(interpreter.get_tensor(told["index"])[0].copy())
    return np.stack(found)
