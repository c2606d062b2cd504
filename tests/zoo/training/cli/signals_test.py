import signal

import pytest

from zoo.training.cli.signals import Stopped, StopRequest, as_interrupts, ask


@pytest.fixture(autouse=True)
def as_in_the_foreground():
    """A shell has what it starts in the background ignore SIGINT, and nohup SIGHUP."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_is_noted(number):
    with StopRequest() as stop:
        stop.listen()
        assert stop.received is None
        signal.raise_signal(number)
        assert stop.received is number


def test_what_nohup_starts_ignores_sighup():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            stop.listen()
            signal.raise_signal(signal.SIGHUP)
            assert stop.received is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_what_notes_signals_can_be_asked():
    assert not ask()
    with StopRequest() as stop:
        assert not ask()
        stop.listen()
        assert stop.received is None
        assert ask()
        assert stop.received is stop.cause is signal.SIGTERM
    with StopRequest() as later:
        later.listen()
        assert later.received is None
        signal.raise_signal(signal.SIGINT)
        assert ask()
        assert later.received is signal.SIGINT
    assert not ask()


def test_a_second_ctrl_c_interrupts():
    with StopRequest() as stop:
        stop.listen()
        signal.raise_signal(signal.SIGINT)
        assert stop.received is signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_the_handlers_come_back():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        assert signal.getsignal(signal.SIGINT) is before[0]
        stop.listen()
        stop.listen()
        assert signal.getsignal(signal.SIGINT) is not before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_signal_counts_once_all_workers_know():
    with StopRequest() as stop:
        stop.listen()
        signal.raise_signal(signal.SIGTERM)
        assert not stop.agreed
        stop.agreed = True
        assert stop.agreed


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_what_a_ctrl_c_ends(number):
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt) as stopped, as_interrupts():
        signal.raise_signal(number)
    assert isinstance(stopped.value, Stopped)
    assert stopped.value.number == number
    assert signal.getsignal(number) is before


def test_a_second_signal_takes_its_usual_course():
    before, found = signal.getsignal(signal.SIGTERM), []

    def slow():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            found.append(signal.getsignal(signal.SIGTERM))

    with pytest.raises(Stopped), as_interrupts():
        slow()
    assert found == [before]


def test_what_nohup_starts_goes_on():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with as_interrupts():
        signal.raise_signal(signal.SIGHUP)
