"""One execution in this process, on two threads.

    main thread     the task, and pdb around it
    other thread    the executor, the locks, the connection to NATS

* Only the invocation of the task hops to the main thread. So a task that blocks, or a debugger that waits for its user,
  does not delay the renewal of locks.
* A cancellation crosses both ways and is awaited: the locks are released after the task has ended, never before.
* The task cannot end the loop of the main thread. A SystemExit or KeyboardInterrupt of its own, also one in a callback,
  is its failure. Only `BrokenOff` means that the user broke it off.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import pdb
import signal
import socket
import sys
import traceback
from bdb import BdbQuit
from collections.abc import Callable
from contextvars import Context
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from diracx.tasks.cli.calling.lock_server import lock_server
from diracx.tasks.cli.processes.signals import BrokenOff
from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.exceptions import TaskRetryRequestedError
from diracx.tasks.plumbing.execution.executor import Executor, TaskCall
from diracx.tasks.plumbing.execution.job import Dead, Discarded, Job, Outcome, Retry
from diracx.tasks.plumbing.execution.loops import log_escape, loop_on_a_thread, run_on, task_that_raised
from diracx.tasks.plumbing.injection.injector import Injector
from diracx.tasks.plumbing.jetstream.connection.settings import ConnectionSettings
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.locks.keeper import LockKeeper
from diracx.tasks.plumbing.registry import RegisteredTask, TaskRegistry
from diracx.tasks.plumbing.wire.envelope import Envelope
from diracx.tasks.plumbing.wire.names import Namespace

_OUR_CODE: Final = str(Path(__file__).parents[2])


class Debugger(StrEnum):
    """When pdb opens."""

    NONE = "none"
    BEFORE = "before"
    """At the first line of `execute()`, after its dependencies are injected."""
    EXCEPTION = "exception"
    """At the line that raised an exception, after the dependencies are closed and while the locks are held."""


class Call:
    """One execution of a task.

    Args:
        injector: An injector that has prepared the task's class.
        is_stopping: Says whether a signal has asked for the end. Otherwise a cancellation of `run` is not meant: the
            task has cancelled all that it found on its loop.
    """

    def __init__(
        self,
        registry: TaskRegistry,
        registered: RegisteredTask,
        injector: Injector,
        debugger: Debugger,
        is_stopping: Callable[[], bool],
    ) -> None:
        self.debugger = debugger
        self.begun = False
        """True once the locks are held and the task has begun."""
        self._registry = registry
        self._registered = registered
        self._injector = injector
        self._is_stopping = is_stopping
        self.broken_off: signal.Signals | None = None
        """The signal by which the user broke the task off."""
        self._raised: BaseException | None = None
        self._attempting: asyncio.Task[Any] | None = None
        self._escaped: BaseException | None = None

    async def run(self, task: BaseTask, settings: ConnectionSettings, namespace: Namespace) -> Outcome:
        """Execute the task on the loop of the main thread, which runs this method.

        Raises:
            ServerUnavailableError: The server refuses this client, or none is reachable and none can be started.
            asyncio.CancelledError: The call was cancelled; the task has ended and its locks are released.
        """
        main_loop = asyncio.get_running_loop()

        async def invoke(invocation: TaskCall, task: BaseTask) -> Any:
            value, self._raised = await run_on(main_loop, self._attempt(invocation, task))
            if self._raised is not None:
                raise self._raised
            return value

        async def execute() -> Outcome:
            async with (
                lock_server(settings, namespace, self._registry) as connection,
                LockKeeper(Bucket(connection, namespace.locks_bucket)) as keeper,
            ):
                worker = f"{socket.gethostname()}-{os.getpid()}-call"
                debugging = self.debugger is not Debugger.NONE
                executor = Executor(
                    self._injector, keeper, worker, limiters=False, timeouts=not debugging, invoke=invoke
                )
                envelope = Envelope(name=self._registered.name, id=uuid4().hex, submitted=datetime.now(UTC))
                return await executor.execute(Job(self._registered, envelope, task))

        with loop_on_a_thread("nats") as loop:
            return await run_on(loop, execute(), is_meant=lambda: self.broken_off is not None or self._is_stopping())

    async def _attempt(self, invocation: TaskCall, task: BaseTask) -> tuple[Any, BaseException | None]:
        """Run the task and return its value and its exception, CancelledError included.

        None is raised here: a SystemExit would reach the loop, and a CancelledError would lose its traceback.
        """
        self.begun = True
        self._attempting = asyncio.current_task()
        value: Any = None
        raised: BaseException | None = None
        try:
            value = await _run_debugged(invocation, task, self.debugger)
        except BrokenOff as error:
            self.broken_off, raised = error.number, asyncio.CancelledError()
        except BaseException as error:
            raised = error
        self._attempting = None
        if self._escaped is not None and (raised is None or isinstance(raised, asyncio.CancelledError)):
            raised = self._escaped
        return value, raised

    def on_escape(self, error: BaseException, context: Context | None) -> None:
        """Tell the end of the call from the end of its task. An `OnEscape` for the loop of the main thread.

        Raises:
            BrokenOff: The user breaks off the call.
        """
        if isinstance(error, BrokenOff):
            self.broken_off = error.number
            raise error
        if self._attempting is None:
            log_escape(error, context)
        elif task_that_raised(error) is None:
            self._escaped = error
            self._attempting.cancel()

    def describe_failure(self, outcome: Retry | Dead | Discarded) -> str:
        """Return the error of a failure, with the traceback from the author's code on."""
        failure = outcome.failure
        assert failure is not None
        raised = self._raised
        if isinstance(raised, BdbQuit):
            return "the debugger was left before the task had ended"
        if isinstance(raised, TaskRetryRequestedError) or not failure.traceback:
            return f"{failure.type}: {failure.message}"
        if raised is None:
            return failure.traceback
        trace = raised.__traceback__
        while trace is not None and trace.tb_next and trace.tb_frame.f_code.co_filename.startswith(_OUR_CODE):
            trace = trace.tb_next
        return "".join(traceback.format_exception(type(raised), raised, trace))


async def _run_debugged(invocation: TaskCall, task: BaseTask, debugger: Debugger) -> Any:
    """Run an invocation under pdb, on the main thread.

    Raises:
        bdb.BdbQuit: The user left the debugger before the task ended.
    """
    if debugger is Debugger.BEFORE:
        _stop_in_execute(type(task))
    try:
        return await invocation(task)
    except (BdbQuit, asyncio.CancelledError, BrokenOff):
        raise
    except BaseException as error:
        if debugger is Debugger.EXCEPTION:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            pdb.post_mortem(error.__traceback__)
        raise
    finally:
        if debugger is Debugger.BEFORE:
            sys.settrace(None)


def _stop_in_execute(task_class: type[BaseTask]) -> None:
    """Open the prompt at the first line of `execute()`."""
    debugger = pdb.Pdb(nosigint=True)
    code = getattr(inspect.unwrap(task_class.execute), "__code__", None)
    problem: str | None = "it has no Python code"
    if code is not None:
        problem = debugger.set_break(code.co_filename, code.co_firstlineno, temporary=True, funcname=code.co_name)
    if problem:
        print(f"no breakpoint in execute(): {problem}; step into it from here", file=sys.stderr)
        debugger.set_trace(sys._getframe(1))
        return
    # `set_trace` would stop here; this runs on to the breakpoint.
    debugger.reset()
    debugger.botframe = sys._getframe()
    debugger.set_continue()
    sys.settrace(debugger.trace_dispatch)
