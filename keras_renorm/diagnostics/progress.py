"""The progress of the schedules of r_max and d_max."""

from collections.abc import Iterator

import keras

from keras_renorm.diagnostics.report import Finding
from keras_renorm.layers import BatchRenormalization
from keras_renorm.schedules import Adaptive, Limit, Schedule

# Updates after which a schedule counts as ended: a float32 counter stays there.
_END = 2**24

# An exponential never arrives; nine tenths of the way count as the end.
DONE = 0.9


def value(limit: float | Limit, step: int) -> float:
    """A limit after `step` updates, as a number; an adaptive limit's greatest value."""
    if isinstance(limit, Schedule):
        count = keras.ops.convert_to_tensor(min(step, _END), "int32")
        return float(keras.ops.convert_to_numpy(limit(count)))
    if isinstance(limit, Adaptive):
        return limit.greatest
    assert not isinstance(limit, Limit)
    return float(limit)


def end_value(limit: float | Limit) -> float:
    """A limit's value at the end of training, however long."""
    return value(limit, _END)


def progress(limit: float | Limit, step: int) -> float:
    """The share of a limit's way from its first to its last value after `step` updates.

    It is 1 for a number, and for a schedule that ends where it begins.
    """
    start, end = value(limit, 0), end_value(limit)
    return 1.0 if start == end else (value(limit, step) - start) / (end - start)


def unfinished(name: str, layer: BatchRenormalization, num_steps: int) -> Iterator[Finding]:
    """Limits that do not reach their last values in `num_steps`."""
    for argument, limit in (("r_max", layer.r_max), ("d_max", layer.d_max)):
        if progress(limit, num_steps) < DONE:
            yield Finding(
                name,
                "unfinished schedule",
                f"The schedule of {name} does not end: {argument} is "
                f"{value(limit, num_steps):.3g} after {num_steps} steps, and would become "
                f"{end_value(limit):.3g}. Shorten it, or train longer.",
            )
