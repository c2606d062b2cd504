"""From a config to the objects that train: data, minibatches, model, optimizer."""

from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

import zoo
from keras_renorm import keras_internals, layers, schedules
from keras_renorm.models.members import is_batch_norm
from zoo.data import samplers
from zoo.data.sources import Source
from zoo.errors import UserError, as_user_errors
from zoo.models import registry
from zoo.training import fine_tuning, optimizers, pictures, step, times
from zoo.training.imports import called, is_path
from zoo.training.keys import KEYS
from zoo.training.optimizers import HEAD

Config = Mapping[str, Any]


def norm_options(config: Config) -> dict[str, Any]:
    """Returns the arguments of every normalization layer that a config asks for."""
    if config["norm"] == "none":
        return {}
    if config["norm"] == "skip_init":
        value = config["skip_init_value"]
        return {"initial_value": {"zero": 0.0, "one": 1.0}.get(value, value)}
    options = {"momentum": config["norm_momentum"], "synchronized": config["synchronized"]}
    if not config["norm_scale"]:
        options["scale"] = False
    if config["norm_epsilon"] is not None:
        options["epsilon"] = config["norm_epsilon"]
    if config["virtual_batch_size"]:
        options["virtual_batch_size"] = config["virtual_batch_size"]
    if config["norm"] == "batch_renorm":
        for name, start, greatest in (("r_max", 1.0, 3.0), ("d_max", 0.0, 5.0)):
            limit = _limit(config, name, start, greatest)
            options |= {} if limit is None else {name: limit}
    return options


def _limit(
    config: Config, name: str, start: float, greatest: float
) -> float | schedules.Schedule | None:
    """Returns the ramp of r_max or d_max, or its number; None to leave it to the layer."""
    steps, value = times.ramp(config, f"{name}_ramp"), config[name]
    if steps is None:
        return None if value is None else float(value)
    return schedules.LinearRamp(start, greatest if value is None else float(value), *steps)


def build_model(config: Config, dataset: Source) -> keras.Model:
    """Returns the model that is saved at the end, with fresh weights: images to probabilities.

    Raises:
        UserError: When the model is unknown or does not take an option of the config.
    """
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy(_POLICIES[config["precision"]])
    if is_path(config["model"]):
        model = _own_model(config, dataset)
    else:
        with as_user_errors(ValueError):
            model = zoo.create_model(
                config["model"],
                **_of_every_model(config, dataset),
                **_model_options(config),
                data_format="channels_last",
                weights=None if fine_tuning.is_model_file(config) else config["weights"],
            )
    if fine_tuning.is_model_file(config):
        kept = config["norm_epsilon"] is not None
        fine_tuning.load_file(model, config["weights"], keep_epsilon=kept)
    fine_tuning.freeze(model, config["freeze"])
    return model


#: What layers compute in, by the values of `precision`: whatever keras.json says.
_POLICIES = {
    "float32": "float32",
    "bfloat16": "mixed_bfloat16",
    "float16": "mixed_float16",
}


def _of_every_model(config: Config, dataset: Source) -> dict[str, Any]:
    """Returns the arguments that all models take, a user's own among them."""
    return {
        "num_classes": dataset.num_classes,
        "input_shape": pictures.input_shape(config, dataset),
        "norm": config["norm"],
        "norm_options": norm_options(config),
    }


def _own_model(config: Config, dataset: Source) -> keras.Model:
    """Returns the model that the user's function makes."""
    for key in ("auxiliary_weight", "dropout_rate", "stochastic_depth_rate"):
        if config[key] != KEYS[key].default:
            raise UserError(
                f"--config.{key} has no effect with a model of your own, received {config[key]}. "
                "Leave it out, and build it into the model."
            )
    if config["weights"] is not None and not fine_tuning.is_model_file(config):
        raise UserError(
            f"--config.weights of a model of your own must be a .keras file, received "
            f"{config['weights']!r}."
        )
    model = called(config, "model", keras.Model, **_of_every_model(config, dataset))
    names = [layer.name for layer in model.layers]
    # A subclassed model has no outputs, and one that is not built has none yet.
    shapes = [tuple(output.shape) for output in getattr(model, "outputs", None) or ()]
    if HEAD[0] not in names or [shape[-1] for shape in shapes] != [dataset.num_classes]:
        raise UserError(
            f"--config.model={config['model']} must return a functional model from images to "
            f"{dataset.num_classes} probabilities, in which the layer before the softmax is called "
            f"'logits'; received the layers {', '.join(names)} and "
            f"{', '.join(f'outputs of shape {shape}' for shape in shapes) or 'no known outputs'}."
        )
    _check_own_model(config, model, dataset)
    for key in ("freeze_statistics_at_step", "initial_statistics"):
        if config[key] != KEYS[key].default and not _has_norms(model):
            raise UserError(
                f"--config.{key}={config[key]} has no effect: the model of "
                f"--config.model={config['model']} holds no batch norm. Leave it out."
            )
    return model


def _check_own_model(config: Config, model: keras.Model, dataset: Source) -> None:
    """Refuses a model of other images, that does not train, or does not end in a softmax."""
    wants = f"--config.model={config['model']} must return a model"
    check_takes(config, model, dataset)
    if not model.trainable_variables:
        raise UserError(f"{wants} with something to train, received one that is frozen.")
    # Drawn logits, because those of a new model can be nearly equal, and so any probabilities.
    logits = model.get_layer(HEAD[0]).output
    drawn = np.random.default_rng(0).normal(size=(8, dataset.num_classes)).astype("float32")
    ends = tuple(logits.shape[1:]) == drawn.shape[1:] and _head_of(model, logits, drawn)
    if not ends:
        raise UserError(
            f"{wants} that ends in the softmax of the layer 'logits', which has "
            f"{dataset.num_classes} units; received another end: training would minimise another "
            "loss than the evaluation reports. Write keras.layers.Dense(num_classes, "
            "name='logits') without an activation, and keras.layers.Softmax() after it."
        )
    _check_rebuilds(config, model)


def _check_rebuilds(config: Config, model: keras.Model) -> None:
    """Refuses a model that Keras cannot build anew from its config, as files and averages need."""
    try:
        model.to_json()
        again = keras.models.clone_model(model)
        for own, new in zip(model.variables, again.variables, strict=True):
            if tuple(own.shape) != tuple(new.shape):
                raise ValueError(
                    f"{own.path} of shape {tuple(own.shape)} comes back as {tuple(new.shape)}"
                )
    except (Exception, SystemExit) as error:  # Layers of the user's may raise anything.
        line = str(error).strip().partition("\n")[0].rstrip(".")
        raise UserError(
            f"--config.model={config['model']} must return a model that Keras can build anew from "
            f"its config, or no file could hold it; received {type(error).__name__}: {line}. Give "
            "each layer of your own a get_config with what its constructor takes, and the "
            "constructor **kwargs for those of Keras. In place of a Lambda write such a layer."
        ) from error


def _head_of(model: keras.Model, logits: Any, drawn: Any) -> bool:
    """Whether the layers after the logits give the softmax of drawn ones."""
    try:
        found = keras.Model(logits, model.outputs[0])(drawn, training=False)
    except ValueError:  # the output does not follow from the logits alone
        return False
    with np.errstate(all="ignore"):  # of what is no probability
        logarithms = np.log(np.asarray(found, np.float64))
    # By logarithms, because the probabilities of many classes are all nearly 0.
    return np.allclose(keras.ops.log_softmax(drawn), logarithms, rtol=0, atol=0.1)


def check_takes(config: Config, model: keras.Model, images: Source) -> None:
    """Raises a `UserError` if a model does not take images of this shape."""
    shape = pictures.input_shape(config, images)
    inputs = [tuple(x.shape[1:]) for x in model.inputs]
    # Keras drops a last axis of 1 where a model has none, and None takes any size.
    shapes = [shape, shape[:-1]] if shape[-1] == 1 else [shape]
    if len(inputs) == 1 and any(_fits(inputs[0], own) for own in shapes):
        return
    raise UserError(
        f"--config.model={config['model']} must take images of shape {shape}, those of "
        f"{images.name}, {images.split}; received a model with inputs of shapes {inputs}. Images "
        "to train and to evaluate on become of one shape by --config.image_size=SIZE, and "
        "--config.image_channels=1 or 3."
    )


def _fits(own: tuple[int | None, ...], shape: tuple[int, ...]) -> bool:
    return len(own) == len(shape) and all(a in (None, b) for a, b in zip(own, shape, strict=True))


def _has_norms(model: keras.Model) -> bool:
    return any(map(is_batch_norm, keras_internals.flattened(model)))


def _model_options(config: Config) -> dict[str, Any]:
    """Returns the arguments that only some models take, and those that are given."""
    own, options = registry.own_options(config["model"]), {}
    for key, option, lacking in (
        ("auxiliary_weight", "auxiliary_head", "auxiliary classifier"),
        ("stochastic_depth_rate", "stochastic_depth_rate", "residual branches"),
    ):
        if option not in own and config[key] != KEYS[key].default:
            raise UserError(
                f"--config.{key}={config[key]} has no effect with model={config['model']}, which "
                f"has no {lacking}. Leave it out."
            )
    if "auxiliary_head" in own:
        options["auxiliary_head"] = auxiliary_weight(config) > 0
    for key in ("dropout_rate", "stochastic_depth_rate"):
        if config[key] != KEYS[key].default:
            options[key] = config[key]
    return options


def auxiliary_weight(config: Config) -> float:
    """Returns the weight of the auxiliary classifier's loss."""
    return 0.4 if config["auxiliary_weight"] is None else float(config["auxiliary_weight"])


def logits_of(model: keras.Model) -> keras.Model:
    """Returns a model of the same layers that ends before the softmax, or before each of two.

    The loss is computed from logits, because a probability rounded to 0 has no gradient.
    """
    names = ["logits", "auxiliary_logits"][: len(model.outputs)]
    logits = [model.get_layer(name).output for name in names]
    return keras.Model(model.inputs, logits, name=model.name)


def classifier_of(model: keras.Model) -> keras.Model:
    """Returns a model of the same layers without the auxiliary classifier, if there is one."""
    if len(model.outputs) == 1:
        return model
    return keras.Model(model.inputs, model.outputs[0], name=model.name)


def current_limits(model: keras.Model) -> tuple[float | None, float | None]:
    """Returns (r_max, d_max) that the model's first Batch Renorm layer uses now, or Nones.

    A layer whose statistics are frozen uses none.
    """
    for layer in model.layers:
        if isinstance(layer, layers.BatchRenormalization) and not layer.frozen_statistics:
            limits = layer.current_limits()
            return limits.r_max, limits.d_max
    return None, None


def step_options(config: Config) -> step.Options:
    """Returns what a training step does beside the plain one."""
    return step.Options(
        weight_decay=optimizers.loss_weight_decay(config),
        auxiliary_weight=auxiliary_weight(config),
        label_smoothing=config["label_smoothing"],
        clip_norm=config["clip_norm"],
        parts=config["accumulate"],
        jit=config["jit"],
    )


def build_sampler(config: Config, dataset: Source) -> samplers.Sampler:
    """Returns the sampler, which says which examples are in which minibatch.

    Raises:
        UserError: When the data set cannot give such minibatches.
    """
    with as_user_errors(ValueError), pictures.reading_errors_named():
        if config["minibatches"] == "few_labels":
            return samplers.FewLabelsSampler(
                dataset.labels, config["labels_per_batch"], config["batch_size"], config["seed"]
            )
        return samplers.ShuffledSampler(len(dataset), config["batch_size"], config["seed"])


def build_batches(config: Config, dataset: Source, start_step: int) -> Iterator[Any]:
    """Yields the minibatches of the steps from `start_step` to the last."""
    sampler = build_sampler(config, dataset)
    yield from pictures.read(pictures.training_batches(config, dataset, sampler, start_step))
