"""The order of callbacks, where it decides which statistics are saved or stay."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_renorm import keras_internals

_SAVERS = (keras.callbacks.ModelCheckpoint, keras.callbacks.BackupAndRestore)


def check_order(own: Any, *, by_epoch: bool, at_end: bool) -> None:
    """Raises unless a callback that renews statistics stands at its place in the list of `fit`.

    Its place is after the callbacks that change the weights, and before those that save them. Only
    Keras's own lists of callbacks are checked.

    Args:
        own: The callback. A list of callbacks is calling one of its methods.
        by_epoch: Whether it renews the statistics at the end of epochs.
        at_end: Whether it renews them at the end of training.

    Raises:
        ValueError: If the callback stands elsewhere. The message has the right order.
    """
    callbacks = keras_internals.callbacks_in_fit()
    if not any(one is own for one in callbacks):
        return
    place = next(i for i, one in enumerate(callbacks) if one is own)
    before = [one for one in callbacks if _comes_before(one, by_epoch=by_epoch, at_end=at_end)]
    after = [one for one in callbacks if by_epoch and _comes_after(one, at_end=at_end)]
    if any(one in callbacks[place:] for one in before):
        _refuse(own, "changes the weights after it", before, after)
    if any(one in callbacks[:place] for one in after):
        _refuse(own, "saves the statistics before it renews them", before, after)


def _comes_before(callback: Any, *, by_epoch: bool, at_end: bool) -> bool:
    """Whether a callback changes weights when, or after, the statistics are renewed."""
    if isinstance(callback, keras.callbacks.SwapEMAWeights):
        return by_epoch
    return at_end and _restores(callback)


def _comes_after(callback: Any, *, at_end: bool) -> bool:
    """Whether a callback saves statistics at an epoch's end that are not renewed at the end."""
    return isinstance(callback, _SAVERS) or (not at_end and _restores(callback))


def _restores(callback: Any) -> bool:
    return isinstance(callback, keras.callbacks.EarlyStopping) and callback.restore_best_weights


def _refuse(own: Any, reason: str, before: Sequence[Any], after: Sequence[Any]) -> None:
    names = ", ".join(type(one).__name__ for one in (*before, own, *after))
    raise ValueError(
        f"{type(own).__name__} stands in the wrong place among the callbacks: another one {reason}."
        f" Write them in this order: callbacks=[{names}]."
    )
