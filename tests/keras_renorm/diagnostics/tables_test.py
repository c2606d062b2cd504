"""Cells, alignment and wrapping, beyond what report_test.py shows of them."""

import math

import pytest

from keras_renorm.diagnostics.tables import bullets, listing, table


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (0.0, "0"),
        (0.98765, "0.988"),
        (1234567.0, "1.23e+06"),
        (1.5e-7, "1.5e-07"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        (1234567, "1234567"),
        (None, "-"),
        ("25 %", "25 %"),
    ],
)
def test_a_cell(cell, text):
    assert table(["r"], [[cell]]).splitlines()[1].strip() == text


def test_a_column_is_to_the_left_if_a_cell_of_it_is_text():
    rows = [["a", None, None, 10], ["bcd", "25 %", None, 5.0]]
    assert table(["layer", "clip", "r_max", "n"], rows).splitlines() == [
        "layer  clip  r_max   n",
        "a      -         -  10",
        "bcd    25 %      -   5",
    ]


def test_a_long_name_moves_the_columns_behind_it():
    name = "encoder/" * 20 + "norm"
    header, *lines = table(["layer", "r"], [[name, 1.0], ["norm", 2.0]]).splitlines()
    assert [line.rsplit(maxsplit=1)[0] for line in lines] == [name, "norm"]
    assert {len(line) for line in (header, *lines)} == {len(name) + len("  r")}


def test_no_line_ends_with_spaces():
    lines = table(["kind", "layer"], [["BN", "a"], ["BRN", "a_long_name"]]).splitlines()
    assert lines == ["kind  layer", "BN    a", "BRN   a_long_name"]


def test_a_table_without_rows_is_its_header():
    assert table(["layer", "r"], []) == "layer  r"


def test_sentences_are_wrapped_behind_a_dash():
    sentences = ["word " * 50 + "end.", "Short."]
    title, *lines = bullets("Notes:", sentences).splitlines()
    assert title == "Notes:"
    assert max(map(len, lines)) <= 100
    assert [line[:2] for line in lines] == ["- ", "  ", "  ", "- "]
    assert " ".join(line[2:] for line in lines) == " ".join(sentences)


def test_a_name_is_not_cut():
    """Neither one that is longer than a line, nor at a hyphen where the line ends."""
    names = ["encoder-block-norm", "encoder/" * 15 + "norm"]
    text = bullets("Findings:", [f"{'word ' * 18}{name} is faulty." for name in names])
    assert set(names) <= set(text.split())


def test_no_sentences_no_title():
    assert bullets("Notes:", []) == ""
    assert bullets("Notes:", iter(())) == ""


@pytest.mark.parametrize(
    ("count", "end"),
    [(0, ""), (1, "n0"), (6, ", n5"), (7, "n5 and 1 more"), (99, "n5 and 93 more")],
)
def test_listings(count, end):
    text = listing([f"n{i}" for i in range(count)])
    assert text.endswith(end)
    assert text.count("n") == min(count, 6) + (count > 6)  # the n of "and"
