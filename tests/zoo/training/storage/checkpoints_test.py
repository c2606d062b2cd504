import json
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from zoo.errors import UserError
from zoo.training.storage.checkpoints import CheckpointStore


class Setup:
    """A model with every kind of variable, its optimizer, and their store."""

    def __init__(self, folder, units=3, **options):
        self.model = keras.Sequential(
            [
                keras.Input((4,)),
                keras.layers.Dense(units),
                keras.layers.BatchNormalization(),
                keras.layers.Dropout(0.5),
            ]
        )
        self.optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
        self.optimizer.build(self.model.trainable_variables)
        self.reports = []
        self.store = CheckpointStore(
            folder,
            [*self.model.variables, *self.optimizer.variables],
            **options,
            report=self.reports.append,
        )

    def train(self):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(self.model(tf.eye(4), training=True) ** 2)
        variables = self.model.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)

    def values(self):
        # `variables` holds the random state of the dropout too, `weights` does not.
        return [v.numpy() for v in [*self.model.variables, *self.optimizer.variables]]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "checkpoints"


@pytest.fixture
def saved(folder):
    """Checkpoints of steps 9 and 10, and the values at each."""
    setup = Setup(folder)
    values = {}
    for step in (8, 9, 10):
        setup.train()
        setup.store.save(step, {"step": step, "loss": 0.1})
        setup.store.prune()
        values[step] = setup.values()
    return values


def assert_equal(found, expected):
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_every_variable_and_the_state_come_back(folder, saved):
    setup = Setup(folder)
    assert setup.store.restore() == {"step": 10, "loss": 0.1}
    assert_equal(setup.values(), saved[10])
    assert setup.reports == []


def test_training_goes_on_as_if_nothing_had_happened(folder, saved):
    resumed = Setup(folder)
    (folder / "step-00000010").rename(folder / ".tmp-step-00000010")
    resumed.store.restore()
    assert not np.array_equal(resumed.values()[0], saved[10][0])
    resumed.train()
    assert_equal(resumed.values(), saved[10])


def test_the_two_newest_are_kept(folder, saved):
    assert names(folder) == ["step-00000009", "step-00000010"]


def test_damaged_ones_do_not_count_among_those_that_are_kept(folder, saved):
    (folder / "step-00000009").rename(folder / "step-00000007")  # a backup that was put back
    for step in (9, 10):
        (folder / f"step-{step:08d}").mkdir(exist_ok=True)
        (folder / f"step-{step:08d}" / "state.json").write_text("damaged")
    setup = Setup(folder)
    assert setup.store.restore() == {"step": 9, "loss": 0.1}
    setup.store.save(8, {})
    setup.store.prune()
    assert names(folder) == [f"step-{step:08d}" for step in (7, 8, 9, 10)]
    for step in (9, 10):
        setup.store.save(step, {})
        setup.store.prune()
    assert names(folder) == ["step-00000009", "step-00000010"]


def test_the_best_and_multiples_stay(folder):
    setup = Setup(folder, keep=1, keep_every=4)
    for step in range(1, 10):
        setup.store.save(step, {})
        setup.store.prune(best=3 if step >= 3 else None)
    assert names(folder) == [f"step-{step:08d}" for step in (3, 4, 8, 9)]
    setup.store.remove(9)
    setup.store.remove(7)
    assert names(folder) == [f"step-{step:08d}" for step in (3, 4, 8)]


def test_one_that_may_not_be_read_is_not_called_damaged(folder, saved, unprivileged):
    path = folder / "step-00000010" / "state.json"
    path.chmod(0)
    setup = Setup(folder)
    message = (
        f"Checkpoint {path.parent} may not be read (Permission denied: {path}). Make it readable, "
        "or move it away to resume from the one before it."
    )
    with unprivileged(folder):
        with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
            setup.store.restore()
        setup.store.save(11, {})
        setup.store.prune()
        assert names(folder) == [f"step-{step:08d}" for step in (9, 10, 11)]


def test_one_that_cannot_be_removed_is_reported(folder, saved, unprivileged):
    with unprivileged(folder):
        (folder / "step-00000009").chmod(0o500)
        setup = Setup(folder, keep=1)
        setup.store.prune()
        assert len(setup.reports) == 1
        assert setup.reports[0].startswith("checkpoint ")
        assert setup.reports[0].endswith("step-00000009 cannot be removed: Permission denied")


@pytest.mark.parametrize("name", ["variables.index", "variables.data-00000-of-00001", "state.json"])
@pytest.mark.parametrize("damage", ["flip a bit", "cut", "remove"])
def test_a_damaged_checkpoint_is_reported_and_the_one_before_is_used(folder, saved, name, damage):
    path = folder / "step-00000010" / name
    content = path.read_bytes()
    match damage:
        case "flip a bit":
            path.write_bytes(content[:20] + bytes([content[20] ^ 1]) + content[21:])
        case "cut":
            path.write_bytes(content[:-1])
        case "remove":
            path.unlink()
    setup = Setup(folder)
    assert setup.store.restore() == {"step": 9, "loss": 0.1}
    assert_equal(setup.values(), saved[9])
    reason = "is missing" if damage == "remove" else "has changed since it was written"
    assert setup.reports == [
        f"checkpoint {path.parent} is damaged ({name} {reason}): trying the one before it"
    ]


@pytest.mark.parametrize("content", [None, "{", "[]", "{}"])
def test_a_checkpoint_without_its_checksums_is_damaged(folder, saved, content):
    path = folder / "step-00000010" / "sha256.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    setup = Setup(folder)
    assert setup.store.restore() == {"step": 9, "loss": 0.1}
    assert len(setup.reports) == 1


def test_an_empty_folder_is_a_damaged_checkpoint(folder, saved):
    (folder / "step-00000011").mkdir()
    setup = Setup(folder)
    assert setup.store.restore() == {"step": 10, "loss": 0.1}
    assert "sha256.json" in setup.reports[0]


def test_nothing_is_restored_when_all_are_damaged(folder, saved):
    for checkpoint in folder.iterdir():
        (checkpoint / "variables.index").write_bytes(b"")
    setup = Setup(folder)
    before = setup.values()
    message = (
        f"None of the 2 checkpoints in {folder} is usable: the run cannot be resumed. To train "
        "from the beginning, choose another --workdir."
    )
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        setup.store.restore()
    assert_equal(setup.values(), before)
    assert len(setup.reports) == 2


def test_no_checkpoint_is_no_error(folder):
    assert Setup(folder).store.restore() is None


def test_what_a_kill_left_behind_is_no_checkpoint_and_goes_away(folder, saved):
    (folder / ".tmp-step-00000011").mkdir()
    (folder / ".tmp-old-step-00000008").mkdir()
    setup = Setup(folder)
    assert setup.store.restore() == {"step": 10, "loss": 0.1}
    setup.store.save(11, {})
    setup.store.prune()
    assert names(folder) == ["step-00000010", "step-00000011"]


def test_what_is_not_named_as_a_checkpoint_is_left_alone(folder, saved):
    others = ["step-00000001-keep", "step-9", "step-notes"]
    for name in others:
        (folder / name).mkdir()
    setup = Setup(folder)
    assert setup.store.restore() == {"step": 10, "loss": 0.1}
    assert setup.reports == []
    setup.store.save(11, {})
    setup.store.prune()
    assert names(folder) == sorted([*others, "step-00000010", "step-00000011"])


def test_the_newest_is_that_of_the_greatest_number(folder):
    setup = Setup(folder)
    for step in (99_999_999, 100_000_000):
        setup.store.save(step, {})
    assert [path.name for path in setup.store.newest_first()] == ["step-100000000", "step-99999999"]


def test_a_file_in_the_place_of_the_folder_is_found_before_the_training(folder):
    folder.touch()
    with pytest.raises(NotADirectoryError):
        Setup(folder).store.restore()


@pytest.mark.parametrize("size", [40, 1200])  # room for the state, not for TensorFlow's files
def test_a_full_disk_is_named_and_costs_no_checkpoint(folder, saved, little_space, size):
    setup = Setup(folder)
    message = f"{folder / 'step-00000011'} cannot be written: File too large."
    with little_space(size), pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        setup.store.save(11, {"step": 11})
    assert Setup(folder).store.restore()["step"] == 10
    setup.store.save(11, {"step": 11})
    assert names(folder) == [*(f"step-{step:08d}" for step in (9, 10, 11))]
    assert setup.store.restore() == {"step": 11}


def test_a_step_can_be_saved_again(folder, saved):
    setup = Setup(folder)
    setup.store.restore()
    setup.store.save(10, {"again": True})
    assert Setup(folder).store.restore() == {"again": True}


def test_a_checkpoint_of_another_model_is_refused(folder, saved):
    with pytest.raises(UserError, match="does not fit the model that this version builds"):
        Setup(folder, units=5).store.restore()


def test_other_replicas_are_told_of(folder, saved):
    setup = Setup(folder, replicas=2)
    assert setup.store.restore() == {"step": 10, "loss": 0.1}
    checkpoint = folder / "step-00000010"
    assert setup.reports == [
        f"the number of replicas was 1 at checkpoint {checkpoint}, and is 2 now: sums are rounded "
        "in another order"
    ]
    tables = CheckpointStore(folder / "tables", [tf.Variable(tf.zeros([1, 3]))])
    tables.save(4, {})
    tables = CheckpointStore(folder / "tables", [tf.Variable(tf.zeros([2, 3]))], replicas=2)
    message = r"replicas was 1 and is 2 now, .* Resume the run with as many as then\. .*\(1, 3\)"
    with pytest.raises(UserError, match=message):
        tables.restore()


def test_the_checksums_are_those_of_sha256sum(folder, saved):
    import hashlib

    checkpoint = folder / "step-00000010"
    listed = json.loads((checkpoint / "sha256.json").read_text())
    assert sorted(listed) == [
        "state.json",
        "variables.data-00000-of-00001",
        "variables.index",
    ]
    for name, digest in listed.items():
        assert digest == hashlib.sha256((checkpoint / name).read_bytes()).hexdigest()
