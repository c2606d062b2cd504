"""From a config to the objects that train: data, minibatches, model, optimizer."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import zoo
from keras_renorm import layers, schedules
from zoo.data import datasets, pipeline, samplers
from zoo.errors import UserError, as_user_errors
from zoo.models import registry

Config = Mapping[str, Any]


def norm_options(config: Config) -> dict[str, Any]:
    """Returns the arguments of every normalization layer that a config asks for."""
    if config["norm"] == "none":
        return {}
    if config["norm"] == "skip_init":
        value = config["skip_init_value"]
        return {"initial_value": {"zero": 0.0, "one": 1.0}.get(value, value)}
    options = {
        "momentum": config["norm_momentum"],
        "epsilon": config["norm_epsilon"],
        "synchronized": config["synchronized"],
    }
    if config["virtual_batch_size"]:
        options["virtual_batch_size"] = config["virtual_batch_size"]
    if config["norm"] == "batch_renorm":
        options["r_max"] = _limit(config, "r_max", 1.0)
        options["d_max"] = _limit(config, "d_max", 0.0)
    return options


def _limit(config: Config, name: str, start_value: float) -> float | schedules.Schedule:
    """Returns the ramp of r_max or d_max; the number itself where the ramp has no length."""
    start, end = config[f"{name}_start_step"], config[f"{name}_end_step"]
    if start == end == 0:
        return float(config[name])
    if not 0 <= start < end:
        raise UserError(
            f"--config.{name}_end_step must be greater than {name}_start_step, and that at least "
            f"0, received {end} and {start}. For a limit that does not change give 0 to both."
        )
    return schedules.LinearRamp(start_value, config[name], start, end)


def build_model(config: Config, dataset: datasets.Dataset) -> keras.Model:
    """Returns the model that is saved at the end, with fresh weights: images to probabilities.

    Raises:
        UserError: When the model is unknown or does not take an option of the config.
    """
    with as_user_errors(ValueError):
        return zoo.create_model(
            config["model"],
            num_classes=dataset.num_classes,
            input_shape=dataset.input_shape,
            norm=config["norm"],
            norm_options=norm_options(config),
            **_model_options(config),
            data_format="channels_last",
        )


def _model_options(config: Config) -> dict[str, Any]:
    """Returns the arguments that this model alone takes."""
    if "auxiliary_head" not in registry.own_options(config["model"]):
        return {}
    return {"auxiliary_head": config["auxiliary_weight"] > 0}


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


def learning_rate_schedule(config: Config) -> keras.optimizers.schedules.LearningRateSchedule:
    """Returns the learning rate as a function of the steps done."""
    warmup, rate = config["warmup_steps"], config["learning_rate"]
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup else rate,
        decay_steps=config["num_steps"] - warmup,
        # A cosine whose lowest point is the highest is a constant.
        alpha={"cosine": 0.0, "constant": 1.0}[config["learning_rate_schedule"]],
        warmup_target=rate if warmup else None,
        warmup_steps=warmup,
    )


def build_optimizer(config: Config, model: keras.Model) -> keras.optimizers.Optimizer:
    """Returns the optimizer, whose variables exist so that a checkpoint can restore them."""
    optimizer = keras.optimizers.SGD(learning_rate_schedule(config), config["sgd_momentum"])
    optimizer.build(model.trainable_variables)
    return optimizer


def build_sampler(config: Config, labels: np.ndarray[Any, Any]) -> samplers.Sampler:
    """Returns what says which examples are in which minibatch.

    Raises:
        UserError: When the data set cannot give such minibatches.
    """
    with as_user_errors(ValueError):
        if config["minibatches"] == "few_labels":
            return samplers.FewLabelsSampler(
                labels, config["labels_per_batch"], config["batch_size"], config["seed"]
            )
        return samplers.ShuffledSampler(len(labels), config["batch_size"], config["seed"])


def build_batches(config: Config, dataset: datasets.Dataset, start_step: int) -> tf.data.Dataset:
    """Returns the minibatches of the steps from `start_step` to the last."""
    return pipeline.training_batches(
        dataset,
        build_sampler(config, dataset.labels),
        start_step=start_step,
        num_steps=config["num_steps"],
        augment=config["augment"],
        seed=config["seed"],
    )
