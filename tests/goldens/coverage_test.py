"""Everything public has a case, and every case is of something public."""

import types

import pytest

import keras_renorm
import zoo
import zoo.data
import zoo.models
import zoo.weights
from goldens import layer_cases, op_cases, structure_cases, zoo_cases

PACKAGES = {name: getattr(keras_renorm, name) for name in keras_renorm.__all__}
PACKAGES = {name: room for name, room in PACKAGES.items() if isinstance(room, types.ModuleType)}
PACKAGES |= {room.__name__: room for room in (zoo, zoo.models, zoo.data, zoo.weights)}


def names_of(module):
    """What a module offers: its `__all__`, or what it defines."""
    if hasattr(module, "__all__"):
        return set(module.__all__)
    own = {
        name
        for name, value in vars(module).items()
        if getattr(value, "__module__", None) == module.__name__ or name.isupper()
    }
    return {name for name in own if not name.startswith("_")}


def public():
    found = {f"{room}.{name}" for room in PACKAGES for name in names_of(PACKAGES[room])}
    return found | {name for name in keras_renorm.__all__ if name not in PACKAGES}


def covered():
    found = {f"layers.{case.layer.__name__}" for case in layer_cases.CASES.values()}
    found |= {f"ops.{name}" for case in op_cases.CASES.values() for name in case.covers}
    return found | set(structure_cases.CASES) | set(zoo_cases.CASES)


def test_everything_public_has_a_case():
    assert public() - covered() == set()


def test_every_case_is_of_something_public():
    assert covered() - public() == set()


@pytest.mark.parametrize("name", layer_cases.CASES | op_cases.CASES)
def test_a_case_is_named_after_what_it_shows(name):
    case = (layer_cases.CASES | op_cases.CASES)[name]
    names = [case.layer.__name__] if hasattr(case, "layer") else case.covers
    assert name.partition("-")[0] in names
