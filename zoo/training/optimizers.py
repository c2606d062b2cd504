"""From a config to an optimizer and its learning rate: those of Keras, or a user's own."""

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import keras

from zoo.errors import UserError
from zoo.training import times
from zoo.training.config import peak_rate
from zoo.training.imports import called, is_path

Schedule: TypeAlias = keras.optimizers.schedules.LearningRateSchedule

#: Optimizers that decay weights beside the gradient, and not in the loss.
_DECOUPLED = ("adamw", "lamb")

#: Layers that `head_rate_factor` is for.
HEAD = ("logits", "auxiliary_logits")


@keras.saving.register_keras_serializable("zoo")
class WarmUp(Schedule):
    """A learning rate that rises from 0 in a straight line, and then follows a schedule.

    ```
    rate(step) = peak * step / steps     before `steps`
    rate(step) = after(step - steps)     from there on
    ```

    Args:
        peak: The rate at the end of the rise.
        steps: Its length, 1 or more.
        after: The schedule after it.
    """

    def __init__(self, peak: float, steps: int, after: Schedule) -> None:
        self.peak, self.steps, self.after = peak, steps, after

    def __call__(self, step: Any) -> Any:
        """The rate after `step` steps."""
        step = keras.ops.cast(step, "float32")
        after = self.after(keras.ops.maximum(step - self.steps, 0.0))
        return keras.ops.where(step < self.steps, self.peak * step / self.steps, after)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, the schedule among them serialized."""
        after = keras.optimizers.schedules.serialize(self.after)
        return {"peak": self.peak, "steps": self.steps, "after": after}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "WarmUp":
        """A warm-up from what `get_config` returned."""
        after = keras.optimizers.schedules.deserialize(config["after"])
        return cls(config["peak"], config["steps"], after)


def learning_rate_schedule(config: Mapping[str, Any]) -> Schedule:
    """Returns the learning rate as a function of the steps done.

    Raises:
        UserError: When a schedule of the user's own cannot be made, or gives no finite rate.
    """
    if is_path(config["learning_rate_schedule"]):
        schedule = called(config, "learning_rate_schedule", Schedule, config=dict(config))
        _check_rates(config, schedule)
        return schedule
    peak, warmup = peak_rate(config), times.in_steps(config)["warmup_steps"]
    after = _after_warmup(config, peak, warmup)
    return WarmUp(peak, warmup, after) if warmup else after


def _check_rates(config: Mapping[str, Any], schedule: Schedule) -> None:
    """Raises a `UserError` unless a schedule gives a finite rate at the first and last step."""
    where = f"--config.learning_rate_schedule={config['learning_rate_schedule']}"
    for step in sorted({0, config["num_steps"] - 1}):
        try:
            # As an optimizer counts: its arithmetic takes floats, that of an int64 tensor does not.
            rate = float(schedule(keras.Variable(step, dtype="int", trainable=False)))
        except (Exception, SystemExit) as error:  # It is the user's code.
            raise UserError(
                f"{where} failed at step {step}: {type(error).__name__}: {error}"
            ) from error
        if not math.isfinite(rate):
            raise UserError(
                f"{where} must give a finite learning rate, received {rate} at step {step}."
            )


def _after_warmup(config: Mapping[str, Any], peak: float, warmup: int) -> Schedule:
    """Returns the schedule that begins when the warm-up has ended."""
    schedules = keras.optimizers.schedules
    steps = config["num_steps"] - warmup
    match config["learning_rate_schedule"]:
        case "constant":  # A cosine whose lowest point is the highest is a constant.
            return schedules.CosineDecay(peak, steps, alpha=1.0)
        case "cosine":
            return schedules.CosineDecay(peak, steps, alpha=config["learning_rate_end"])
        case "polynomial":
            end = peak * config["learning_rate_end"]
            return schedules.PolynomialDecay(peak, steps, end, config["polynomial_power"])
        case "exponential":
            every = times.in_steps(config)["decay_every_steps"]
            stairs = not config["decay_smoothly"]
            return schedules.ExponentialDecay(peak, every, config["decay_factor"], stairs)
    falls = times.decay_steps(config)
    values = [peak * math.pow(config["decay_factor"], number) for number in range(len(falls) + 1)]
    # Keras's rate falls after the step of a boundary, which is one more than the steps done.
    return schedules.PiecewiseConstantDecay([float(step - warmup - 1) for step in falls], values)


def loss_weight_decay(config: Mapping[str, Any]) -> float:
    """Returns the weight decay that belongs into the loss."""
    return 0.0 if config["optimizer"] in _DECOUPLED else config["weight_decay"]


def build_optimizer(config: Mapping[str, Any], model: keras.Model) -> Any:
    """Returns the optimizer, whose variables exist so that a checkpoint can restore them.

    Args:
        config: The config.
        model: The model that it trains.

    Raises:
        UserError: When an optimizer of the user's own cannot be made.
    """
    rate = learning_rate_schedule(config)
    if is_path(config["optimizer"]):
        optimizer = called(
            config,
            "optimizer",
            keras.optimizers.Optimizer,
            learning_rate=rate,
            config=dict(config),
        )
    else:
        optimizer = _keras_optimizer(config, rate, model)
    if config["precision"] == "float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    optimizer.build(model.trainable_variables)
    return optimizer


def _keras_optimizer(config: Mapping[str, Any], rate: Schedule, model: keras.Model) -> Any:
    """Returns one of Keras's optimizers."""
    name = config["optimizer"]
    epsilon = config["optimizer_epsilon"]
    given = {} if epsilon is None else {"epsilon": epsilon}
    betas = {"beta_1": config["beta_1"], "beta_2": config["beta_2"]}
    kinds: dict[str, tuple[Any, dict[str, Any]]] = {
        "sgd": (
            keras.optimizers.SGD,
            {"momentum": config["momentum"], "nesterov": config["nesterov"]},
        ),
        "rmsprop": (
            keras.optimizers.RMSprop,
            {"rho": config["rho"], "momentum": config["momentum"], **given},
        ),
        "adam": (keras.optimizers.Adam, {**betas, **given}),
        "adamw": (keras.optimizers.AdamW, {**betas, **given}),
        "lamb": (keras.optimizers.Lamb, {**betas, **given}),
    }
    kind, options = kinds[name]
    if name in _DECOUPLED:
        options["weight_decay"] = config["weight_decay"]
    factors = _rate_factors(model, config["head_rate_factor"])
    decay = options.get("weight_decay", 0.0)
    optimizer = (_with_factors(kind, factors, decay) if factors else kind)(rate, **options)
    if name in _DECOUPLED:
        variables = enumerate(model.trainable_variables)
        undecayed = [v for i, v in variables if len(v.shape) < 2 or i in factors]
        optimizer.exclude_from_weight_decay(undecayed)
    return optimizer


def _rate_factors(model: keras.Model, factor: float) -> dict[int, float]:
    """Returns the learning rate's factor for each variable of the head, by the variable's index."""
    if factor == 1.0:
        return {}
    layers = [layer for layer in model.layers if layer.name in HEAD]
    head = {id(v) for layer in layers for v in layer.trainable_variables}
    return {i: factor for i, v in enumerate(model.trainable_variables) if id(v) in head}


def _with_factors(kind: Any, factors: Mapping[int, float], decay: float) -> Any:
    """Returns a class of optimizers that takes longer or shorter steps for some variables.

    Keras decays all variables by one rate. So those of `factors` are excluded from it, and their
    kernels are decayed here.
    """

    class WithFactors(kind):
        """Keras's optimizers update in proportion to the rate that they are given."""

        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            """Updates a variable."""
            index = self._get_variable_index(variable)
            rate = learning_rate * factors.get(index, 1.0)
            if decay and index in factors and len(variable.shape) >= 2:
                self.assign_sub(variable, variable * keras.ops.cast(decay * rate, variable.dtype))
            super().update_step(gradient, variable, rate)

    return WithFactors
