import io
import json

import pytest
from rich.console import Console

from zoo.errors import UserError
from zoo.training.records.metrics import MetricsLog, Record
from zoo.training.records.summary import print_summary
from zoo.training.storage.workdir import Workdir


@pytest.fixture
def workdir(tmp_path):
    path = tmp_path / "my run"
    path.mkdir()
    config = {"model": "mlp", "norm": "none", "dataset": "mnist"}
    (path / "config.json").write_text(json.dumps(config))
    with MetricsLog(path / "metrics.jsonl", 0) as log:
        log.write(Record(100, "test", 0.9, 0.5, 0.1, None, None, 1.0, 2.0))
        log.write(Record(200, "test", 0.25, 0.875, 0.1, None, None, 1.0, 65.0))
        log.write(Record(200, "test_averaged", 0.2, 0.9, 0.1, None, None, 1.0, 65.0))
        log.write(Record(200, "train", 0.1, 0.99, 0.1, None, None, 1.0, 65.0))
    return Workdir(path)


def test_records_that_are_gone_are_a_users_error(workdir):
    workdir.metrics.unlink()
    with pytest.raises(UserError, match=r"metrics\.jsonl holds no evaluation: .* are gone\.$"):
        print_summary(workdir, Console(quiet=True))


def test_the_summary_tells_the_last_evaluation_the_files_and_what_comes_next(workdir):
    console = Console(file=io.StringIO(), width=200)
    print_summary(workdir, console)
    shown = console.file.getvalue()
    rows = [[cell.strip() for cell in line.split("│")] for line in shown.splitlines()]
    table = {row[1]: row[2] for row in rows if len(row) == 4}
    assert table["test accuracy"] == "87.50 %"
    assert table["test loss"] == "0.2500"
    assert table["averaged weights"] == "90.00 %"
    assert table["steps"] == "200"
    assert table["time"] == "0:01:05"
    assert table["model"] == str(workdir.model)
    assert shown.startswith("mlp with norm=none on mnist\n")
    # A path with a blank is quoted, so that the command can be copied.
    assert f"\n  python -m zoo.evaluate --workdir='{workdir.path}'  # " in shown
    assert f"\n  python -m zoo.plot '{workdir.path}'  # " in shown
