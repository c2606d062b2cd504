import hashlib

from zoo.weights import get_record

NAME = "resnet50.keras_imagenet_notop"


def test_a_wrong_file_in_a_folder_is_refused(run_program, tmp_path):
    record = get_record(NAME)
    (tmp_path / record.file).write_bytes(b"wrong")
    done = run_program("zoo.fetch", NAME, f"--zoo_url={tmp_path}", f"--cache={tmp_path / 'cache'}")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: The file {tmp_path / record.file} is not the published ")
    digest = hashlib.md5(b"wrong").hexdigest()
    assert f"expected md5 {record.hash} and 94,765,736 bytes, got md5 {digest}" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_mistake_is_one_line(run_program, tmp_path):
    done = run_program("zoo.fetch", NAME, "--zoo_url=/nowhere", f"--cache={tmp_path}")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: There is no file /nowhere/resnet50_weights_tf_dim_")
    assert done.stderr.count("\n") == 1


def test_what_is_there_is_checked_and_its_path_printed(run_python, tmp_path):
    """With a record of its own: no public file is to be had in a test."""
    data = b"weights"
    (tmp_path / "w.h5").write_bytes(data)
    code = f"""
import dataclasses, sys
from zoo import fetch
from zoo.weights import RECORDS
RECORDS[{NAME!r}] = dataclasses.replace(
    RECORDS[{NAME!r}], file="w.h5", hash={hashlib.md5(data).hexdigest()!r}, bytes=7
)
sys.argv = ["fetch", {NAME!r}, "resnet50.*_notop", "--zoo_url={tmp_path}"]
fetch.run()
"""
    done = run_python(code, ZOO_HOME=str(tmp_path / "home"))
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{tmp_path / 'w.h5'}\n", "")
