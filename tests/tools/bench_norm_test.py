import importlib.util
import json
import shutil

import pytest

from keras_renorm.ops.native import loader

CONTENDERS = ["composite", "tf_fused", "keras", "jax", "jax_keras"]
CONTENDERS += ["torch_layer"] * (importlib.util.find_spec("torch") is not None)
CONTENDERS += ["floor"] * (shutil.which("cc") is not None)
CONTENDERS += ["native"] * loader.library_path().is_file()


@pytest.mark.slow
@pytest.mark.parametrize(("layers", "names"), [(1, ["composite", "jax"]), (3, CONTENDERS)])
def test_the_contenders_take_turns(run_tool, tmp_path, layers, names):
    path = tmp_path / "norm.json"
    contenders = f"--contenders={','.join(names)}"
    options = [contenders, "--shapes=64x8x8x64", "--seconds=0.1", f"--layers={layers}"]
    status, printed, _ = run_tool("bench_norm", *options, "--dtypes=float32", f"--json={path}")
    assert status == 0
    written = json.loads(path.read_text())
    without, with_relu = written["results"]
    assert (without["relu"], with_relu["relu"]) == (False, True)
    assert without["layers"] == layers
    for name in names:
        assert without["ms"][name] > 0
        assert with_relu["ms"][name] > 0
        assert f"jax / {name} float32: {written['ratios']['jax'][f'{name} float32']:.2f}" in printed


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        ("--contenders=theirs", "unknown: theirs; there are native,fused,composite"),
        ("--ours=theirs", "unknown: theirs; there are native,fused,composite"),
        ("--relu=both", "unknown: both; there are no,yes"),
        ("--layers=0", "--layers=0 is not at least 1"),
    ],
)
def test_bad_options_are_refused(run_tool, option, complaint):
    status, _, complained = run_tool("bench_norm", option)
    assert status == 2
    assert complaint in complained
