"""Small models that hold the layers, for what is saved: each layer alone, and all in one."""

import keras
import numpy as np

from keras_renorm import layers, schedules

SIZE = 3
_SETTINGS = {"momentum": 0.75}


def _ramps():
    return {
        "r_max": schedules.LinearRamp(1.0, 3.0, 0, 4),
        "d_max": schedules.ExponentialApproach(0.0, 1.0, 0, 4),
    }


def _layers():
    """One of each class, and of what makes other weights."""
    return {
        "BatchNormalization": layers.BatchNormalization(**_SETTINGS, activation="relu"),
        "BatchNormalization-options": layers.BatchNormalization(
            epsilon=0.01, scale=False, virtual_batch_size=4, beta_regularizer="l2", **_SETTINGS
        ),
        "BatchRenormalization": layers.BatchRenormalization(r_max=1.5, d_max=0.25, **_SETTINGS),
        "BatchRenormalization-schedules": layers.BatchRenormalization(**_ramps(), **_SETTINGS),
        "DomainBatchNormalization": layers.DomainBatchNormalization(
            2, affine="domain", **_SETTINGS
        ),
        "DomainBatchRenormalization": layers.DomainBatchRenormalization(2, **_ramps(), **_SETTINGS),
        "SkipInit": layers.SkipInit(0.75),
        "SkipInit-depth": layers.SkipInit("inverse_sqrt_depth", depth=9),
        "CrossReplicaShuffle": layers.CrossReplicaShuffle(seed=1),
        "CrossReplicaUnshuffle": layers.CrossReplicaUnshuffle(),
    }


def _applied(layer, x, domain):
    if isinstance(layer, layers.CrossReplicaShuffle):
        return layer(x)[0]
    if isinstance(layer, layers.CrossReplicaUnshuffle):
        return layer(*layers.CrossReplicaShuffle(seed=2)(x))
    return (
        layer(x, domain=domain) if isinstance(layer, layers.DomainBatchNormalization) else layer(x)
    )


def _model(chosen, name):
    x, domain = keras.Input((SIZE,), name="x"), keras.Input((), dtype="int32", name="domain")
    y = x
    for layer in chosen:
        y = _applied(layer, y, domain)
    by_domain = any(isinstance(layer, layers.DomainBatchNormalization) for layer in chosen)
    return keras.Model({"x": x} | ({"domain": domain} if by_domain else {}), y, name=name)


def _alone(name):
    return lambda: _model([_layers()[name]], name.replace("-", "_").lower())


#: What makes each model, by name.
MODELS = {name: _alone(name) for name in _layers()} | {
    "all_layers": lambda: _model(_layers().values(), "all_layers")
}


def examples(rng, model):
    """A batch of inputs: eighths, of which no type loses a bit."""
    found = {"x": rng.integers(-16, 17, (8, SIZE)).astype("float32") / 8}
    if "domain" in model.input:
        found["domain"] = np.arange(8, dtype="int32") % 2
    return found


def train(model, inputs, rng):
    """Gives all that is trained other values, and makes two steps, which need no optimizer."""
    for weight in model.trainable_weights:
        weight.assign(rng.integers(4, 13, weight.shape) / 8)
    for _ in range(2):
        model(inputs, training=True)


def kept(model):
    """The variables that its files hold, but for those of random generators."""
    return [v for v in model.variables if v.name != "seed_generator_state"]


def computed(model, inputs):
    """Outputs in inference, before and after a training step, that step's, and the weights."""
    found = {"before": model(inputs), "training": model(inputs, training=True)}
    found["after"] = model(inputs)
    found |= {f"weights/{number}": weight for number, weight in enumerate(kept(model))}
    return {name: np.array(keras.ops.convert_to_numpy(value)) for name, value in found.items()}
