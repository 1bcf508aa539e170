"""One execution in this process: the task on the main thread, locks and NATS on another.

The executor, its locks and the connection live on the other thread's loop. Only the invocation itself hops to the
main thread, so that a task that blocks, or a debugger that waits for its user, keeps no lock from being renewed. A
cancellation crosses both ways and is awaited: locks are given back when the task has ended, never before.
"""

from __future__ import annotations

import asyncio
import os
import socket
import traceback
from bdb import BdbQuit
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from diracx.tasks.cli.calling.debugger import Debugger, run_debugged
from diracx.tasks.cli.calling.lock_server import lock_server
from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.exceptions import TaskRetryRequestedError
from diracx.tasks.plumbing.execution.executor import Executor, TaskCall
from diracx.tasks.plumbing.execution.job import Dead, Discarded, Job, Outcome, Retry
from diracx.tasks.plumbing.execution.loops import loop_on_a_thread, run_on
from diracx.tasks.plumbing.injection.injector import Injector
from diracx.tasks.plumbing.jetstream.connection.settings import ConnectionSettings
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.locks.keeper import LockKeeper
from diracx.tasks.plumbing.registry import RegisteredTask, TaskRegistry
from diracx.tasks.plumbing.wire.envelope import Envelope
from diracx.tasks.plumbing.wire.names import Namespace

_OUR_CODE: Final = str(Path(__file__).parents[2])


class Call:
    """One execution of a task.

    Args:
        injector: Has prepared the task's class.
    """

    def __init__(
        self, registry: TaskRegistry, registered: RegisteredTask, injector: Injector, debugger: Debugger
    ) -> None:
        self.debugger = debugger
        self.begun = False
        """Whether the locks were taken and the task was begun."""
        self._registry = registry
        self._registered = registered
        self._injector = injector
        self._raised: BaseException | None = None

    async def run(self, task: BaseTask, settings: ConnectionSettings, namespace: Namespace) -> Outcome:
        """Execute on this loop, the main thread's, under locks that are kept by another.

        Raises:
            ServerUnavailableError: No server lets us in, or none could be started.
            asyncio.CancelledError: Cancelled; the task has ended and its locks are given back.
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
            return await run_on(loop, execute())

    async def _attempt(self, invocation: TaskCall, task: BaseTask) -> tuple[Any, BaseException | None]:
        """Run it, and return what it raised: a SystemExit must not end the loop."""
        self.begun = True
        try:
            return await run_debugged(invocation, task, self.debugger), None
        except asyncio.CancelledError:
            raise
        except KeyboardInterrupt:
            raise asyncio.CancelledError from None
        except BaseException as error:
            return None, error

    def story(self, outcome: Retry | Dead | Discarded) -> str:
        """What a person needs to see of a failure: the traceback from the author's code on, and the error."""
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
