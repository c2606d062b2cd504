"""The progress of a download."""

import contextlib
from collections.abc import Callable, Iterator

Show = Callable[[int, int | None], None]


@contextlib.contextmanager
def progress_bar(name: str, url: str, wanted: bool = True) -> Iterator[Show]:
    """Shows a download on stderr: a bar on a terminal, elsewhere one line.

    Args:
        name: Name of the checkpoint.
        url: Where it comes from.
        wanted: Whether to show anything.

    Yields:
        A function of the number of bytes so far, and of the total or None.
    """
    if not wanted:
        yield lambda done, total: None
        return
    from rich import progress
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True)
    console.print(Text(f"Downloading {name} from {url}"), soft_wrap=True)
    bar = progress.Progress(
        progress.BarColumn(bar_width=None),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
