import pytest
import tensorflow as tf

from zoo.training.records.profiling import Profiler


@pytest.mark.parametrize("end", [5, 9])
def test_a_profile_is_for_tensorboard(tmp_path, end):
    with Profiler(tmp_path, (2, 4 if end == 5 else 100)) as profiler:
        for step in range(1, end):
            profiler.before(step)
            tf.linalg.matmul(tf.ones([9, 9]), tf.ones([9, 9]))
            assert (step == 1) == (not profiler._running)
            profiler.after(step)
    assert len(list(tmp_path.rglob("*.xplane.pb"))) == 1


def test_no_profile_writes_nothing(tmp_path):
    with Profiler(tmp_path, None) as profiler:
        profiler.before(1)
        profiler.after(1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("steps", "past"), [((2, 4), [False, False, True]), (None, [False] * 3)])
def test_a_profile_is_past_once_its_last_step_is_done(tmp_path, steps, past):
    profiler = Profiler(tmp_path, steps)
    assert [profiler.is_past(step) for step in (0, 3, 4)] == past
