import dataclasses
import re
import zipfile

import keras
import pytest

from zoo.data import Preparation
from zoo.errors import UserError
from zoo.trained.card import Card, read_card, write_card

CARD = Card(("Katze", "chien ü"), Preparation(32, 3, 0.875, "bicubic", "tf"), "m", "none", "folder")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "model.keras"
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)]).save(path)
    return path


def test_a_card_is_read_as_it_was_written_and_keras_passes_over_it(file):
    assert read_card(file) is None
    write_card(file, CARD)
    assert read_card(file) == CARD
    assert keras.saving.load_model(file).output_shape == (None, 2)


def test_json_holds_all_of_it():
    assert Card.from_json(CARD.to_json()) == CARD
    assert set(CARD.to_json()) == {field.name for field in dataclasses.fields(Card)}


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"class_names": [], "preparation": {"a": 1}}'])
def test_a_damaged_card_is_a_users_error(file, text):
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("zoo.json", text)
    with pytest.raises(UserError, match=f"^{re.escape(str(file))}: its zoo.json cannot be read: "):
        read_card(file)
