"""The folder that holds everything about one run."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from zoo.errors import UserError
from zoo.training import config as configs
from zoo.training.keys import KEYS
from zoo.training.storage import files


class Workdir:
    """Names of a run's files, and the rules about whose folder it is.

    A folder is ours if it holds `config.json`, which is written first. A run is finished if it
    holds `model.keras`, which is written last.

    Args:
        path: The folder. It need not exist.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        self.config = self.path / "config.json"
        self.metrics = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.tensorboard = self.path / "tensorboard"
        self.model = self.path / "model.keras"
        self.evaluation = self.path / "evaluation.json"

    @property
    def finished(self) -> bool:
        """Whether the run that this folder holds has reached its last step: its model is whole."""
        return self.model.is_file() and files.is_whole_zip(self.model)

    def read_config(self, *needed: str) -> dict[str, Any]:
        """Returns the config of the run in this folder.

        Args:
            *needed: Keys that it must have, with values that of their types.

        Raises:
            UserError: When the folder holds none, or one that is damaged.
        """
        values = self._read_json()
        if not isinstance(values, dict):
            raise UserError(f"{self.config} is damaged: it holds no keys and values.")
        for key in needed:
            if key not in values:
                raise UserError(f"{self.config} has no key {key!r}: another version wrote it.")
            KEYS[key].check_type(values[key], f"{self.config}: {key}")
        return values

    def _read_json(self) -> Any:
        """Returns what is in `config.json`."""
        try:
            return json.loads(self.config.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise UserError(
                f"{self.path} holds no run of zoo.train: there is no {self.config}."
            ) from error
        except (OSError, ValueError) as error:
            raise UserError(f"{self.config} cannot be read: {error}.") from error

    def check(self, config: Mapping[str, Any]) -> None:
        """Raises a `UserError` if a run with `config` must not use this folder. Writes nothing.

        Args:
            config: The config of the run.
        """
        if self.config.is_file():
            self._check_config(config)
            if self.model.is_dir():
                raise UserError(
                    f"{self.model} is a folder, not a model: move it away, and the same command "
                    "writes the model again."
                )
        elif self.path.is_dir() and not self._is_new():
            raise UserError(
                f"{self.path} is not empty and holds no run of zoo.train: nothing was written. "
                "Choose another --workdir."
            )
        # A link to nothing counts: it is in the way of a folder of that name.
        existing = next(
            path for path in (self.path, *self.path.absolute().parents) if os.path.lexists(path)
        )
        if not existing.is_dir():
            raise UserError(f"--workdir={self.path}: {existing} is not a folder.")
        if not os.access(existing, os.W_OK | os.X_OK):
            raise UserError(f"--workdir={self.path}: you may not write into {existing}.")

    def _is_new(self) -> bool:
        """Whether the folder is empty, but for what a run may leave that is killed at once."""
        return all(files.is_unfinished(path, of=self.config) for path in self.path.iterdir())

    def _check_config(self, config: Mapping[str, Any]) -> None:
        """Raises a `UserError` if the folder's run has another config."""
        different = configs.differences(self.read_config(), config)
        if different:
            raise UserError(
                f"{self.path} holds a run with another config: "
                f"{configs.listed(different, 'there', 'here')}. Nothing was written. "
                "Choose another --workdir, or give the same config to resume that run."
            )

    @contextlib.contextmanager
    def opened(self, config: Mapping[str, Any]) -> Iterator[None]:
        """Makes the folder if need be, and keeps it for this process while the body runs.

        Args:
            config: The config of the run, which `check` has allowed.

        Yields:
            Nothing.

        Raises:
            UserError: When the folder cannot be written, or another process has it.
        """
        with contextlib.ExitStack() as stack:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                if not self.config.exists():
                    files.write_json(self.config, dict(config))
                lock = stack.enter_context(self.config.open("rb"))
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                files.remove_temporary(self.path)
            except BlockingIOError as error:
                raise UserError(f"{self.path} is in use by another zoo.train.") from error
            except OSError as error:
                raise UserError(
                    f"--workdir={self.path} cannot be written: {error.strerror}."
                ) from error
            yield
