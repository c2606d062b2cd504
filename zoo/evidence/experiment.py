"""An experiment: arms that differ in a few keys of `zoo.train`, and claims about them."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from zoo.errors import UserError
from zoo.evidence.claims import Claim, Term

#: Seconds, to see that it runs; what two cores do in a coffee break; what the papers did.
SCALES = ("smoke", "default", "full")


@dataclasses.dataclass(frozen=True)
class Arm:
    """One of the things compared.

    Attributes:
        name: Its name in tables and claims.
        keys: Keys of `zoo.train` in which it differs.
        measures: Names in `zoo.evidence.measures` of what is measured of the trained model.
        follows: Name of a layer whose inputs `zoo.evidence.percentiles` follows over training.
    """

    name: str
    keys: Mapping[str, Any]
    measures: tuple[str, ...] = ()
    follows: str | None = None


@dataclasses.dataclass(frozen=True)
class Scale:
    """How much is run.

    Attributes:
        keys: Keys of `zoo.train` that shorten, or lengthen, every run.
        seeds: Number of seeds of each arm.
        cost: What it takes, as measured, or "not run".
    """

    keys: Mapping[str, Any]
    seeds: int
    cost: str


@dataclasses.dataclass(frozen=True)
class Run:
    """A training of an arm with one seed.

    Attributes:
        arm: What is trained and measured.
        seed: Seed of weights and minibatches.
        recipe: A recipe of `zoo.train`.
        keys: All the keys that it is given.
        name: Name of its folder.
    """

    arm: Arm
    seed: int
    recipe: str
    keys: Mapping[str, Any]
    name: str

    @property
    def flags(self) -> list[str]:
        """The flags of `zoo.train`."""
        given = [f"--config.{key}={_written(value)}" for key, value in self.keys.items()]
        return [f"--config={self.recipe}", *given]


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What is compared, and what is claimed of it.

    All arms have the same keys, except those that an arm names.

    Attributes:
        title: In a few words.
        source: Paper and section.
        about: What is done and what stands for what in the paper, in a paragraph.
        recipe: The recipe of `zoo.train` that all runs start from.
        keys: Keys of `zoo.train` that all runs share.
        arms: What is compared.
        claims: What is claimed.
        scales: "smoke", "default" and "full".
        columns: The metrics of the table, in its order.
        target: The test accuracy for `steps_to_target`.
    """

    title: str
    source: str
    about: str
    recipe: str
    keys: Mapping[str, Any]
    arms: tuple[Arm, ...]
    claims: tuple[Claim, ...]
    scales: Mapping[str, Scale]
    columns: tuple[str, ...] = ("accuracy",)
    target: float | None = None

    def __post_init__(self) -> None:
        """Raises a `ValueError` for a claim about an unknown arm, and for two arms of one name."""
        names = {arm.name for arm in self.arms}
        terms = [t for claim in self.claims for t in (claim.left, claim.right)]
        unknown = {term.arm for term in terms if isinstance(term, Term)} - names
        if unknown or len(names) < len(self.arms):
            raise ValueError(f"Arms are {sorted(names)}; unknown or twice: {sorted(unknown)}.")

    def runs(self, scale: str, seeds: int | None = None) -> Iterator[Run]:
        """Yields the runs, those of one seed after those of another.

        Args:
            scale: Name of the scale.
            seeds: Number of seeds; that of the scale by default.

        Raises:
            UserError: When there is no such scale.
        """
        if scale not in self.scales:
            raise UserError(f"--scale must be one of {', '.join(self.scales)}, received {scale!r}.")
        chosen = self.scales[scale]
        for seed in range(chosen.seeds if seeds is None else seeds):
            for number, arm in enumerate(self.arms):
                keys = {**self.keys, **chosen.keys, **arm.keys, "seed": seed}
                yield Run(arm, seed, self.recipe, keys, f"{number:02d}_seed{seed}")


def _written(value: Any) -> str:
    """Returns a value as the command line takes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
