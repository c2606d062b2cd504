import ast

from zoo.training.config import default_config
from zoo.training.keys import KEYS, Key, key_help


def test_the_help_has_every_key_with_its_default():
    lines = key_help().splitlines()
    for key, value in default_config().items():
        [line] = [line for line in lines if line.startswith(f"{key} = ")]
        written = line.removeprefix(f"{key} = ").partition("  #")[0]
        assert ast.literal_eval(written) == value
    assert "batch_norm" in next(line for line in lines if line.startswith("norm = "))


def test_the_help_says_what_is_allowed_within_100_columns():
    lines = key_help().splitlines()
    assert "num_steps = 1000  # At least 1." in lines
    assert "norm_epsilon = None  # 0.001, or that of weights. Above 0." in lines
    assert "nesterov = False  # For optimizer=sgd." in lines
    assert max(map(len, lines)) <= 100


def test_a_long_comment_stands_above_its_key():
    key = Key("a", 1, "word " * 30)
    assert key.described() == f"# {('word ' * 19).strip()}\n# {('word ' * 11).strip()}\na = 1"


def test_a_default_passes_the_checks_of_its_key():
    for key in KEYS.values():
        key.check(key.default)


def test_a_config_has_the_keys_and_types_of_the_table():
    config = default_config()
    assert {name: config.get_type(name) for name in config} == {
        name: key.kind for name, key in KEYS.items()
    }
