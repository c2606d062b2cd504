"""Writes `checkpoints/VERSION`: files of every layer, with inputs and outputs, as it saves them.

Run it once for each version, before its release, under TensorFlow and with the native library:
`PYTHONPATH=.:tests python -m goldens.write_checkpoints`. The files of a version stay.
"""

import pathlib

import numpy as np

import keras_renorm
from goldens import models

FOLDER = pathlib.Path(__file__).with_name("checkpoints")


def main():
    """Writes the files of this version; refuses where there are some."""
    folder = FOLDER / keras_renorm.__version__
    folder.mkdir(parents=True)
    for name in models.MODELS:
        write(folder, name)


def write(folder, name):
    """The files of one model: what it is, and what it computes before and after one more step."""
    rng = np.random.default_rng(1)
    model, path = models.MODELS[name](), folder / name
    models.train(model, models.examples(rng, model), rng)
    model.save(path.with_suffix(".keras"))
    model.save_weights(path.with_suffix(".weights.h5"))
    inputs = models.examples(np.random.default_rng(2), model)
    arrays = {f"inputs/{key}": array for key, array in inputs.items()}
    arrays |= {f"outputs/{key}": array for key, array in models.computed(model, inputs).items()}
    arrays["kernels"] = np.array(keras_renorm.ops.lowering().reason)
    np.savez_compressed(path.with_suffix(".npz"), **arrays)


if __name__ == "__main__":
    main()
