import pathlib
import re

from keras_renorm.ops.maths.operands import Settings
from keras_renorm.ops.native import layout

SOURCES = pathlib.Path(layout.__file__).parent


def test_the_statistics_are_those_of_the_kernels():
    text = (SOURCES / "kernels.h").read_text()
    *rows, count = re.search(r"kMean, [\w,\s]*kStatistics", text)[0].split(", ")
    fields = ("k" + name.title().replace("_", "") for name in layout.Statistics._fields)
    assert rows == list(fields)
    assert (count, layout.STATISTICS) == ("kStatistics", len(rows))


def test_the_attributes_are_those_of_the_handlers_in_their_types():
    text = (SOURCES / "handlers.cc").read_text()
    types = {"kS64": int, "kPred": bool, "kF64": float}
    read = re.findall(r'ReadAttribute\(from, "(\w+)", ffi::(\w+)', text)
    expected = {name: types[kind] for name, kind in read}
    for settings in (Settings(axis=3, epsilon=1), Settings(0, 1e-3, True, 8, True, 0, True)):
        found = layout.attributes(settings)
        assert {name: type(value) for name, value in found.items()} == expected


def test_no_ghosts_are_a_size_of_0():
    assert layout.attributes(Settings(axis=1))["ghost_size"] == 0
    assert layout.attributes(Settings(axis=1, ghost_size=7))["ghost_size"] == 7
