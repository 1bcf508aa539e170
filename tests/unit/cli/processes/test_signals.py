"""The first signal stops, the second breaks off."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable

import pytest

from diracx.tasks.cli.processes.signals import BrokenOff, StopSignals, interrupt_main_thread

BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


async def given(number: signal.Signals) -> None:
    """Raise a signal and let the loop run its callbacks."""
    signal.raise_signal(number)
    await asyncio.sleep(0)


def noting(calls: list[str], name: str) -> Callable[..., None]:
    return lambda *arguments: calls.append(name)


@BOTH
async def test_the_first_signal_stops_and_each_further_one_stops_now_and_breaks_off(number: signal.Signals) -> None:
    calls: list[str] = []
    signals = StopSignals(noting(calls, "break off"))
    signals.on_signal(noting(calls, "stop"), noting(calls, "stop now"))
    with signals.handled():
        before = signals.received
        await given(number)
        assert (before, calls) == (None, ["stop"])
        assert signals.received == number
        await given(number)
        assert sorted(calls) == ["break off", "stop", "stop now"]


@BOTH
async def test_a_signal_cancels_the_task_that_asks_for_it(number: signal.Signals) -> None:
    signals = StopSignals(interrupt_main_thread)

    async def run() -> None:
        signals.cancel_this_task()
        await asyncio.Event().wait()

    with signals.handled():
        task = asyncio.create_task(run())
        await asyncio.sleep(0)
        signal.raise_signal(number)
        with pytest.raises(asyncio.CancelledError):
            await task


@BOTH
def test_a_signal_with_nothing_to_stop_breaks_off(number: signal.Signals) -> None:
    signals = StopSignals(interrupt_main_thread)
    with signals.handled(), pytest.raises(BrokenOff) as raised:
        signal.raise_signal(number)
    assert signals.received is raised.value.number is number


@BOTH
async def test_a_signal_that_came_before_there_was_anything_to_stop_is_not_lost(number: signal.Signals) -> None:
    calls: list[str] = []
    signals = StopSignals()
    with signals.handled():
        await given(number)
        signals.on_signal(noting(calls, "stop"))
        await asyncio.sleep(0)
    assert calls == ["stop"]


async def test_a_signal_that_breaks_off_at_once_needs_no_first_one() -> None:
    calls: list[str] = []
    signals = StopSignals(noting(calls, "break off"), at_once=(signal.SIGINT,))
    signals.on_signal(noting(calls, "stop"))
    with signals.handled():
        await given(signal.SIGINT)
        assert (calls, signals.received) == (["break off"], None)
        await given(signal.SIGTERM)
    assert (calls, signals.received) == (["break off", "stop"], signal.SIGTERM)


def installed() -> list[object]:
    """The handlers, and the descriptor that wakes a loop."""
    wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup)
    return [*(signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)), wakeup]


def test_the_handlers_before_are_restored() -> None:
    before = installed()
    with StopSignals(interrupt_main_thread, end_after=3600).handled():
        assert installed() != before
    assert installed() == before


def test_a_loop_that_has_taken_the_wakeup_descriptor_over_keeps_it() -> None:
    theirs, other_end = socket.socketpair()
    with theirs, other_end:
        theirs.setblocking(False)
        with StopSignals(end_after=3600).handled():
            signal.set_wakeup_fd(theirs.fileno())
        assert signal.set_wakeup_fd(-1) == theirs.fileno()


def test_a_loop_that_had_the_wakeup_descriptor_before_is_still_woken() -> None:
    before = signal.signal(signal.SIGUSR1, lambda number, frame: None)
    theirs, other_end = socket.socketpair()
    with theirs, other_end:
        theirs.setblocking(False)
        signal.set_wakeup_fd(theirs.fileno())
        with StopSignals(end_after=3600).handled():
            signal.raise_signal(signal.SIGUSR1)
            assert other_end.recv(1) == bytes([signal.SIGUSR1])
        assert signal.set_wakeup_fd(-1) == theirs.fileno()
    signal.signal(signal.SIGUSR1, before)


async def test_the_wakeup_descriptor_is_taken_back_from_a_loop_that_has_started() -> None:
    before = signal.signal(signal.SIGUSR1, lambda number, frame: None)
    theirs, other_end = socket.socketpair()
    signals = StopSignals(end_after=3600)
    with theirs, other_end:
        theirs.setblocking(False)
        with signals.handled():
            ours = installed()
            signal.set_wakeup_fd(theirs.fileno())
            for _ in range(2):
                signals.on_signal(lambda: None)
                assert installed() == ours
            signal.raise_signal(signal.SIGUSR1)
            assert other_end.recv(1) == bytes([signal.SIGUSR1]), "their loop is still woken"
    signal.signal(signal.SIGUSR1, before)


def test_a_forked_child_keeps_a_handler_that_is_not_ours() -> None:
    def theirs(number: int, frame: object) -> None:
        os._exit(7)

    with StopSignals().handled():
        before = signal.signal(signal.SIGTERM, theirs)
        child = os.fork()
        if child == 0:
            signal.raise_signal(signal.SIGTERM)
            os._exit(1)
        signal.signal(signal.SIGTERM, before)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
