"""At which steps a callback records, whatever moves the counter, and what its log holds."""

import dataclasses
import sys

import keras
import numpy as np
import pytest

from keras_renorm.diagnostics import Finding, Report
from keras_renorm.diagnostics.step_callback import StepCallback

L = keras.layers


class Recorder(StepCallback):
    def __init__(self, every_n_steps, log_dir=None):
        super().__init__(every_n_steps, log_dir)
        self.steps = []

    def record(self, step):
        self.steps.append(step)


@dataclasses.dataclass(frozen=True)
class Numbers(Report):
    values: dict[str, float]

    def scalars(self):
        return self.values

    def _table(self):
        return (), ()

    def _draw(self, figure):
        pass


class Counting:
    """A model with an optimizer, and nothing else."""

    def __init__(self, step=0, built=True):
        self.built = built
        self.steps_per_execution = 1
        self.optimizer = keras.optimizers.SGD()
        self.optimizer.iterations.assign(step)

    def train(self, callback, counts):
        """A training at whose beginning and after each of whose calls the counter stands so."""
        callback.set_model(self)
        for number, count in enumerate(counts):
            self.optimizer.iterations.assign(count)
            if number == 0:
                callback.on_train_begin()
            else:
                if number == 1:
                    self.optimizer.iterations.assign(counts[0])
                    callback.on_epoch_begin(0)
                    self.optimizer.iterations.assign(count)
                self.built = True
                callback.on_train_batch_end(number - 1)
        callback.on_train_end()


@pytest.mark.parametrize(
    ("every", "counts", "recorded"),
    [
        (1, range(4), [0, 1, 2, 3]),
        (3, range(10), [0, 3, 6, 9]),
        (3, range(9), [0, 3, 6, 8]),  # 8 at the end
        (100, range(4), [0, 3]),
        (4, [0], [0]),  # a training of no steps
        (4, range(17, 26), [17, 20, 24, 25]),  # goes on from a checkpoint
        (4, range(20, 25), [20, 24]),
        (5, [0, 3, 6, 9, 12, 15, 18], [0, 6, 12, 15, 18]),  # three steps in a call
        (2, [0, 7, 14], [0, 7, 14]),
        (2, [0, 1, 1, 1, 2, 2, 3, 3], [0, 2, 3]),  # the gradients of several calls in a step
    ],
)
def test_steps(every, counts, recorded):
    callback = Recorder(every)
    Counting().train(callback, counts)
    assert callback.steps == recorded


def test_a_model_that_the_first_step_builds_is_recorded_after_it():
    callback = Recorder(3)
    Counting(built=False).train(callback, range(6))
    assert callback.steps == [1, 3, 5]


def test_a_second_training_begins_with_a_record_of_its_own():
    callback, model = Recorder(4), Counting()
    model.train(callback, range(7))
    model.train(callback, range(6, 10))
    assert callback.steps == [0, 4, 6, 6, 8, 9]


def test_steps_of_fit_are_the_optimizers(rng):
    model = keras.Sequential([keras.Input((4,)), L.Dense(1)])
    model.compile("sgd", "mse")
    x = rng.normal(size=(12, 4)).astype("float32")
    callback = Recorder(2)
    for _ in range(2):
        model.fit(x, x[:, :1], batch_size=4, callbacks=[callback], verbose=0)
    assert callback.steps == [0, 2, 3, 3, 4, 6]


def test_what_another_callback_restores_is_recorded_as_it_is_then(rng, tmp_path):
    x = rng.normal(size=(12, 4)).astype("float32")
    for epochs in (1, 2):
        model = keras.Sequential([keras.Input((4,)), L.Dense(1)])
        model.compile("sgd", "mse")
        callback = Recorder(2)
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup", delete_checkpoint=False)
        callbacks = [callback, backup]
        model.fit(x, x[:, :1], batch_size=4, epochs=epochs, callbacks=callbacks, verbose=0)
    assert callback.steps == [3, 4, 6]


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (0, ValueError, r"`every_n_steps` must be at least 1, received every_n_steps=0\."),
        (-3, ValueError, r"`every_n_steps` must be at least 1, received every_n_steps=-3\."),
        (2.0, TypeError, r"`every_n_steps` must be an integer, received 2\.0 of type float\."),
        (True, TypeError, r"`every_n_steps` must be an integer, received True of type bool\."),
        (None, TypeError, r"`every_n_steps` must be an integer, received None of type NoneType\."),
    ],
)
def test_every_so_many_is_a_whole_number(wrong, error, message):
    with pytest.raises(error, match=message):
        Recorder(wrong)
    callback = Recorder(np.int64(2))
    Counting().train(callback, range(5))
    assert callback.steps == [0, 2, 4]


def test_what_does_not_record_is_no_step_callback():
    with pytest.raises(TypeError, match="abstract method"):
        StepCallback(1, None)


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    callback = Recorder(1)
    callback.set_model(Counting())
    callback.log(Numbers((), (), {"a": 1.0}), 0)
    callback.on_train_end()
    assert list(tmp_path.iterdir()) == []


def test_without_tensorflow_nothing_can_be_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(ImportError, match="`log_dir` needs TensorFlow, which writes TensorBoard"):
        Recorder(1, log_dir=tmp_path)


class Logging(Recorder):
    """Logs the step and a half, and a finding at odd steps."""

    def record(self, step):
        findings = Finding("norm", "fault", f"norm is at {step}."), Finding("b", "fault", "b is.")
        self.log(Numbers(findings * (step % 2), (), {"some/number": step + 0.5}), step)


def read(folder):
    """What is logged under each name, by step."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util import tensor_util

    events = EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload()
    return {
        name: {
            event.step: tensor_util.make_ndarray(event.tensor_proto).item()
            for event in events.Tensors(name)
        }
        for name in events.Tags()["tensors"]
    }


@pytest.mark.parametrize("as_text", [False, True])
def test_numbers_and_findings_are_logged_at_their_steps(as_text, tmp_path):
    folder = tmp_path / "logs" / "run"  # The callback makes it.
    callback = Logging(2, str(folder) if as_text else folder)
    Counting().train(callback, range(4))
    logged = read(folder)
    assert logged["some/number"] == {0: 0.5, 2: 2.5, 3: 3.5}
    assert logged["findings/Numbers"] == {3: b"- norm is at 3.\n- b is."}


def test_a_second_training_goes_on_in_the_same_folder(tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("of the user")
    callback, model = Logging(10, tmp_path), Counting()
    model.train(callback, range(4))
    first = {path: path.read_bytes() for path in tmp_path.iterdir()}
    model.train(callback, range(3, 6))
    assert all(path.read_bytes() == data for path, data in first.items())
    assert read(tmp_path)["some/number"] == {0: 0.5, 3: 3.5, 5: 5.5}


def test_what_is_logged_can_be_read_before_the_end(tmp_path):
    callback = Logging(1, tmp_path)
    callback.record(7)
    assert read(tmp_path)["some/number"] == {7: 7.5}
    callback.set_model(Counting(7))
    callback.on_train_end()
