"""Checkpoints that survive a kill at any moment, and damage to the newest of them.

A checkpoint is a folder `step-00001500` with TensorFlow's files, `state.json` (the step and what
else the loop must remember) and `sha256.json` (the checksum of every other file). It is written
under a temporary name, brought to the disk and renamed. `tf.train.CheckpointManager` is not used:
it never falls back from a damaged checkpoint, and starts from step 0 without a word when its
pointer file is lost.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from zoo.errors import UserError
from zoo.training.storage import files
from zoo.training.storage.writing import writing

_STATE = "state.json"
_CHECKSUMS = "sha256.json"
_VARIABLES = "variables"
_REPLICAS = "replicas"
_NAME = re.compile(r"step-[0-9]{8,}")


class CheckpointStore:
    """Saves and restores variables with a dictionary beside them.

    Args:
        folder: Where the checkpoints are. Made at the first save.
        variables: The variables to save, always in the same order.
        keep: How many of the newest undamaged checkpoints stay.
        keep_every: Checkpoints at multiples of so many steps stay, too; 0 for none.
        replicas: How many replicas train together.
        report: Called with a sentence about what is unusual in a checkpoint.
    """

    def __init__(
        self,
        folder: Path,
        variables: Sequence[tf.Variable],
        *,
        keep: int = 2,
        keep_every: int = 0,
        replicas: int = 1,
        report: Callable[[str], None] = print,
    ) -> None:
        self._folder = folder
        # The variables and not the model: tf.train.Checkpoint(model=...) misses some of them, such
        # as the random state of a Dropout.
        self._checkpoint = tf.train.Checkpoint(variables=list(variables))
        self._keep = keep
        self._keep_every = keep_every
        self._replicas = replicas
        self._report = report

    def newest_first(self) -> list[Path]:
        """Returns the folders of the checkpoints, the newest first."""
        if not self._folder.exists():
            return []
        # A user may keep other things there, such as a copy called step-00000100-keep.
        found = [path for path in self._folder.iterdir() if _NAME.fullmatch(path.name)]
        return sorted(found, key=_step, reverse=True)

    def steps(self) -> set[int]:
        """Returns the steps of the checkpoints that are there."""
        return {_step(folder) for folder in self.newest_first()}

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """Writes a checkpoint. `prune` removes older ones.

        Args:
            step: Steps done.
            state: What `restore` returns later; JSON must be able to hold it.

        Returns:
            The checkpoint's folder.

        Raises:
            UserError: When it cannot be written.
        """
        final = self._folder / f"step-{step:08d}"
        temporary = self._folder / f"{files.TEMPORARY_PREFIX}{final.name}"
        with writing(final):
            self._folder.mkdir(exist_ok=True)
            files.remove_temporary(self._folder)
            temporary.mkdir()
            self._checkpoint.write(str(temporary / _VARIABLES))
            files.write_json(temporary / _STATE, {**state, _REPLICAS: self._replicas})
            files.write_json(temporary / _CHECKSUMS, _checksums(temporary))
            for path in [*temporary.iterdir(), temporary]:
                files.sync(path)
            _replace_folder(temporary, final)
        return final

    def prune(self, best: int | None = None) -> None:
        """Removes the checkpoints that are older than the newest undamaged ones.

        Damaged ones do not count as kept: two of them would push out the backup that the run was
        resumed from.

        Args:
            best: Step of a checkpoint that stays, however old it is.
        """
        intact = 0
        for folder in self.newest_first():
            if intact < self._keep:
                intact += _is_intact(folder)
            elif not self._stays(_step(folder), best):
                self._remove_old(folder)

    def _remove_old(self, folder: Path) -> None:
        """Removes an old checkpoint; a failure is reported, and the run goes on."""
        try:
            _remove_folder(folder)
        except OSError as error:
            self._report(f"checkpoint {folder} cannot be removed: {error.strerror}")

    def _stays(self, step: int, best: int | None) -> bool:
        """Whether an older checkpoint stays."""
        return step == best or (self._keep_every > 0 and step % self._keep_every == 0)

    def remove(self, step: int) -> None:
        """Removes the checkpoint of a step, if there is one."""
        for folder in self.newest_first():
            if _step(folder) == step:
                _remove_folder(folder)

    def check(self) -> bool:
        """Returns whether there is a checkpoint. Restores nothing.

        Raises:
            UserError: As from `restore`, but for a checkpoint that does not fit.
        """
        found, damages = self.newest_first(), []
        for folder in found:
            problem = next(_problems(folder), None)
            if problem is None:
                return True
            damages.append(f"checkpoint {folder} is damaged ({problem})")
        for damage in damages:
            self._report(damage)
        if found:
            raise self._unusable(found)
        return False

    def _unusable(self, found: Sequence[Path]) -> UserError:
        return UserError(
            f"None of the {len(found)} checkpoints in {self._folder} is usable: the run cannot "
            "be resumed. To train from the beginning, choose another --workdir."
        )

    def restore(self) -> dict[str, Any] | None:
        """Restores the newest undamaged checkpoint.

        Returns:
            The state that was saved with it; None when there is no checkpoint at all.

        Raises:
            UserError: When there are checkpoints but none is usable, or one newer than all usable
                ones may not be read.
        """
        found = self.newest_first()
        for folder in found:
            problem = next(_problems(folder), None)
            if problem is None:
                return self._read(folder)
            self._report(f"checkpoint {folder} is damaged ({problem}): trying the one before it")
        if found:
            raise self._unusable(found)
        return None

    def _read(self, folder: Path) -> dict[str, Any]:
        """Restores the variables and returns the state of an undamaged checkpoint."""
        state = dict(json.loads((folder / _STATE).read_text(encoding="utf-8")))
        replicas = state.pop(_REPLICAS, self._replicas)  # an earlier version did not write it
        try:
            self._checkpoint.read(str(folder / _VARIABLES)).assert_consumed()
        except (AssertionError, ValueError, tf.errors.OpError) as error:
            if replicas != self._replicas:
                raise UserError(
                    f"Checkpoint {folder} does not fit. The number of replicas was {replicas} and "
                    f"is {self._replicas} now, and each has moving statistics of its own unless "
                    f"they are synchronized. Resume the run with as many as then. {error}"
                ) from error
            raise UserError(
                f"Checkpoint {folder} is undamaged but does not fit the model that this version "
                f"builds: {error}"
            ) from error
        if replicas != self._replicas:
            self._report(
                f"the number of replicas was {replicas} at checkpoint {folder}, and is "
                f"{self._replicas} now: sums are rounded in another order"
            )
        return state


def _step(folder: Path) -> int:
    """Returns the step of a checkpoint's folder."""
    return int(folder.name[len("step-") :])


def _checksums(folder: Path) -> dict[str, str]:
    """Returns {file name: SHA-256} for the files of a folder, except the list of checksums."""
    return {
        path.name: files.sha256(path)
        for path in sorted(folder.iterdir())
        if path.name != _CHECKSUMS
    }


def _is_intact(folder: Path) -> bool:
    """Returns whether a checkpoint may be read and is undamaged."""
    try:
        return next(_problems(folder), None) is None
    except UserError:
        return False


def _problems(folder: Path) -> Iterator[str]:
    """Yields what is wrong with a checkpoint."""
    try:
        expected = dict(json.loads((folder / _CHECKSUMS).read_text(encoding="utf-8")))
        found = _checksums(folder)
    except PermissionError as error:
        raise UserError(
            f"Checkpoint {folder} may not be read ({error.strerror}: {error.filename}). Make it "
            "readable, or move it away to resume from the one before it."
        ) from error
    except (OSError, ValueError, TypeError) as error:
        yield f"{_CHECKSUMS}: {error}"
        return
    for name in sorted(expected.keys() | {_STATE}):
        if name not in found:
            yield f"{name} is missing"
        elif found[name] != expected.get(name):
            yield f"{name} has changed since it was written"


def _replace_folder(temporary: Path, final: Path) -> None:
    """Renames a complete folder to its final name, in place of an older one."""
    if final.exists():
        _remove_folder(final)
    os.rename(temporary, final)
    files.sync(final.parent)


def _remove_folder(folder: Path) -> None:
    """Removes a folder so that a kill never leaves half of it under its name."""
    doomed = folder.with_name(f"{files.TEMPORARY_PREFIX}old-{folder.name}")
    os.rename(folder, doomed)
    shutil.rmtree(doomed)
