"""The first signal stops, the second breaks off."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

import pytest

from diracx.tasks.cli.processes.signals import StopSignals, interrupt_main_thread

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
    with signals.handled(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)
    assert signals.received is number


async def test_a_signal_that_breaks_off_at_once_needs_no_first_one() -> None:
    calls: list[str] = []
    signals = StopSignals(noting(calls, "break off"), at_once=(signal.SIGINT,))
    signals.on_signal(noting(calls, "stop"))
    with signals.handled():
        await given(signal.SIGINT)
    assert calls == ["break off"]


def test_the_handlers_before_are_restored() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with StopSignals(interrupt_main_thread).handled():
        pass
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
