"""The examples of all docstrings: they run, and what they say comes out.

Any result will do where an example states none. Numbers may differ after the third decimal place.
"""

import contextlib
import doctest
import importlib
import io
import math
import pkgutil
import re

import keras
import matplotlib
import numpy as np
import pytest
import tensorflow as tf

import keras_renorm
import zoo
from zoo.models.head import Head
from zoo.models.normalization import Normalizer

_NUMBER = re.compile(r"-?\d+\.?\d*(?:e[+-]?\d+)?")
_OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
matplotlib.use("agg")


class _Checker(doctest.OutputChecker):
    """Takes any output where none is stated, and numbers that are nearly those stated."""

    def check_output(self, want, got, optionflags):
        if not want or super().check_output(want, got, optionflags):
            return True
        wanted, found = (list(map(float, _NUMBER.findall(text))) for text in (want, got))
        return (
            len(wanted) == len(found)
            and super().check_output(_NUMBER.sub("#", want), _NUMBER.sub("#", got), optionflags)
            and all(math.isclose(a, b, abs_tol=1e-3) for a, b in zip(wanted, found, strict=True))
        )


class Brief(keras.Model):
    """A model whose fits are short, however long the example's are."""

    def fit(self, x, y=None, *, epochs=1, steps_per_epoch=None, **options):
        if y is not None:
            x, y = x[:8], y[:8]
        steps = None if steps_per_epoch is None else 2
        return super().fit(x, y, steps_per_epoch=steps, shuffle=False, verbose=0, **options)

    def predict(self, x, **options):
        return super().predict(x, verbose=0, **options)


def _model(*args, **options):
    """A small compiled net with a normalisation, in place of those that the examples name."""
    x = keras.Input((3,))
    y = keras.layers.Dense(4)(x)
    y = keras.layers.BatchNormalization(name="bn")(y)
    y = keras.layers.Dense(2, activation="sigmoid", name="last_sigmoid")(y)
    model = Brief(x, y)
    model.compile("sgd", "mse")
    return model


def _residual_model():
    x = y = keras.Input((3,))
    y = keras.layers.Dense(64)(x)
    for _ in range(20):
        branch = keras.layers.Dense(64)(keras_renorm.layers.BatchNormalization()(y))
        branch = keras_renorm.layers.BatchNormalization()(branch)
        y = keras.layers.Add()([y, branch])
    return keras.Model(x, y)


def _common():
    """What every example may use beside the names of its module."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(10_000, 3)).astype("float32")
    labels = np.zeros((10_000, 2), "float32")
    pairs = tf.data.Dataset.from_tensor_slices((images[:16], labels[:16]))
    return {
        **{name: getattr(keras_renorm.ops, name) for name in keras_renorm.ops.__all__},
        "np": np,
        "keras": keras,
        "tf": tf,
        "keras_renorm": keras_renorm,
        "zoo": zoo,
        "statistics": keras_renorm.statistics,
        "model": _model(),
        "x": images,
        "y": labels,
        "images": images,
        "train_images": images,
        "night_images": images[:2_000],
        "dataset": pairs.batch(8).repeat(2),
        "strategy": tf.distribute.get_strategy(),
        "regions": images[:8],
        "head": keras.layers.Dense(2),
        "CrossReplicaShuffle": keras_renorm.layers.CrossReplicaShuffle,
        "CrossReplicaUnshuffle": keras_renorm.layers.CrossReplicaUnshuffle,
    }


def _images_for_a_head():
    images = keras.Input((8, 8, 3))
    features = keras.layers.Conv2D(4, 3)(images)
    return {"images": images, "features": features, "head": Head()}


def _pictures():
    pictures = np.zeros((2, 8, 8, 3), "uint8")
    return {"images": pictures, "model": keras.Sequential([keras.layers.Flatten()])}


def _renormalized():
    """A small compiled net with Batch Renorm, one of whose limits is a schedule."""
    schedule = keras_renorm.schedules.LinearRamp(1.0, 3.0, 1, 2)
    norm = keras_renorm.layers.BatchRenormalization(r_max=schedule)
    x = keras.Input((3,))
    model = Brief(x, keras.layers.Dense(2)(norm(x)))
    model.compile("sgd", "mse")
    return {"model": model}


#: What an example means by its names, if `_common` does not say it.
NAMES = {
    "keras_renorm.callbacks.count_steps.CountSteps": _renormalized,
    "keras_renorm.callbacks.renorm_history.RenormHistory": _renormalized,
    "keras_renorm.diagnostics.residual_variance.residual_variance": lambda: {
        "model": _residual_model()
    },
    "zoo.models.head.Head": _images_for_a_head,
    "zoo.models.inception_blocks.tower": lambda: {
        "x": keras.Input((8, 8, 3)),
        "norm": Normalizer(keras_renorm.layers.BatchNormalization),
    },
    "zoo.models.normalization.Normalizer": lambda: {"x": keras.Input((4,))},
    "zoo.weights.inputs.preprocessing": _pictures,
}

#: Examples that are only read, and why.
NOT_RUN = {"zoo.weights.loading.load": "it downloads a checkpoint"}


def _modules():
    for package in (keras_renorm, zoo):
        yield package
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            # The library is no Python module, and PyTorch may be missing.
            if not re.search(r"\.libkeras_renorm$|\.backends\.torch\.", found.name):
                yield importlib.import_module(found.name)


def _examples():
    finder = doctest.DocTestFinder()
    found = {}
    for module in _modules():
        for test in finder.find(module, module.__name__):
            if test.examples:
                found[test.name] = test
    return found


EXAMPLES = _examples()


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name, tmp_path, monkeypatch):
    if name in NOT_RUN:
        pytest.skip(NOT_RUN[name])
    if name.endswith(".lowering") and keras_renorm.ops.lowering().name != "native":
        pytest.skip("the native library is not in use")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(keras.applications, "ResNet50", _model)
    test = EXAMPLES[name]
    test.globs = {**test.globs, **_common(), **NAMES.get(name, dict)()}
    output = io.StringIO()
    runner = doctest.DocTestRunner(_Checker(), optionflags=_OPTIONS)
    with contextlib.redirect_stderr(io.StringIO()):
        runner.run(test, out=output.write)
    assert runner.failures == 0, output.getvalue()


def test_the_tables_name_examples():
    assert NAMES.keys() | NOT_RUN.keys() <= EXAMPLES.keys()


def test_examples_are_written_as_examples():
    """Every `Example:` holds a prompt, and every prompt stands in an `Example:`."""
    finder = doctest.DocTestFinder(exclude_empty=False)
    for module in _modules():
        for test in finder.find(module, module.__name__):
            assert ("Example:" in (test.docstring or "")) == bool(test.examples), test.name
