"""What a model file says beside the network: its classes, and what it does with an image."""

import dataclasses
import json
import zipfile
from pathlib import Path
from typing import Any

from zoo.data.preparation import Preparation
from zoo.errors import UserError

#: Name of the card in a .keras file. Keras ignores it.
_NAME = "zoo.json"


@dataclasses.dataclass(frozen=True)
class Card:
    """What a model file says beside the network.

    Attributes:
        class_names: Names of the classes, in the order of the outputs.
        preparation: How an image becomes what the model takes.
        model: Name of the architecture.
        norm: Its normalization.
        dataset: What it was trained on.
        logits: Whether the network ends before its softmax.
        held_out: Share of the images that its run held out, where no split was for evaluation;
            None if that is not known.
        seed: What chose them; None if that is not known.
        evaluated_on: The fingerprint of the images that its run was evaluated on, if they have one.
    """

    class_names: tuple[str, ...]
    preparation: Preparation
    model: str = ""
    norm: str = ""
    dataset: str = ""
    logits: bool = False
    held_out: float | None = None
    seed: int | None = None
    evaluated_on: str = ""

    @property
    def numbered(self) -> bool:
        """Whether the classes have only numbers for names, as in a model without names."""
        return self.class_names == tuple(map(str, range(len(self.class_names))))

    def to_json(self) -> dict[str, Any]:
        """Returns what `from_json` takes."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Card":
        """Returns the card that `to_json` turned into `values`.

        Raises:
            KeyError: If something is missing.
            TypeError: If something has another type, or is not known.
        """
        names = tuple(map(str, values["class_names"]))
        prepared = Preparation(**values["preparation"])
        return cls(**{**values, "class_names": names, "preparation": prepared})


def write_card(path: Path, card: Card) -> None:
    """Puts a card into a .keras file, which is a zip archive.

    Args:
        path: The file, without a card.
        card: The card.
    """
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(_NAME, json.dumps(card.to_json(), indent=2))


def read_card(path: Path) -> Card | None:
    """Returns the card of a .keras file; None if it has none.

    Raises:
        UserError: If it cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if _NAME not in archive.namelist():
                return None
            return Card.from_json(json.loads(archive.read(_NAME)))
    except zipfile.BadZipFile as error:
        raise UserError(f"{path} is damaged: it is not a whole .keras file.") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: its {_NAME} cannot be read: {error}.") from error
