"""What a run trains with: its images, its model, and what works on them."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
from rich.console import Console

from zoo.training import builders, evaluation, optimizers, pictures, times
from zoo.training.averages import Averages
from zoo.training.cli import terminal
from zoo.training.cli.runtime import seed_everything
from zoo.training.distribution.replicas import OwnStatistics
from zoo.training.distribution.workers import Workers
from zoo.training.step import StepResult, make_train_step


class Setup:
    """The objects of a run, which every worker makes alike.

    Args:
        config: Checked, and the same on every worker.
        console: Where to report to.
        workers: Those that train together, this one among them.

    Attributes:
        config: With every time in steps.
        console: Where to report to.
        workers: Those that train together.
        dataset: The images to train on.
        test_set: The images to evaluate on.
        model: From images to probabilities.
        averages: Averages of the model's variables, or None.
        learning_rate: A function of the steps done.
        evaluators: By the name of their split in records.
        own_statistics: The variables that differ between replicas.
        variables: All that a checkpoint holds.

    Raises:
        UserError: When something is wrong with the config. Nothing was written then.
    """

    def __init__(self, config: builders.Config, console: Console, workers: Workers) -> None:
        self.config = config = times.in_steps(config)
        self.console = console
        self.workers = workers
        self.dataset, self.test_set = workers.together(lambda: pictures.open_sets(config, console))
        builders.build_sampler(config, self.dataset)
        pictures.augmentation(config)
        seed_everything(config["seed"])
        with workers.strategy.scope(), terminal.patience(console, "building the model"):
            self._build()

    def _build(self) -> None:
        """Makes the model and what works on it, in the scope of the strategy."""
        config = self.config
        self.model = builders.build_model(config, self.dataset)
        builders.check_takes(config, self.model, self.test_set)
        self._optimizer = optimizers.build_optimizer(config, self.model)
        self.learning_rate = optimizers.learning_rate_schedule(config)
        decay = config["average_decay"]
        self.averages = Averages(self.model, decay) if decay else None
        self.trace_again()
        self.evaluators = {split: self._evaluator(model) for split, model in self.models.items()}
        variables = [v for model in self.models.values() for v in model.variables]
        self.own_statistics = OwnStatistics(
            self.workers.strategy, [*variables, *self._optimizer.variables]
        )
        self.variables = [*self.own_statistics.shared, *self.own_statistics.tables]

    @property
    def models(self) -> dict[str, keras.Model]:
        """The models that are evaluated and saved, by the name of their split in records."""
        averaged = {} if self.averages is None else {"test_averaged": self.averages.model}
        return {"test": self.model, **averaged}

    def trace_again(self) -> None:
        """Makes the step anew, in the scope: a compiled step keeps what it has traced."""
        self._traced = False
        self._train_step = make_train_step(
            builders.logits_of(self.model),
            self._optimizer,
            builders.step_options(self.config),
            self.averages,
        )

    def _evaluator(self, model: keras.Model) -> evaluation.Evaluator:
        config = self.config
        return evaluation.Evaluator(
            model,
            self.test_set,
            config["eval_batch_size"],
            pictures.preparation(config),
            pictures.part(config),
        )

    def batches(self, step: int) -> Iterator[Any]:
        """Yields the minibatches of the steps from `step` to the last."""
        return builders.build_batches(self.config, self.dataset, step)

    def step(self, images: Any, labels: Any, asked: Any = (0.0, 0.0)) -> StepResult:
        """Does a step; see `make_train_step`. Says so if the first one takes long."""
        replicas = self.workers.strategy.num_replicas_in_sync
        doing = f"building the first step, for {replicas} replica(s)"
        building = terminal.patience(self.console, doing)
        with contextlib.nullcontext() if self._traced else building:
            told = self._train_step(images, labels, asked)
        self._traced = True
        return told

    def rate(self, step: int) -> float:
        """Returns the learning rate of step number `step`."""
        return float(self.learning_rate(step - 1))

    def say(self, text: str) -> None:
        """Prints a line."""
        terminal.say(self.console, text)

    def warn(self, problem: str) -> None:
        """Prints a warning."""
        self.say(f"warning: {problem}")
