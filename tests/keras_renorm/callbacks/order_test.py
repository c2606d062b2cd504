import keras
import numpy as np
import pytest

from keras_renorm import layers
from keras_renorm.callbacks import PreciseStatistics
from keras_renorm.callbacks.order import check_order

C = keras.callbacks
X = np.random.default_rng(0).normal(2.0, 3.0, (24, 4)).astype("f4")
BY_EPOCH = {"every_epochs": 1}
EPOCHS_ALONE = {"every_epochs": 1, "at_end": False}


def stopping(**options):
    return C.EarlyStopping("loss", patience=9, **options)


def fit(callbacks, **options):
    norm = layers.BatchNormalization()
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4), norm])
    model.compile(keras.optimizers.SGD(0.01, use_ema=True), "mse")
    model.fit(X, X, epochs=2, batch_size=8, verbose=0, callbacks=callbacks, **options)
    return model


SAVES = "another one saves the statistics before it renews them"
CHANGES = "another one changes the weights after it"


@pytest.mark.parametrize(
    ("make", "options", "reason", "order"),
    [
        ("checkpoint, precise", BY_EPOCH, SAVES, "PreciseStatistics, ModelCheckpoint"),
        ("backup, precise", BY_EPOCH, SAVES, "PreciseStatistics, BackupAndRestore"),
        ("precise, ema", BY_EPOCH, CHANGES, "SwapEMAWeights, PreciseStatistics"),
        ("precise, best", {}, CHANGES, "EarlyStopping, PreciseStatistics"),
        ("precise, best", BY_EPOCH, CHANGES, "EarlyStopping, PreciseStatistics"),
        ("best, precise", EPOCHS_ALONE, SAVES, "PreciseStatistics, EarlyStopping"),
        (
            "checkpoint, precise, other, ema",
            BY_EPOCH,
            CHANGES,
            "SwapEMAWeights, PreciseStatistics, ModelCheckpoint",
        ),
    ],
)
def test_the_wrong_order_is_refused_with_the_right_one(tmp_path, make, options, reason, order):
    message = (
        f"PreciseStatistics stands in the wrong place among the callbacks: {reason}. Write them in "
        rf"this order: callbacks=\[{order}\]\."
    )
    with pytest.raises(ValueError, match=message):
        fit(of(make, tmp_path, options))


@pytest.mark.parametrize(
    ("make", "options"),
    [
        ("precise, checkpoint", BY_EPOCH),
        ("precise, backup", BY_EPOCH),
        ("ema, precise, checkpoint", BY_EPOCH),
        ("best, precise", {}),
        ("best, precise", BY_EPOCH),
        ("precise, best", EPOCHS_ALONE),
        ("precise, plain, other", BY_EPOCH),
        ("plain, precise", EPOCHS_ALONE),
        ("precise, ema", {}),  # its weights are the model's before the end
        ("checkpoint, backup, precise", {}),  # nothing of an epoch is renewed
    ],
)
def test_other_orders_are_taken(tmp_path, make, options):
    fit(of(make, tmp_path, options))


def of(make, tmp_path, options):
    kinds = {
        "precise": lambda: PreciseStatistics(X, **options),
        "checkpoint": lambda: C.ModelCheckpoint(tmp_path / "model.keras"),
        "backup": lambda: C.BackupAndRestore(tmp_path / "backup"),
        "ema": lambda: C.SwapEMAWeights(swap_on_epoch=True),
        "best": lambda: stopping(restore_best_weights=True),
        "plain": stopping,
        "other": C.TerminateOnNaN,
    }
    return [kinds[name]() for name in make.split(", ")]


def test_a_loop_of_ones_own_is_not_checked():
    check_order(PreciseStatistics(X), by_epoch=True, at_end=True)
