"""What the benchmark scripts beside this file have in common."""

import json
import os
import pathlib
import platform
import sys
from collections.abc import Mapping, Sequence
from typing import Any


def machine() -> str:
    """Names this machine: processor, cores, load."""
    name = platform.processor() or platform.machine()
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        name = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), name)
    return f"{name}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"


def print_table(
    title: str, columns: Sequence[str], rows: Mapping[Any, Mapping[str, float]]
) -> None:
    """Prints a line of numbers per row; "-" where a row has none for a column."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title, *columns, title=machine())
    for label, values in rows.items():
        cells = (f"{values[name]:.2f}" if name in values else "-" for name in columns)
        table.add_row(str(label), *cells)
    Console(width=150 if not sys.stdout.isatty() else None).print(table)


def write_json(path: pathlib.Path | None, document: Mapping[str, Any]) -> None:
    """Writes the results to a new file, if one was asked for."""
    if path is not None:
        with path.open("x", encoding="utf-8") as file:
            file.write(json.dumps(document, indent=1) + "\n")
