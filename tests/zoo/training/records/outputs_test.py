import io

import pytest
from rich.console import Console

from zoo.training.records import metrics
from zoo.training.records.outputs import open_outputs
from zoo.training.storage.workdir import Workdir

RECORD = metrics.Record(5, "test", 0.5, 0.75, 0.1, None, None, 1.0, 1.0)


@pytest.mark.parametrize("is_chief", [True, False])
def test_the_chief_writes_and_the_others_do_not(tmp_path, is_chief):
    console = Console(file=io.StringIO(), width=200)
    with open_outputs(is_chief, Workdir(tmp_path), console, 0, 10) as outputs:
        outputs.advance(5)
        outputs.write(RECORD)
        outputs.sync()
    assert metrics.read(tmp_path / "metrics.jsonl") == [RECORD] * is_chief
    assert ("step 5/10: test loss 0.5000" in console.file.getvalue()) == is_chief
    assert bool(list(tmp_path.rglob("*tfevents*"))) == is_chief
