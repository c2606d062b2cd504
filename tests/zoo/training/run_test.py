"""What `train` decides before TensorFlow is needed; loop_test.py has the rest."""

import io
import json
import zipfile

import pytest
from rich.console import Console

from zoo.errors import UserError
from zoo.training.config import default_config
from zoo.training.records.metrics import MetricsLog, Record
from zoo.training.run import train

CONFIG = default_config().to_dict()


@pytest.fixture
def finished(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as model:
        model.writestr("config.json", "a model")
    with MetricsLog(tmp_path / "metrics.jsonl", 0) as log:
        log.write(Record(1000, "test", 0.5, 0.75, 0.1, None, None, 1.0, 1.0))
    return tmp_path


def test_a_finished_run_is_summed_up(finished):
    console = Console(file=io.StringIO(), width=200)
    before = (finished / "model.keras").read_bytes()
    assert train(CONFIG, str(finished), console) == 0
    assert "finished: there is nothing to do" in console.file.getvalue()
    assert "75.00 %" in console.file.getvalue()
    assert (finished / "model.keras").read_bytes() == before


def test_a_finished_run_whose_records_are_gone_is_a_users_error(finished):
    (finished / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match=r"metrics\.jsonl holds no evaluation: "):
        train(CONFIG, str(finished), Console(quiet=True))


def test_a_finished_run_with_another_config_is_refused(finished):
    with pytest.raises(UserError, match=r"seed \(there 0, here 1\)"):
        train(CONFIG | {"seed": 1}, str(finished), Console(quiet=True))


def test_a_folder_in_the_place_of_the_model_is_in_the_way(finished):
    (finished / "model.keras").unlink()
    (finished / "model.keras").mkdir()
    with pytest.raises(UserError, match=r"model\.keras is a folder, not a model: move it away, "):
        train(CONFIG, str(finished), Console(quiet=True))
