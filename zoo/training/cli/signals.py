"""Stopping when asked to: at the end of a step, or at once but without leaving unfinished files."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(KeyboardInterrupt):
    """A signal other than Ctrl-C that ends a program.

    Attributes:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextlib.contextmanager
def as_interrupts() -> Iterator[None]:
    """Lets SIGTERM and SIGHUP end the body as a Ctrl-C does, which removes what is unfinished.

    A second one takes its usual course. Under `nohup` a program goes on ignoring SIGHUP.

    Yields:
        Nothing.

    Raises:
        Stopped: When one of them comes.
    """
    previous: dict[int, Any] = {}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        del frame
        restore()
        raise Stopped(number)

    previous |= {number: signal.signal(number, stop) for number in _heeded() - {signal.SIGINT}}
    try:
        yield
    finally:
        restore()


def _heeded() -> set[signal.Signals]:
    """Returns the signals that are to be heeded: not a SIGHUP that `nohup` has turned off."""
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return {number for number in _SIGNALS if number != signal.SIGHUP or not ignored}


class StopRequest:
    """Notes a Ctrl-C, SIGTERM or SIGHUP instead of dying of it; a second takes its usual course.

    Schedulers send SIGTERM before they take a machine away, and a terminal that is closed sends
    SIGHUP, so all mean: save and stop. Under `nohup` a program goes on ignoring SIGHUP. Where
    several workers train together, all must stop after the same step: a step tells whether any of
    them has received a signal.

    Attributes:
        received: The signal that this process has received, if any, or SIGTERM after `ask`.
        agreed: Whether all workers know that one of them has received a signal.

    A loop uses it so::

        with StopRequest() as stop:
            stop.listen()
            while not stop.agreed:
                if do_a_step(stop.received is not None):
                    stop.agreed = True
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.agreed = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequest":
        """Returns the request. Until `listen` is called signals take their usual course."""
        return self

    def listen(self) -> None:
        """Starts noting signals, unless it does already."""
        if self in _listening:
            return
        _listening.append(self)
        self._previous = {number: signal.signal(number, self._note) for number in _heeded()}

    @property
    def cause(self) -> signal.Signals:
        """The signal that this process has received; SIGTERM where another worker has."""
        return self.received or signal.SIGTERM

    def _note(self, number: int, frame: FrameType | None) -> None:
        """Remembers the signal and lets the next one through."""
        del frame
        self.received = signal.Signals(number)
        self._restore()

    def _restore(self) -> None:
        """Gives the signals back to whoever had them."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def __exit__(self, *exception: object) -> None:
        """Stops noting signals."""
        self._restore()
        if self in _listening:
            _listening.remove(self)


_listening: list[StopRequest] = []


def ask() -> bool:
    """Asks what notes signals to stop, from any thread; returns whether anything does."""
    for request in _listening:
        request.received = request.received or signal.SIGTERM
    return bool(_listening)
