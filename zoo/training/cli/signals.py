"""Stopping at the end of a step when asked to."""

import signal
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Notes a Ctrl-C or SIGTERM instead of dying of it; a second one takes its usual course.

    Schedulers send SIGTERM before they take a machine away, so both mean: save and stop. Where
    several workers train together, all must stop after the same step: a step tells whether any of
    them has received a signal.

    Attributes:
        received: The signal that this process has received, if any.
        agreed: Whether all workers know that one of them has received a signal.

    Example:
        with StopRequest() as stop:
            while not stop.agreed:
                if do_a_step(stop.received is not None):
                    stop.agreed = True
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.agreed = False

    def __enter__(self) -> "StopRequest":
        """Starts noting signals."""
        self._previous = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

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
