"""What all reports share: the table's alignment, and the message where matplotlib is missing."""

import sys

import pytest

from keras_renorm.diagnostics import Finding, Report
from keras_renorm.diagnostics.tables import listing, table


class Numbers(Report):
    def scalars(self):
        return {}

    def _table(self):
        return ("name", "value"), [("a", 1.0), ("bc", None)]

    def _draw(self, figure):
        figure.subplots()


def test_columns_are_aligned():
    text = table(["layer", "kind", "r"], [["bn", "BN", 1.25], ["batch", "BRN", None]])
    assert text == "layer  kind     r\nbn     BN    1.25\nbatch  BRN      -"


def test_long_listings_are_cut():
    assert listing(list("abc")) == "a, b, c"
    assert listing(list("abcdefgh")) == "a, b, c, d, e, f and 2 more"


def test_a_report_prints_table_notes_and_findings():
    finding = Finding("a", "fault", "a is faulty.")
    text = str(Numbers((finding,), ("Left out: b.",)))
    assert text == (
        "name  value\na         1\nbc        -\n\n"
        "Notes:\n- Left out: b.\n\nFindings:\n- a is faulty."
    )
    assert str(Numbers((), ())).endswith("\n\nFindings: none.")
    assert Numbers((finding,), ()).to_dict()["findings"] == (
        {"layer": "a", "kind": "fault", "message": "a is faulty."},
    )


def test_without_matplotlib_plot_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="Write `pip install matplotlib`, or use `print"):
        Numbers((), ()).plot()


def test_a_plot_without_a_path_writes_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(Numbers((), ()).plot().axes) == 1
    assert list(tmp_path.iterdir()) == []
