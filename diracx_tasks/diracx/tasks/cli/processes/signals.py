"""SIGINT and SIGTERM to a running command.

    running --first signal--> stopping --second signal--> broken off

The first signal asks the running work to stop in order: a worker gives its tasks the grace period, a `call` cancels its
task, which rolls back and gives its locks back. The second signal breaks the work off.

* Python calls handlers on the main thread, between two lines of Python. A small task, or the task of a `call`, may hold
  that thread in C code for long. So a thread of its own counts the signals too, and ends the process by force in time.
* A child process that a task forks behaves as in any program: it gets the default handlers.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext, suppress
from types import FrameType
from typing import ClassVar, Final

from diracx.tasks.cli.processes.ending import LAST_WORD_SECONDS, end_within

NUMBERS: Final = (signal.SIGTERM, signal.SIGINT)


class BrokenOff(KeyboardInterrupt):
    """The user breaks off the code on the main thread.

    Args:
        number: The signal.
    """

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.number = number


def interrupt_main_thread(number: signal.Signals) -> None:
    """Break off the code that runs on the main thread.

    Raises:
        BrokenOff: Always.
    """
    raise BrokenOff(number)


class StopSignals:
    """Handles SIGINT and SIGTERM of this process.

    A signal that comes before `on_signal` sets a callback is delivered to the first callback.

    Args:
        break_off: Is called in the main thread by each further signal, and by one that finds nothing to stop.
        at_once: The signals that break off without a first one, e.g. Ctrl-C at the prompt of a debugger. They do
            nothing else.
        end_after: The seconds from the first signal until the process ends by force; a further signal leaves it
            `LAST_WORD_SECONDS`. None: nothing is forced.
        end_code: The exit code of that end. None: 128 + n, which is the code after a further signal in any case.
    """

    _installed: ClassVar[StopSignals | None] = None
    """The one whose handlers are installed; forked children look here."""

    def __init__(
        self,
        break_off: Callable[[signal.Signals], object] = lambda number: None,
        *,
        at_once: Collection[signal.Signals] = (),
        end_after: float | None = None,
        end_code: int | None = None,
    ) -> None:
        self.received: signal.Signals | None = None
        """The last signal that was not `at_once`."""
        self._break_off = break_off
        self._at_once = at_once
        self._end_after = end_after
        self._end_code = end_code
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: Callable[[], object] | None = None
        self._stop_now: Callable[[], object] | None = None
        self._counter: _SignalCounter | None = None

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handle signals within the block. Main thread only."""
        _prepare_forks()
        if self._end_after is not None:
            counted = [number for number in NUMBERS if number not in self._at_once]
            self._counter = _SignalCounter(counted, self._force_end)
        with self._counter.counting() if self._counter is not None else nullcontext():
            outer, StopSignals._installed = StopSignals._installed, self
            # The loop's own handlers would wait for the loop, which a task may block.
            before = {number: signal.signal(number, self._handle) for number in NUMBERS}
            try:
                yield
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)
                StopSignals._installed = outer

    def on_signal(
        self,
        stop: Callable[[], object],
        stop_now: Callable[[], object] | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """Set the callbacks that the running loop calls from now on. Main thread only.

        Args:
            stop: For the first signal.
            stop_now: For each further one, besides `break_off`.
            loop: Calls them in place of the running loop.
        """
        self._loop, self._stop, self._stop_now = loop or asyncio.get_running_loop(), stop, stop_now
        if self._counter is not None:
            self._counter.take_descriptor_back()
        if self.received is not None:
            self._loop.call_soon_threadsafe(stop)

    def cancel_this_task(self) -> None:
        """Let the first signal cancel the asyncio task that calls this method."""
        task = asyncio.current_task()
        assert task is not None
        self.on_signal(task.cancel)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        received = signal.Signals(number)
        if received in self._at_once:
            self._break_off(received)
            return
        again, self.received = self.received is not None, received
        if self._counter is not None:
            self._counter.handled(received)
        if self._loop is None or self._stop is None:
            self._break_off(received)
        elif not again:
            self._loop.call_soon_threadsafe(self._stop)
        else:
            if self._stop_now is not None:
                self._loop.call_soon_threadsafe(self._stop_now)
            self._break_off(received)

    def _force_end(self, number: signal.Signals, count: int) -> None:
        """Called on the thread of the counter."""
        if count == 1 and self._end_after is not None:
            code = 128 + number if self._end_code is None else self._end_code
            reason = f"{number.name} has not ended the process within {self._end_after:g} s"
            end_within(self._end_after, code, reason)
        elif count == 2:
            reason = f"a second signal has not ended the process within {LAST_WORD_SECONDS:g} s"
            end_within(LAST_WORD_SECONDS, 128 + number, reason)


class _SignalCounter:
    """Counts signals on a thread of its own.

    The interpreter writes the number of a signal to the wakeup descriptor as it arrives, whatever the main thread does.
    A loop may take the descriptor over (uvloop as it starts, `add_signal_handler`). So `take_descriptor_back` takes it
    from a loop that has started, and `handled` reports each signal a second time.
    """

    _HANDLED: Final = 0x80
    """Marks the second report in the pipe."""

    def __init__(self, numbers: Collection[signal.Signals], on_signal: Callable[[signal.Signals, int], object]) -> None:
        self._numbers = numbers
        self._on_signal = on_signal
        self._read, self._write = os.pipe()
        self._woken_before = -1
        """The descriptor of a loop, which waits for the number of each signal."""

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Call `on_signal` with each signal and how many have come so far, within the block. Main thread only."""
        os.set_blocking(self._write, False)
        outer = self._woken_before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        threading.Thread(target=self._count, name="signals", daemon=True).start()
        try:
            yield
        finally:
            now = signal.set_wakeup_fd(outer)
            if now != self._write:
                signal.set_wakeup_fd(now)
            os.close(self._write)

    def take_descriptor_back(self) -> None:
        """Take the wakeup descriptor from the running loop, and pass on to it what arrives. Main thread only."""
        now = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        if now != self._write:
            self._woken_before = now

    def handled(self, number: signal.Signals) -> None:
        """Report a signal from its handler."""
        os.write(self._write, bytes([number | self._HANDLED]))

    def _count(self) -> None:
        arrived = handled = reported = 0
        while byte := os.read(self._read, 1):
            if byte[0] & self._HANDLED:
                handled += 1
            else:
                # The loop that had the descriptor before waits for this byte.
                with suppress(OSError):
                    os.write(self._woken_before, byte)
                arrived += byte[0] in self._numbers
            if max(arrived, handled) > reported:
                reported += 1
                self._on_signal(signal.Signals(byte[0] & ~self._HANDLED), reported)
        os.close(self._read)


_forks_prepared = False
_mask_before = threading.local()


def _prepare_forks() -> None:
    """Let forked children have the default handlers, from now on."""
    global _forks_prepared
    if not _forks_prepared:
        _forks_prepared = True
        os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_restore_defaults)


def _before_fork() -> None:
    # Until the child has the default handlers, a signal to it waits. It would reach our pipe, or be lost.
    _mask_before.mask = signal.pthread_sigmask(signal.SIG_BLOCK, NUMBERS)


def _after_fork() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _mask_before.mask)


def _restore_defaults() -> None:
    if (installed := StopSignals._installed) is not None:
        StopSignals._installed = None
        for number, default in ((signal.SIGTERM, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
            if signal.getsignal(number) == installed._handle:
                signal.signal(number, default)
        signal.set_wakeup_fd(-1)
    _after_fork()
