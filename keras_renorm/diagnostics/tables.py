"""Tables of aligned text."""

import textwrap
from collections.abc import Iterable, Sequence

# Width of the paragraphs below a table.
_WIDTH = 100

# The most layers that a sentence lists by name.
_LISTED = 6


def table(header: Sequence[str], rows: Sequence[Sequence[str | float | int | None]]) -> str:
    """A table of aligned columns: text to the left, numbers to the right, None as a dash.

    Args:
        header: Names of the columns.
        rows: Cells, as many in each row as there are columns.

    Returns:
        Lines joined by newlines, without trailing spaces.

    Example:
        >>> print(table(["layer", "r"], [["bn", 1.25], ["bn_1", None]]))
        layer     r
        bn     1.25
        bn_1      -
    """
    columns = []
    for title, *cells in zip(header, *rows, strict=True):
        align = str.ljust if any(isinstance(cell, str) for cell in cells) else str.rjust
        texts = [title, *map(_text, cells)]
        width = max(map(len, texts))
        columns.append([align(text, width) for text in texts])
    return "\n".join("  ".join(row).rstrip() for row in zip(*columns, strict=True))


def bullets(title: str, sentences: Iterable[str]) -> str:
    """A title and a wrapped bullet for each sentence; empty without sentences.

    Lines break at spaces only, so that a layer's name stays whole for searches and copies.
    """
    wrapper = textwrap.TextWrapper(
        _WIDTH,
        initial_indent="- ",
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    lines = [wrapper.fill(sentence) for sentence in sentences]
    return "\n".join([title, *lines]) if lines else ""


def listing(names: Sequence[str]) -> str:
    """Names joined by commas; for many names, the first ones and the number of the rest."""
    shown = ", ".join(names[:_LISTED])
    return shown if len(names) <= _LISTED else f"{shown} and {len(names) - _LISTED} more"


def _text(cell: str | float | None) -> str:
    """A cell as text: floats with three digits."""
    if cell is None:
        return "-"
    return f"{cell:.3g}" if isinstance(cell, float) else str(cell)
