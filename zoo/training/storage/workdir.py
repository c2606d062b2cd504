"""The folder that holds everything about one run."""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from zoo.errors import UserError
from zoo.training import config as configs
from zoo.training.keys import KEYS
from zoo.training.storage import files, places

# In config.json, beside the keys: what the run was begun with, and resumed with; and whether it has
# checkpoints.
_STARTED, _SAVED = "started", "saved"


class Workdir:
    """Names of a run's files, and the rules about whose folder it is.

    A folder is ours if it holds `config.json`, which is written first. A run is finished if it
    holds `model.keras`, which is written last.

    Args:
        path: The folder. It need not exist.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        places.check_name(self.path, "--workdir")
        self.config = self.path / "config.json"
        self.data = self.path / "data.json"
        self.metrics = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.tensorboard = self.path / "tensorboard"
        self.model = self.path / "model.keras"
        self.averaged = self.path / "model_averaged.keras"
        self.evaluation = self.path / "evaluation.json"

    @property
    def finished(self) -> bool:
        """Whether the run that this folder holds has reached its last step: its model is whole."""
        return self.model.is_file() and files.is_whole_zip(self.model)

    def read_config(self, *needed: str) -> dict[str, Any]:
        """Returns the config of the run in this folder.

        Args:
            *needed: Keys that it must have, with values of their types.

        Raises:
            UserError: When the folder holds no config, or a damaged one.
        """
        values = self._read_json()
        for key in (_STARTED, _SAVED):
            values.pop(key, None)
        for key in needed:
            if key not in values:
                raise UserError(f"{self.config} has no key {key!r}: another version wrote it.")
            KEYS[key].check_type(values[key], f"{self.config}: {key}")
        return values

    @property
    def saved(self) -> bool | None:
        """Whether the run in this folder has checkpoints, or has lost them; None if unknown."""
        return self._read_json().get(_SAVED)

    def note_checkpoints(self, there: bool) -> None:
        """Notes whether the run has checkpoints, so that it is not begun anew without them."""
        values = self._read_json()
        if there != bool(values.get(_SAVED)):
            files.write_json(self.config, values | {_SAVED: there})

    def _read_json(self) -> dict[str, Any]:
        """Returns what is in `config.json`."""
        try:
            values = json.loads(self.config.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise UserError(
                f"{self.path} holds no run of zoo.train: there is no {self.config}."
            ) from error
        except (OSError, ValueError) as error:
            raise UserError(f"{self.config} cannot be read: {error}.") from error
        if not isinstance(values, dict):
            raise UserError(f"{self.config} is damaged: it holds no keys and values.")
        return values

    def changes(self, config: Mapping[str, Any]) -> configs.Changes:
        """Returns how a config differs from that of the run in this folder, if there is one."""
        if not self.config.is_file():
            return configs.Changes({}, {}, {})
        return configs.changes(self.read_config(), config)

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
        places.check_folder(self.path)

    def _is_new(self) -> bool:
        """Whether the folder is empty, except for what a run leaves that is killed at once."""
        return all(files.is_unfinished(path, of=self.config) for path in self.path.iterdir())

    def _check_config(self, config: Mapping[str, Any]) -> None:
        """Raises a `UserError` if the folder's run has another config."""
        if refused := self.changes(config).refused:
            raise UserError(
                f"{self.path} holds a run with another config: "
                f"{configs.listed(refused, 'there', 'here')}. Nothing was written. "
                "Choose another --workdir, or give the same config to resume that run."
            )

    @contextlib.contextmanager
    def opened(
        self,
        config: Mapping[str, Any],
        environment: Mapping[str, Any] | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> Iterator[None]:
        """Makes the folder if need be, and locks it for this process while the body runs.

        Args:
            config: The config of the run.
            environment: What it runs with; see `zoo.training.records.environment`.
            check: Called before anything is written into the folder; raises a `UserError` where the
                run cannot go on.

        Yields:
            Nothing.

        Raises:
            UserError: When the folder cannot be written, another process has it, or the config is
                refused.
        """
        with contextlib.ExitStack() as stack:
            with self._writing():
                self.path.mkdir(parents=True, exist_ok=True)
                # The folder is locked and not a file in it, which another process would replace.
                lock = os.open(self.path, os.O_RDONLY)
                stack.callback(os.close, lock)
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.check(config)  # again: another run may have begun since
            check()
            with self._writing():
                self._write_config(config, environment)
                files.remove_temporary(self.path)
            yield

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Names the folder in an error of the body's."""
        try:
            yield
        except BlockingIOError as error:
            raise UserError(f"{self.path} is in use by another zoo.train.") from error
        except OSError as error:
            raise UserError(
                f"--workdir={self.path} cannot be written: {error.strerror}: {error.filename}."
            ) from error

    def _write_config(
        self, config: Mapping[str, Any], environment: Mapping[str, Any] | None
    ) -> None:
        """Writes the config and the environments; a run that is resumed elsewhere adds one."""
        before = self._read_json() if self.config.is_file() else {}
        started = list(before.get(_STARTED, []))
        if environment and (not started or {**started[-1], **environment} != started[-1]):
            started.append({"date": time.strftime("%Y-%m-%d", time.gmtime()), **environment})
        # An earlier version's run does not say whether it has checkpoints.
        saved = {_SAVED: before.get(_SAVED, False)} if _SAVED in before or not before else {}
        values = {**config, _STARTED: started, **saved}
        if values == before:
            return
        if self.model.exists() and self.changes(config).longer:
            # A run that has a model, which is renamed last, is finished. This one goes on.
            for path in (self.evaluation, self.averaged, self.model):
                if path.exists():
                    os.replace(path, path.with_stem(f"{path.stem}-{before['num_steps']:08d}"))
        files.write_json(self.config, values)
