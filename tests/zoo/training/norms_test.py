"""What a run prints of its normalization, and does with it."""

import signal

import keras
import numpy as np
import pytest


@pytest.mark.slow
def test_statistics_stand_still_once_they_are_frozen_and_a_resumed_run_freezes_them_too(
    evaluating,
    records,
    weights_by_layer,
    run_warm_python,
    run_program,
    run_warm_program,
    finished_run,
    tiny_arguments,
    tmp_path,
):
    arguments = (*tiny_arguments, "--config.freeze_statistics_at_step=60")
    # Not forked, so that its hashes of names, and the order of its sets, are others.
    whole = run_program("zoo.train", f"--workdir={tmp_path / 'whole'}", *arguments)
    assert (whole.returncode, whole.stderr) == (0, "")
    assert whole.stdout.count("statistics frozen after step 60\n") == 1
    frozen = weights_by_layer(tmp_path / "whole" / "model.keras")
    # gamma, beta, moving_mean, moving_variance, update_count
    assert int(frozen["hidden1_norm"][4]) == 60
    unfrozen = weights_by_layer(finished_run[0] / "model.keras")
    assert not np.array_equal(frozen["hidden1_norm"][2], unfrozen["hidden1_norm"][2])
    assert not np.array_equal(frozen["hidden1_norm"][0], unfrozen["hidden1_norm"][0])

    # The last evaluation is due, and no step is left to freeze at.
    cut = run_warm_python(evaluating(tmp_path / "parts", [*arguments], signal.SIGTERM, 3))
    assert cut.returncode == 128 + signal.SIGTERM
    resumed = run_warm_program("zoo.train", f"--workdir={tmp_path / 'parts'}", *arguments)
    assert (resumed.returncode, resumed.stderr) == (0, "")
    assert records(tmp_path / "parts") == records(tmp_path / "whole")
    model = keras.saving.load_model(tmp_path / "parts" / "model.keras", compile=False)
    assert model.get_layer("hidden1_norm").frozen_statistics
    parts = weights_by_layer(tmp_path / "parts" / "model.keras")
    for name, weights in frozen.items():
        for whole_weight, part_weight in zip(weights, parts[name], strict=True):
            np.testing.assert_array_equal(part_weight, whole_weight, name)


def test_what_lint_finds_is_printed_before_the_first_step(finished_run):
    printed = finished_run[1].stdout
    finding = "lint: The schedule of hidden1_norm does not end: r_max is 1.21 after 120 steps"
    assert printed.count(finding) == 1
    assert printed.index(finding) < printed.index("step 7/120")
