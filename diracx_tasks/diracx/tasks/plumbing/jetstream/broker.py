"""`JetStreamBroker` submits tasks to JetStream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeVar
from uuid import uuid4

from diracx.tasks.installation import report_mixed_installation
from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.exceptions import MalformedTaskError, SendTaskError
from diracx.tasks.plumbing.groups.enqueuer import GroupEnqueuer
from diracx.tasks.plumbing.groups.spawning import Spawner
from diracx.tasks.plumbing.jetstream.assets import assets
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.connection.settings import ConnectionSettings
from diracx.tasks.plumbing.jetstream.headers import schedule_headers
from diracx.tasks.plumbing.jetstream.publish import publish, until_answered
from diracx.tasks.plumbing.jetstream.stream_messages import purge_subject
from diracx.tasks.plumbing.jetstream.topology import ensure
from diracx.tasks.plumbing.observability.telemetry import current, current_traceparent
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.results.waiting import ResultReader
from diracx.tasks.plumbing.submitter import DEFAULT_GROUP_TTL_SECONDS, bound_for_process, current_task_id
from diracx.tasks.plumbing.wire.ending import seconds_to_keep
from diracx.tasks.plumbing.wire.envelope import DEAD_LETTER_BYTES, MSG_ID, Envelope
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.plumbing.wire.times import ensure_holdable, to_rfc3339

T = TypeVar("T")

_MAX_IN_FLIGHT: Final = 256
_UPDATING_ROLES: Final = frozenset({"worker", "scheduler"})


@dataclass(frozen=True, slots=True)
class _Message:
    stream: str
    subject: str
    body: bytes
    headers: dict[str, str]


class JetStreamBroker:
    """Submits tasks. `connect` makes it, and binds it so that `task.schedule()` finds it.

    It belongs to the event loop that connected it. Other event loops may use it too: `submit` hops across.

    Args:
        connection: Must stay open as long as the broker is used.
        registry: Knows the names of the task classes.
        timeout: The limit for one submission, reconnects included, in seconds.
    """

    def __init__(
        self, connection: Connection, namespace: Namespace, registry: TaskRegistry, *, timeout: float = 10.0
    ) -> None:
        self.connection = connection
        self.namespace = namespace
        self.registry = registry
        self._timeout = timeout
        self._results = ResultReader(connection, namespace)
        self._loop = asyncio.get_running_loop()
        self._telemetry = current()
        self._groups = GroupEnqueuer(connection, namespace)

    @classmethod
    @asynccontextmanager
    async def connect(
        cls,
        url: str | None = None,
        *,
        settings: ConnectionSettings | None = None,
        namespace: str = "diracx",
        registry: TaskRegistry | None = None,
        name: str = "diracx-producer",
        role: str = "producer",
        bind: bool = True,
    ) -> AsyncIterator[JetStreamBroker]:
        """Connect, create missing streams and buckets as far as this user may, and bind for the process.

        Args:
            url: Server URLs, separated by commas; None: from the environment, see `ConnectionSettings.resolve`.
            settings: Servers and credentials, in place of `url`.
            namespace: The namespace of the mesh, which all names on the server start with.
            registry: The tasks that can be submitted; None: the installed ones.
            name: The name of the connection that operators see.
            role: `producer`, `worker`, `scheduler`, `operator` or `call`; each role has its own reply subjects.
            bind: Whether `task.schedule()` finds this broker, anywhere in the process, until the block ends.

        Raises:
            ServerUnavailableError: No server answered, or the server refused the credentials.
            UnsupportedServerError: The server is older than 2.12.1.
            TopologyDriftError: A stream, consumer or bucket differs from its definition in an unsafe way.
            ValueError: The namespace or a setting has a wrong form.
        """
        names = Namespace(namespace)
        access = settings if settings is not None else ConnectionSettings.resolve(url=url)
        # A producer reads results. Where it has an account of its own, it reaches them under this prefix.
        others = (names.imported_api,) if role == "producer" else ()
        opened = Connection.open(access, name=name, inbox_prefix=names.inbox_prefix(role), other_api_prefixes=others)
        async with opened as connection:
            # Two versions run side by side: a producer must not undo the changes of a newer one.
            await ensure(connection, assets(names), update=role in _UPDATING_ROLES)
            broker = cls(connection, names, registry if registry is not None else _installed_tasks())
            binding: AbstractContextManager[None] = bound_for_process(broker) if bind else nullcontext()
            with binding:
                yield broker

    async def submit(
        self,
        task: BaseTask,
        *,
        at_time: datetime | None = None,
        labels: Mapping[str, Any] | None = None,
        keep_result: float | bool | None = None,
        name: str | None = None,
    ) -> str:
        """Submit one task; see `BaseTask.schedule`.

        Args:
            task: An instance of a registered class.
            at_time: The time to run it, aware; None means at once.
            labels: JSON values for people and filters.
            keep_result: For how many seconds its result is kept; True: a day; None: as its class says.
            name: One of the names of its class, for a class with several; None: see `TaskRegistry.of`.

        Raises:
            SendTaskError: The server did not store it.
            TaskDefinitionError: Its class is not registered, or not under that name.
            MalformedTaskError: A field holds a value that its type does not allow or that would arrive as another one,
                or a label is no JSON value.
            ValueError: `at_time` is naive, or later than the server can hold a task, in 2262; or `keep_result` is not
                above 0, or more than a year.
            TypeError: `at_time` is no datetime, or `keep_result` no number.
        """
        message = self._message(task, at_time, labels, keep_result, name)
        await self._on_own_loop(self._send(message))
        return message.headers[MSG_ID]

    async def submit_many(
        self,
        tasks: Iterable[BaseTask],
        *,
        labels: Mapping[str, Any] | None = None,
        keep_result: float | bool | None = None,
    ) -> list[str]:
        """Submit many tasks, 256 of them in flight at a time; `labels` and `keep_result` are those of each.

        Returns:
            Their ids, in order.

        Raises:
            SendTaskError: Some were not stored. `unsent` holds their positions; the others will run.
            MalformedTaskError, ValueError, TypeError: As for `submit`; none was stored.
        """
        messages = [self._message(task, None, labels, keep_result) for task in tasks]
        errors = await self._on_own_loop(self._send_all(messages))
        if errors:
            first = errors[min(errors)]
            raise SendTaskError(
                f"{len(errors)} of {len(messages)} tasks were not stored; the first: {first}",
                unsent=sorted(errors),
            ) from first
        return [message.headers[MSG_ID] for message in messages]

    schedule_many = submit_many
    """The earlier name of `submit_many`."""

    async def spawn(
        self,
        children: Iterable[BaseTask],
        callback: BaseTask,
        *,
        ttl_seconds: float = DEFAULT_GROUP_TTL_SECONDS,
        labels: Mapping[str, Any] | None = None,
    ) -> str:
        """Store a group of tasks, and the task that runs after the last of them; see `Submitter.spawn`.

        Outside of a task the id is a new one each time.
        """
        spawner = Spawner(self.registry, self.connection.max_payload, self.connection.clock.now())
        group = await spawner.new_group(children, callback, ttl_seconds, labels, current_traceparent.get())
        await self._on_own_loop(self._groups.spawn(group, self._timeout))
        return group.id

    async def result(self, task_id: str, timeout: float | None = 60.0) -> Any:
        """Wait until a task has ended, and return what its `execute()` returned, as JSON has it.

        The task keeps its result: by `result_ttl_seconds` of its class, or by `keep_result` of its submission. Any
        number may wait for one task, from any event loop, and before or after its end. An outage of the server delays
        the answer.

        A task that waits for another keeps its slot meanwhile. If all slots wait for tasks that wait for a slot, none
        of them ever ends: give such a wait a `timeout`.

        Args:
            timeout: In seconds; 0: look once; None: without a limit.

        Raises:
            TaskFailedError: The task failed for good, expired, or was cancelled. It has the type, the message and the
                traceback of the error.
            ResultIsMissingError: Nothing was there in time: the task has not ended, its result is not kept, or has
                expired. Or the task has succeeded, but JSON could not carry its value.
            ServerError: The server could not be asked, or refused.
            ValueError: `timeout` is negative.
        """
        return (await self._on_own_loop(self._results.wait(task_id, timeout))).returned()

    async def cancel(self, task_id: str) -> bool:
        """Withdraw a task that was submitted for later.

        One that waits or runs is not ended: that is for operators, with `diracx-task-run cancel`
        (`operations.cancellation.Canceller`).

        Returns:
            True if it was still waiting. False if it has fallen due, was withdrawn before, or never existed.

        Raises:
            ServerError: No answer, or the server refused.
        """
        subject = self.namespace.delayed_subject(task_id)
        return await self._on_own_loop(purge_subject(self.connection, self.namespace.later_stream, subject)) > 0

    def _message(
        self,
        task: BaseTask,
        at_time: datetime | None,
        labels: Mapping[str, Any] | None,
        keep_result: float | bool | None,
        name: str | None = None,
    ) -> _Message:
        registered = self.registry.of(task, name)
        if not isinstance(labels, Mapping | None):
            raise MalformedTaskError(f"the labels are a {type(labels).__name__}; write a mapping, name: value")
        due = None if at_time is None or self._is_due(registered.name, at_time) else at_time
        envelope = Envelope(
            name=registered.name,
            id=uuid4().hex,
            submitted=self.connection.clock.now(),
            due=due,
            parent=current_task_id.get(),
            traceparent=current_traceparent.get(),
            labels=dict(labels or {}),
            # Also what its class says: whoever cancels it while it is delayed knows no classes.
            keep_result=_seconds_to_keep(keep_result) or registered.task_class.result_ttl_seconds,
        )
        # A value that its type does not allow is refused here, where the author sees it, and not by a worker.
        body = registered.codec.encode(task)
        headers = envelope.to_headers()
        queue = registered.queue
        if due is None:
            return _Message(self.namespace.tasks_stream, self.namespace.task_subject(*queue), body, headers)
        headers |= schedule_headers(due, self.namespace.due_subject(*queue))
        return _Message(self.namespace.later_stream, self.namespace.delayed_subject(envelope.id), body, headers)

    def _is_due(self, name: str, at_time: datetime) -> bool:
        _check_time(name, at_time)
        return self.connection.clock.has_passed(at_time)

    async def _on_own_loop(self, work: Coroutine[Any, Any, T]) -> T:
        if asyncio.get_running_loop() is self._loop:
            return await work
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    async def _send_all(self, messages: list[_Message]) -> dict[int, SendTaskError]:
        errors: dict[int, SendTaskError] = {}
        queue = iter(enumerate(messages))

        async def send_queued() -> None:
            for index, message in queue:
                try:
                    await self._send(message)
                except SendTaskError as error:
                    errors[index] = error

        async with asyncio.TaskGroup() as group:
            for _ in range(min(_MAX_IN_FLIGHT, len(messages))):
                group.create_task(send_queued(), name="submit_many")
        return errors

    async def _send(self, message: _Message) -> None:
        telemetry, size = self._telemetry, len(message.body)
        with nullcontext() if telemetry is None else telemetry.publishing(message.subject, message.headers, size):
            await self._store(message)

    def _check_size(self, message: _Message) -> None:
        largest, size = self.connection.max_payload, len(message.body)
        if size > (most := largest - DEAD_LETTER_BYTES):
            raise SendTaskError(
                f"{message.subject} did not take the task: its fields are {size} bytes as JSON, over the {most} that "
                f"leave room for a dead letter within the server's max_payload, {largest}: store the data elsewhere, "
                "and submit where it is"
            )

    async def _store(self, message: _Message) -> None:
        """Publish until the server answers, always with the same id, so that the task is stored once."""
        self._check_size(message)
        await until_answered(
            self.connection,
            message.stream,
            message.subject,
            lambda seconds: publish(self.connection, message.subject, message.body, message.headers, timeout=seconds),
            timeout=self._timeout,
        )


def _installed_tasks() -> TaskRegistry:
    # The command line brings its registry, and has said so.
    report_mixed_installation()
    return TaskRegistry.installed()


def _seconds_to_keep(keep_result: float | bool | None) -> float | None:
    try:
        return seconds_to_keep(keep_result)
    except (TypeError, ValueError) as error:
        raise type(error)(f"keep_result is {error}") from None


def _check_time(name: str, at_time: datetime) -> None:
    if not isinstance(at_time, datetime):
        raise TypeError(f"{name} cannot be scheduled at {at_time!r}; give an aware datetime, e.g. datetime.now(UTC)")
    try:
        to_rfc3339(at_time)
        ensure_holdable(at_time)
    except ValueError as error:
        raise ValueError(f"{name} cannot be scheduled at {error}") from None
