"""pdb around one execution, on the main thread. The other thread renews the task's locks meanwhile."""

from __future__ import annotations

import inspect
import pdb
import sys
from asyncio import CancelledError
from bdb import BdbQuit
from enum import StrEnum
from typing import Any

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.execution.executor import TaskCall


class Debugger(StrEnum):
    """When to stop."""

    NONE = "none"
    BEFORE = "before"
    """At the first line of `execute()`, its dependencies injected."""
    EXCEPTION = "exception"
    """Where an exception was raised, after dependencies were closed and while locks are held."""


async def run_debugged(invocation: TaskCall, task: BaseTask, debugger: Debugger) -> Any:
    """Run an invocation under the debugger.

    Raises:
        bdb.BdbQuit: The user left the debugger before the task had ended.
    """
    if debugger is Debugger.BEFORE:
        stop_in_execute(type(task))
    try:
        return await invocation(task)
    except (BdbQuit, CancelledError, KeyboardInterrupt):
        raise
    except BaseException as error:
        if debugger is Debugger.EXCEPTION:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            pdb.post_mortem(error.__traceback__)
        raise
    finally:
        if debugger is Debugger.BEFORE:
            sys.settrace(None)


def stop_in_execute(task_class: type[BaseTask]) -> None:
    """Trace this thread until the first line of `execute()`, and open the prompt there."""
    debugger = pdb.Pdb(nosigint=True)
    code = getattr(inspect.unwrap(task_class.execute), "__code__", None)
    problem: str | None = "it has no Python code"
    if code is not None:
        problem = debugger.set_break(code.co_filename, code.co_firstlineno, temporary=True, funcname=code.co_name)
    if problem:
        print(f"no breakpoint in execute(): {problem}; step into it from here", file=sys.stderr)
        debugger.set_trace(sys._getframe(1))
        return
    # As `set_trace` does, but running on to the breakpoint rather than stopping here.
    debugger.reset()
    debugger.botframe = sys._getframe()
    debugger.set_continue()
    sys.settrace(debugger.trace_dispatch)
