import importlib.util
import json
import pathlib

import pytest

from zoo.evidence import page, reproduce

ROOT = pathlib.Path(__file__).parents[2]
RESULTS = sorted((ROOT / "docs" / "evidence").glob("*.json"))


def _tool():
    path = ROOT / "tools" / "write_evidence.py"
    spec = importlib.util.spec_from_file_location("write_evidence", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


write_evidence = _tool()


def test_the_page_is_that_of_the_results():
    assert (write_evidence.DOCS / "evidence.md").read_text() == write_evidence.text()


def test_the_table_in_readme_is_that_of_the_results():
    readme = (ROOT / "README.md").read_text()
    assert write_evidence.headline(readme) == readme
    assert "| two labels each | 8" in readme


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_verdicts_follow_from_the_numbers(path):
    """Judged anew, by the rules in zoo/experiments."""
    document = json.loads(path.read_text())
    claims = reproduce.load(document["name"]).claims
    for claim, written in zip(claims, document["claims"], strict=True):
        found = claim.find(document["arms"])
        assert (claim.text, claim.rule, found.verdict) == (
            written["text"],
            written["rule"],
            written["verdict"],
        )
    assert path.with_suffix(".png").is_file()
    assert page.section(reproduce.load(document["name"]), document)


def test_enough_is_decided():
    documents = [json.loads(path.read_text()) for path in RESULTS]
    verdicts = [claim["verdict"] for document in documents for claim in document["claims"]]
    assert sum(verdict != "not decided" for verdict in verdicts) >= 12


def test_results_of_the_default_scale_are_taken_and_drawn(tmp_path, monkeypatch):
    source = tmp_path / "runs" / "non_iid" / "default"
    source.mkdir(parents=True)
    results = (write_evidence.DOCS / "evidence" / "non_iid.json").read_bytes()
    (source / "results.json").write_bytes(results)
    evidence = tmp_path / "docs" / "evidence"
    evidence.mkdir(parents=True)
    monkeypatch.setattr(write_evidence, "DOCS", tmp_path / "docs")
    write_evidence.take(tmp_path / "runs")
    write_evidence.draw()
    assert (evidence / "non_iid.json").read_bytes() == results
    assert (evidence / "non_iid.png").read_bytes().startswith(b"\x89PNG")
