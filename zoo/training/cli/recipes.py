"""Recipes: configs by name.

A recipe is a Python file with a function `get_config()` that takes `default_config()` and changes
it. Those in `zoo/configs` go by their names, a user's own by its path. A file runs once, so
`get_config()` must make a new config each time.
"""

import ast
import importlib
from pathlib import Path
from typing import Any

from ml_collections import config_dict

from zoo.errors import UserError, nearest
from zoo.training.config import check_key, default_config
from zoo.training.imports import import_file
from zoo.training.keys import KEYS

RECIPES_FOLDER = Path(__file__).parents[2] / "configs"
DEFAULT_RECIPE = "few_labels"


def recipes() -> list[str]:
    """Returns the names of the recipes in `zoo/configs`."""
    return sorted(path.stem for path in RECIPES_FOLDER.glob("*.py") if path.stem != "__init__")


def recipe_help() -> str:
    """Returns what `--help` says of the recipes: the first line of each docstring."""
    lines = []
    for name in recipes():
        tree = ast.parse((RECIPES_FOLDER / f"{name}.py").read_text(encoding="utf-8"))
        about = (ast.get_docstring(tree) or "").partition("\n")[0]
        lines.append(f"  {name + ' (default)' * (name == DEFAULT_RECIPE):22}  {about}")
    return "\n".join(lines)


def load_recipe(name: str) -> config_dict.ConfigDict:
    """Returns the config of a recipe.

    Args:
        name: A name in `zoo/configs`, or the path of a Python file with `get_config()`.

    Returns:
        The locked config. A key that the recipe leaves out has its default.

    Raises:
        UserError: When there is no such recipe or file, or what the file gives is not a config.
    """
    if name in recipes():
        path = RECIPES_FOLDER / f"{name}.py"
    elif name.endswith(".py") or "/" in name:
        path = Path(name).expanduser()
        if not path.is_file():
            raise UserError(f"--config={name}: there is no such file.")
    else:
        raise UserError(
            f"--config={name}: there is no recipe {name!r}.{nearest(name, recipes())} "
            f"Recipes are {', '.join(recipes())}; a file of your own ends in .py."
        )
    return _completed(path, _run_recipe(path))


def _run_recipe(path: Path) -> Any:
    """Returns what `get_config()` of the file gives, whatever the file holds."""
    try:
        ours = path.parent == RECIPES_FOLDER
        module = importlib.import_module(f"zoo.configs.{path.stem}") if ours else import_file(path)
        return module.get_config()
    except (Exception, SystemExit) as error:  # It is the user's code: anything can come out of it.
        raise UserError(f"--config={path} failed: {type(error).__name__}: {error}") from error


def _completed(path: Path, values: Any) -> config_dict.ConfigDict:
    """Returns the locked config that a recipe's values and the defaults make."""
    if not isinstance(values, config_dict.ConfigDict):
        raise UserError(
            f"--config={path}: get_config() returned a {type(values).__name__}, not an "
            "ml_collections.ConfigDict. Start from zoo.training.config.default_config()."
        )
    # --config.KEY=VALUE needs the types, which another ConfigDict does not show.
    config = config_dict.ConfigDict(default_config().to_dict(preserve_field_references=True))
    for key, value in values.items():
        check_key(key, f"--config={path}: ")
        KEYS[key].check_type(value, f"--config={path}: {key}")
        with config.ignore_type():  # a time is a whole number or has a point
            config[key] = value
    return config.lock()
