"""The cases without golden numbers; `processes_test.py` runs this on other backends."""

import matplotlib
import pytest

from goldens import structure_cases

matplotlib.use("agg")
FUNCTIONS = list(dict.fromkeys(structure_cases.CASES.values()))


@pytest.mark.parametrize("case", FUNCTIONS, ids=lambda case: case.__name__)
def test_case(case, tmp_path):
    case(tmp_path)
