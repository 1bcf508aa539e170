"""What a thread does at the moment, and for which task."""

from __future__ import annotations

import asyncio
import concurrent.futures
import concurrent.futures.thread
import sys
import traceback
from collections.abc import Collection
from contextvars import Context
from types import FrameType
from typing import Any, Final

# The calls of an executor leave no other trace of the thread that runs them.
_CALL_IN_A_THREAD: Final = concurrent.futures.thread._WorkItem.run.__code__


def threads_of(calls: Collection[concurrent.futures.Future[Any]]) -> list[int]:
    """The identifiers of the threads that run calls of a ThreadPoolExecutor now."""
    found = []
    for ident, frame in sys._current_frames().items():
        outer: FrameType | None = frame
        while outer is not None:
            # A call that has failed drops its `self` just before its end.
            if outer.f_code is _CALL_IN_A_THREAD and getattr(outer.f_locals["self"], "future", None) in calls:
                found.append(ident)
            outer = outer.f_back
    return found


def line_of_thread(ident: int) -> str:
    """The line that a thread executes, for a log line: `at file:line in function`."""
    frame = sys._current_frames().get(ident)
    if frame is None:
        return "in a thread that has ended"
    line = traceback.extract_stack(frame)[-1]
    return f"at {line.filename}:{line.lineno} in {line.name}"


def context_of_thread(ident: int) -> Context | None:
    """The context of the callback, or of the step of an asyncio task, that the event loop of a thread runs now. None:
    it runs none, or does not tell (uvloop)."""
    frame = sys._current_frames().get(ident)
    while frame is not None:
        if frame.f_code is asyncio.Handle._run.__code__:
            context: Context = frame.f_locals["self"]._context
            return context
        frame = frame.f_back
    return None
