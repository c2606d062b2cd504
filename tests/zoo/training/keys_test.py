import ast
from typing import get_args

from zoo.training.cli.arguments import PIXELS
from zoo.training.config import default_config
from zoo.training.keys import GROUPS, KEYS, key_help
from zoo.weights.record import Preprocessing


def test_the_help_has_every_key_with_its_default_under_its_heading():
    lines = key_help().splitlines()
    headings = {title: lines.index(f"{title}:") for title in GROUPS}
    ends = [*[*headings.values()][1:], len(lines)]
    for (title, begin), end in zip(headings.items(), ends, strict=True):
        for key in GROUPS[title]:
            [line] = [line for line in lines[begin:end] if line.startswith(f"  {key.name} = ")]
            assert ast.literal_eval(line.partition(" = ")[2]) == key.default


def test_every_key_says_what_it_is():
    for key in KEYS.values():
        assert len(key.help) > 5, key.name


def test_the_help_says_what_is_allowed_within_100_columns():
    text = key_help()
    assert (
        "\n  num_steps = 1000\n      How many minibatches it is trained on. At least 1.\n" in text
    )
    assert "\n  nesterov = False\n      Whether momentum looks ahead. For optimizer=sgd.\n" in text
    assert max(map(len, text.splitlines())) <= 100


def test_no_key_stands_in_two_groups():
    assert len(KEYS) == sum(map(len, GROUPS.values()))


def test_a_default_passes_the_checks_of_its_key():
    for key in KEYS.values():
        key.check(key.default)


def test_a_config_has_the_keys_and_types_of_the_table():
    config = default_config()
    assert {name: config.get_type(name) for name in config} == {
        name: key.kind for name, key in KEYS.items()
    }


def test_pixels_are_what_models_can_be_given():
    assert (
        sorted(KEYS["pixels"].allowed.choices) == sorted(PIXELS) == sorted(get_args(Preprocessing))
    )
