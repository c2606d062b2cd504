import re
import sys

import pytest
from ml_collections import config_dict

from zoo.errors import UserError
from zoo.training.cli import recipes
from zoo.training.config import check_values, default_config
from zoo.training.imports import imported

BEGINNING = "from zoo.training.config import default_config\n"


@pytest.fixture
def recipe_file(tmp_path):
    def write(body):
        path = tmp_path / "mine.py"
        path.write_text(
            f"{BEGINNING}def get_config():\n    config = default_config()\n    {body}\n"
        )
        return str(path)

    return write


def test_the_committed_recipes_are_found_and_valid():
    assert set(recipes.recipes()) >= {"few_labels", "resnet20"}
    for name in recipes.recipes():
        config = recipes.load_recipe(name)
        assert config.is_locked
        assert set(config) == set(default_config())
        check_values(config)
        assert name not in sys.modules  # which leaves it to a module of the user's


def test_a_file_of_the_users_own_is_a_recipe(recipe_file):
    config = recipes.load_recipe(recipe_file("config.num_steps = 7\n    return config"))
    assert config.num_steps == 7
    assert config.is_locked


def test_a_home_folder_is_found(recipe_file, tmp_path, monkeypatch):
    recipe_file("config.num_steps = 7\n    return config")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert recipes.load_recipe("~/mine.py").num_steps == 7


def test_a_file_may_hold_what_the_run_needs_too(tmp_path):
    path = tmp_path / "with_optimizer.py"
    path.write_text(
        "from __future__ import annotations\nimport dataclasses\n"
        "@dataclasses.dataclass\nclass Options:\n    rate: float = 0.5\n"
        f"{BEGINNING}def get_config():\n    config = default_config()\n"
        "    config.learning_rate = Options().rate\n    return config\n"
    )
    assert recipes.load_recipe(str(path)).learning_rate == 0.5
    made = imported({"optimizer": f"{path}:Options"}, "optimizer")
    assert made is sys.modules[made.__module__].Options


def test_data_dir_may_be_none_and_keeps_its_type(recipe_file):
    config = recipes.load_recipe(recipe_file("config.data_dir = None\n    return config"))
    assert config.data_dir is None
    assert config.get_type("data_dir") is str


def test_keys_that_a_file_leaves_out_have_their_defaults(tmp_path):
    path = tmp_path / "short.py"
    path.write_text(
        "from ml_collections import config_dict\n"
        "def get_config():\n    return config_dict.create(model='mlp', learning_rate=1)\n"
    )
    config = recipes.load_recipe(str(path))
    assert (config.model, config.learning_rate) == ("mlp", 1.0)
    assert isinstance(config, config_dict.ConfigDict)
    assert config.num_steps == default_config().num_steps


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "few_lables",
            "--config=few_lables: there is no recipe 'few_lables'. Did you mean 'few_labels'? "
            "Recipes are few_labels, ",
        ),
        ("nowhere/mine.py", "--config=nowhere/mine.py: there is no such file."),
        ("__init__", "--config=__init__: there is no recipe '__init__'."),
    ],
)
def test_an_unknown_recipe_is_refused(name, message):
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        recipes.load_recipe(name)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return 1 / 0", " failed: ZeroDivisionError: division by zero"),
        ("return (", " failed: SyntaxError: "),
        ("raise SystemExit(0)", " failed: SystemExit: 0"),
        (
            "config.num_steps = 'many'\n    return config",
            ": num_steps must be a whole number, received 'many'.",
        ),
        (
            "config.num_steps = None\n    return config",
            ": num_steps must be a whole number, received None.",
        ),
        (
            "config.num_steps = True\n    return config",
            ": num_steps must be a whole number, received True.",
        ),
        (
            "config.learning_rate = 10**39\n    return config",
            ": learning_rate must be finite and at most 3.40282e+38, received 1e+39.",
        ),
        ("config.augment = 1\n    return config", ": augment must be true or false, received 1."),
        ("config.data_dir = 5\n    return config", ": data_dir must be a string, received 5."),
        ("return 5", ": get_config() returned a int, not an ml_collections.ConfigDict. Start from"),
        (
            "config.nrom = 'none'\n    return config",
            ": there is no config key 'nrom'. Did you mean 'norm'?",
        ),
    ],
)
def test_a_faulty_file_is_refused_with_its_name(recipe_file, body, message):
    path = recipe_file(body)
    with pytest.raises(UserError, match=f"^{re.escape(f'--config={path}{message}')}"):
        recipes.load_recipe(path)


def test_a_value_of_another_type_is_refused(tmp_path):
    path = tmp_path / "typed.py"
    path.write_text(
        "from ml_collections import config_dict\n"
        "def get_config():\n    return config_dict.create(num_steps='many')\n"
    )
    with pytest.raises(UserError, match="num_steps must be a whole number, received 'many'"):
        recipes.load_recipe(str(path))


def test_a_file_without_get_config_is_refused(tmp_path):
    path = tmp_path / "empty.py"
    path.write_text("")
    with pytest.raises(UserError, match=r"AttributeError.*get_config"):
        recipes.load_recipe(str(path))
