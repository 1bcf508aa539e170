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
import logging
import pdb
import signal
import sys
import traceback
from bdb import BdbQuit
from contextvars import Context
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from diracx.tasks.cli.calling.lock_server import lock_server
from diracx.tasks.cli.declared.running import Debugger
from diracx.tasks.cli.processes.signals import BrokenOff, StopSignals
from diracx.tasks.cli.terminal.output import note
from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.exceptions import TaskRetryRequestedError
from diracx.tasks.plumbing.execution.cancellation import Cancellation, Cause
from diracx.tasks.plumbing.execution.execution import Execution
from diracx.tasks.plumbing.execution.executor import Executor, TaskCall
from diracx.tasks.plumbing.execution.forks import guard_forks
from diracx.tasks.plumbing.execution.job import Dead, Discarded, Job, Outcome, Retry
from diracx.tasks.plumbing.execution.loops import loop_on_a_thread, run_on
from diracx.tasks.plumbing.execution.thread import TaskThreads, blame_escape, run_code
from diracx.tasks.plumbing.injection.databases import note_of_missing_table
from diracx.tasks.plumbing.injection.injector import Injector
from diracx.tasks.plumbing.jetstream.connection.settings import ConnectionSettings
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.locks.keeper import LockKeeper
from diracx.tasks.plumbing.registry import RegisteredTask, TaskRegistry
from diracx.tasks.plumbing.wire.envelope import Envelope
from diracx.tasks.plumbing.wire.failure import Failure, message_of
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.plumbing.wire.process_id import process_id

logger = logging.getLogger("diracx.tasks.call")

_OUR_CODE: Final = str(Path(__file__).parents[2])


class Call:
    """One execution of a task.

    Args:
        injector: An injector that has prepared the task's class.
        signals: End the execution.
    """

    def __init__(
        self,
        registry: TaskRegistry,
        registered: RegisteredTask,
        injector: Injector,
        debugger: Debugger,
        signals: StopSignals,
    ) -> None:
        self.debugger = debugger
        self.begun = False
        """True once the locks are held and the task has begun."""
        self.broken_off: signal.Signals | None = None
        """The signal by which the user broke the task off."""
        self._registry = registry
        self._registered = registered
        self._injector = injector
        self._signals = signals
        self._execution = Execution(lambda: registered.name)
        self._raised: BaseException | None = None

    async def run(self, task: BaseTask, settings: ConnectionSettings, namespace: Namespace) -> Outcome:
        """Execute the task on the loop of the main thread, which runs this method.

        Raises:
            ServerUnavailableError: The server refuses this client, or none is reachable and none can be started.
            asyncio.CancelledError: A signal came before the task began.
        """
        main_loop = asyncio.get_running_loop()
        main_loop.set_default_executor(TaskThreads())
        guard_forks()

        async def invoke(invocation: TaskCall, task: BaseTask, execution: Execution) -> Any:
            self.begun = True
            return await run_code(main_loop, self._attempt(invocation, task), execution)

        async def execute() -> Outcome:
            if not self._execution.begin():
                raise asyncio.CancelledError  # by a signal
            async with (
                lock_server(settings, namespace, self._registry) as connection,
                LockKeeper(Bucket(connection, namespace.locks_bucket)) as keeper,
            ):
                worker = process_id("call")
                debugging = self.debugger is not Debugger.NONE
                executor = Executor(
                    self._injector, keeper, worker, limiters=False, timeouts=not debugging, invoke=invoke
                )
                envelope = Envelope(name=self._registered.name, id=uuid4().hex, submitted=datetime.now(UTC))
                return await executor.execute(Job(self._registered, envelope, task), self._execution)

        with loop_on_a_thread("nats") as loop:
            self._signals.on_signal(self._stop, loop=loop)
            # Code of the task may cancel all that it finds on its loop, also this coroutine: that is not meant.
            return await run_on(loop, execute(), is_meant=lambda: False)

    def _stop(self) -> None:
        self._execution.cancel(Cancellation(Cause.STOP, "a signal came"))

    async def _attempt(self, invocation: TaskCall, task: BaseTask) -> Any:
        try:
            return await _run_debugged(invocation, task, self.debugger)
        except BrokenOff as error:
            self.broken_off = error.number
            raise asyncio.CancelledError from None
        except BaseException as error:
            self._raised = error
            raise

    def on_escape(self, error: BaseException, context: Context | None) -> None:
        """Tell the end of the call from the end of its task. An `OnEscape` for the loop of the main thread.

        Raises:
            BrokenOff: The user breaks off the call.
        """
        if isinstance(error, BrokenOff):
            self.broken_off = error.number
            raise error
        blame_escape(error, context)

    def describe_failure(self, outcome: Retry | Dead | Discarded) -> str:
        """Return the error of a failure, with the traceback from the author's code on."""
        failure = outcome.failure
        assert failure is not None
        raised = self._raised if self._execution.cancellation is None else self._execution.cancellation.error
        return described(raised, failure)


def described(raised: BaseException | None, failure: Failure) -> str:
    """The error of a failure: what was raised, if that is known, with the traceback from the author's code on."""
    try:
        return _described(raised, failure)
    except Exception:  # the exception is the author's, and may refuse to be looked at
        return failure.traceback or f"{failure.type}: {failure.message}"


def _described(raised: BaseException | None, failure: Failure) -> str:
    if isinstance(raised, BdbQuit):
        return "the debugger was left before the task had ended"
    if isinstance(raised, TaskRetryRequestedError) or not failure.traceback:
        return f"{failure.type}: {failure.message}"
    if raised is None:
        return failure.traceback
    if (note := note_of_missing_table(raised)) is not None:
        logger.debug("the traceback of the missing table", exc_info=raised)
        return f"error: {note}"
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
            note(f"{type(error).__name__}: {message_of(error)}")
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
        note(f"no breakpoint in execute(): {problem}; step into it from here")
        debugger.set_trace(sys._getframe(1))
        return
    # `set_trace` would stop here; this runs on to the breakpoint.
    debugger.reset()
    debugger.botframe = sys._getframe()
    debugger.set_continue()
    sys.settrace(debugger.trace_dispatch)
