"""Which modes and dtypes a case is run in: each with each would take four times as long."""

import zlib

from goldens import running, write

HALF_OR_DOUBLE = ("float16", "bfloat16", "float64")


def every(names=tuple(write.CASES)):
    """Eager calls in all dtypes; the other modes in float32 and one more, each its share."""
    found = []
    for name in names:
        found += [(name, "eager", dtype) for dtype in running.TOLERANCES]
        for number, mode in enumerate(running.MODES[1:]):
            other = HALF_OR_DOUBLE[(zlib.crc32(name.encode()) + number) % 3]
            found += [(name, mode, dtype) for dtype in ("float32", other)]
    return found


def float32(names=tuple(write.CASES), modes=running.MODES):
    """The modes in float32, and float16 eagerly."""
    single = [(name, mode, "float32") for name in names for mode in modes]
    return single + [(name, "eager", "float16") for name in names]
