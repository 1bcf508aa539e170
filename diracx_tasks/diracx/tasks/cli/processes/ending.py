"""The end of this process, whatever is left in it.

Python waits at its end for threads that are no daemons, those of executors included, and for the child processes of
multiprocessing. A task may have left one that never ends, or may still block the main thread. So the end has a limit:

    orderly end       `EXIT_SECONDS` after the exit code is known
    first signal      a time that the command sets, see `StopSignals`
    second signal     `LAST_WORD_SECONDS`

At the limit the process logs what is left, terminates the children, and ends with its code.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any, Final

logger = logging.getLogger("diracx.tasks.ending")

EXIT_SECONDS: Final = 3.0
"""After an orderly end, threads and child processes have this time."""

LAST_WORD_SECONDS: Final = 2.0
"""From the second signal on, cancelled tasks have this time to roll back and to be given back."""

FORCED_END_SECONDS: Final = 10.0
"""After the first signal and its grace period, an orderly end has this time. A worker needs up to 7 s of it."""

_LIBRARY: Final = os.path.dirname(threading.__file__)

_LOG_SECONDS: Final = 1.0
"""The log line may take this time. It would take forever if the reader of standard error had stopped reading."""


_timers: Final[list[threading.Timer]] = []
"""In pairs: after each that logs stands the one that ends the process if that blocks."""

before_force: Final[list[Callable[[], object]]] = []
"""Called on a thread of its own before this process is ended by force, for `BEFORE_FORCE_SECONDS` at the most."""

BEFORE_FORCE_SECONDS: Final = 2.0


@atexit.register
def _cancel_timers() -> None:
    """Leave no timer to an interpreter that ends: a thread that logs meanwhile is fatal to it.

    Registered at the import, before multiprocessing is loaded, so this runs after its wait for child processes.
    """
    for timer in _timers:
        timer.cancel()
        # One that is at work ends the process, or the next one does, which is not cancelled yet. However long that
        # takes, the interpreter must not end beside it.
        timer.join()


def end_in_time(code: int) -> None:
    """Let this process, whose work is done, end with `code` within `EXIT_SECONDS`, by force if it must."""
    end_within(EXIT_SECONDS, code, f"its work is done, but the process has not ended within {EXIT_SECONDS:g} s")


def end_within(seconds: float, code: int, reason: str) -> None:
    """End this process by force with `code` in `seconds`, unless it ends before. Any thread may call this.

    Args:
        reason: The beginning of the log line, which says what was left.
    """
    # The first timer logs. If that blocks, the second one ends the process all the same.
    for pause, call, arguments in (
        (seconds, _end_by_force, (code, reason)),
        (seconds + BEFORE_FORCE_SECONDS + _LOG_SECONDS, os._exit, (code,)),
    ):
        timer = threading.Timer(pause, call, arguments)
        timer.name, timer.daemon = "end of the process", True
        timer.start()
        _timers.append(timer)


def _end_by_force(code: int, reason: str) -> None:
    while before_force:  # once, whichever limit comes first
        try:
            before_force.pop()()
        except Exception:
            logger.exception("not everything was done before the end by force")
    # Not imported here: a process that has not loaded it has no children of it.
    multiprocessing: Any = sys.modules.get("multiprocessing.process")
    children = [] if multiprocessing is None else multiprocessing.active_children()
    left = [*_threads_left(), *(f"child process {child.name} ({child.pid})" for child in children)]
    logger.warning("%s, so it is ended by force; left: %s", reason, ", ".join(left))
    for child in children:
        child.terminate()
    logging.shutdown()
    os._exit(code)


def _threads_left() -> Iterator[str]:
    """The threads that keep this process from ending: their names, and where they are outside the standard library."""
    frames, of_executors = sys._current_frames(), _threads_of_executors()
    for thread in threading.enumerate():
        places = [
            place
            for place in traceback.extract_stack(frames.get(thread.ident or 0))
            if not place.filename.startswith((_LIBRARY, "<frozen"))
        ]
        if thread is threading.main_thread() and not places:
            continue  # it has run all of its code, and waits for the others
        if not thread.daemon or thread in of_executors:
            where = f" at {places[-1].filename}:{places[-1].lineno} in {places[-1].name}" if places else ""
            yield f"thread {thread.name}{where}"


def _threads_of_executors() -> set[threading.Thread]:
    """Python waits for them even if they are daemons, as those are that a task on a thread of its own has started."""
    lists = (("concurrent.futures.thread", "_threads_queues"), ("concurrent.futures.process", "_threads_wakeups"))
    return {thread for module, name in lists for thread in list(getattr(sys.modules.get(module), name, ()))}
