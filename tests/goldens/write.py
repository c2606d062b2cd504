"""Writes `expected`: inputs, and outputs in float64 from the papers' equations alone."""

import pathlib
import sys
import zlib

import numpy as np

from goldens import layer_cases, op_cases

FOLDER = pathlib.Path(__file__).with_name("expected")
TABLES = {"layers": layer_cases.CASES, "ops": op_cases.CASES}
#: Every case with numbers, by its name behind that of its package: `ops.moments-mask`.
CASES = {f"{table}.{name}": case for table in TABLES for name, case in TABLES[table].items()}


def read(name):
    """The inputs and the outputs of a case, as they were written."""
    with np.load(FOLDER / f"{name}.npz") as file:
        arrays = dict(file)
    return tuple(
        {key.removeprefix(kind): array for key, array in arrays.items() if key.startswith(kind)}
        for kind in ("inputs/", "outputs/")
    )


def fresh_inputs(name):
    """Inputs of a case that was not written yet, from a seed that is its name's."""
    return CASES[name].inputs(np.random.default_rng(zlib.crc32(name.encode())))


def main():
    """Writes the cases that the command names, or all."""
    for name in sys.argv[1:] or CASES:
        inputs = fresh_inputs(name)
        outputs = CASES[name].outputs(inputs)
        arrays = {f"inputs/{key}": array for key, array in inputs.items()}
        arrays |= {f"outputs/{key}": array for key, array in outputs.items()}
        np.savez_compressed(FOLDER / f"{name}.npz", **arrays)
        print(name, sorted(outputs))


if __name__ == "__main__":
    main()
