"""What a recipe names by an import path: a user's own optimizer, schedule, model or images."""

import functools
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from zoo.errors import UserError


def is_path(value: str) -> bool:
    """Returns whether a value of the config is an import path, as `module:name` is one."""
    return ":" in value


def imported(config: Mapping[str, Any], key: str) -> Callable[..., Any]:
    """Returns the callable that a key names.

    Args:
        config: The config.
        key: Its value is `module:name`, which Python can import from here, or `file.py:name`.

    Raises:
        UserError: When there is no such file, module or callable, or the import fails.
    """
    path = config[key]
    place, _, name = path.rpartition(":")
    where = f"--config.{key}={path}"
    try:
        module = import_file(Path(place).expanduser()) if place.endswith(".py") else _module(place)
    except (Exception, SystemExit) as error:  # It is the user's code: anything can come out of it.
        raise UserError(f"{where} cannot be imported: {type(error).__name__}: {error}") from error
    found = getattr(module, name, None)
    if not callable(found):
        raise UserError(f"{where}: {place} has no function or class {name!r}.")
    return found


def called(config: Mapping[str, Any], key: str, kinds: Any, /, **arguments: Any) -> Any:
    """Returns what the callable of a key makes.

    Args:
        config: The config.
        key: See `imported`.
        kinds: The class, or a tuple of classes, that it must be of.
        **arguments: What it is called with.

    Raises:
        UserError: When the call fails, or returns something else.
    """
    make = imported(config, key)
    where = f"--config.{key}={config[key]}"
    try:
        made = make(**arguments)
    except (Exception, SystemExit) as error:  # It is the user's code: anything can come out of it.
        raise UserError(
            f"{where} failed, called with {', '.join(arguments)}: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(made, kinds):
        names = [
            f"{kind.__module__.split('.')[0]} {kind.__name__}"
            for kind in (kinds if isinstance(kinds, tuple) else (kinds,))
        ]
        raise UserError(f"{where} must return a {' or '.join(names)}, received {made!r}.")
    return made


def _module(name: str) -> Any:
    """Imports a module, also from the current folder, which a console script leaves out."""
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
    return importlib.import_module(name)


def import_file(path: Path) -> Any:
    """Returns the module in a Python file, which runs once unless it changes.

    Args:
        path: The file.

    Raises:
        ImportError: When its name is not that of a Python file.
        Exception: Whatever the file raises.
    """
    return _run(path.resolve(), path.stat().st_mtime_ns)


@functools.cache
def _run(path: Path, changed_at: int) -> Any:
    """Runs a file as a module of its own, with the file's name if no other module has it."""
    name = f"{path.stem} in {path.parent}, {changed_at}" if _is_taken(path) else path.stem
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError("it is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses and others look up what an annotation names
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _is_taken(path: Path) -> bool:
    """Returns whether a file's name is that of another module, imported already or later."""
    if path.stem in sys.modules:
        return True
    try:
        spec = importlib.util.find_spec(path.stem)
    except ValueError:  # of a name that no module can have
        return True
    return spec is not None and spec.origin != str(path)
