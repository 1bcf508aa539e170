"""The end of a child process that the code of a task forks, where that code would let it go on as a second worker.

Such a child has a copy of everything: the connection, the event loops, the messages in flight. If it left the code of
the task, it would settle messages, and write and read between the lines of its parent. So it ends there with
`EXIT_CODE`: when the code returns or raises, or a call in a thread does, and when the code awaits. A child of
multiprocessing or `subprocess` never comes there.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections import deque
from typing import Final

from diracx.tasks.plumbing.exceptions import shown
from diracx.tasks.plumbing.execution.execution import Execution, current_execution
from diracx.tasks.plumbing.execution.last_resort import end_process

logger = logging.getLogger("diracx.tasks.worker")

EXIT_CODE: Final = 1


_before = threading.local()
"""The event loop that a thread forks from: in the child asyncio does not tell it any more."""
_guarded = False


def guard_forks() -> None:
    """End the children that tasks fork and let go on, from now on."""
    global _guarded
    if not _guarded:
        _guarded = True
        os.register_at_fork(before=_note_loop, after_in_child=_guard_child)


def _note_loop() -> None:
    _before.loop = asyncio._get_running_loop()


def _guard_child() -> None:
    execution = current_execution.get()
    if execution is None:
        return
    execution.in_child = _end_child
    loop = _before.loop
    if loop is not None:
        # What is ready belongs to the parent. uvloop does not show it: there the child ends after it.
        ready = getattr(loop, "_ready", None)
        if isinstance(ready, deque):
            ready.clear()
        loop.call_soon(_end_child, execution, None)


def _end_child(execution: Execution, error: BaseException | None) -> None:
    why = "" if error is None else f", raising {shown(repr(error))}"
    logger.error("a process that %s forked leaves its code%s: it ends", execution.name(), why, exc_info=error)
    end_process(EXIT_CODE)
