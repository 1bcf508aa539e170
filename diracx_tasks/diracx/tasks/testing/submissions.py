"""What was submitted to a mesh, by the test and by the tasks that it executes."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final, Generic, TypeVar

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.exceptions import shown
from diracx.tasks.plumbing.groups.records import callback_id, child_id
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from diracx.tasks.plumbing.submitter import DEFAULT_GROUP_TTL_SECONDS, current_task_id

T = TypeVar("T", bound=BaseTask)

BLOCKED_SECONDS: Final = 10.0
MAX_LISTED: Final = 20
"""How many submissions a text lists."""


@dataclasses.dataclass(frozen=True, slots=True)
class Submitted(Generic[T]):
    """A task that was submitted and stored."""

    task: T
    id: str
    at_time: datetime | None = None
    """The time to run it; None: at once."""
    labels: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    parent: str | None = None
    """The id of the task that submitted it; None: the test did."""

    def __str__(self) -> str:
        at_time = "" if self.at_time is None else f" at {self.at_time.isoformat()}"
        labels = f" with labels {dict(self.labels)!r}" if self.labels else ""
        return f"{_task_text(self.task)}{at_time}{labels}"


class RecordingBroker(JetStreamBroker):
    """A broker that remembers what it submitted."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.submitted: list[Submitted[Any]] = []
        """In the order in which the server stored them, as far as one was awaited before the next."""
        self.groups: list[str] = []
        """The ids of the groups that were spawned."""
        self._home = asyncio.get_running_loop()

    async def submit(
        self,
        task: BaseTask,
        *,
        at_time: datetime | None = None,
        labels: Mapping[str, Any] | None = None,
        keep_result: float | bool | None = None,
        name: str | None = None,
    ) -> str:
        """Submit one task, see `BaseTask.schedule`.

        Raises:
            RuntimeError: The event loop of the mesh does not run, or is blocked.
        """
        async with self._answering():
            identity = await super().submit(task, at_time=at_time, labels=labels, keep_result=keep_result, name=name)
        self._record(task, identity, at_time, labels)
        return identity

    async def submit_many(
        self,
        tasks: Iterable[BaseTask],
        *,
        labels: Mapping[str, Any] | None = None,
        keep_result: float | bool | None = None,
    ) -> list[str]:
        """Submit many tasks, see `JetStreamBroker.submit_many`. None is recorded if the server did not store all.

        Raises:
            RuntimeError: As for `submit`.
        """
        given = list(tasks)
        async with self._answering():
            identities = await super().submit_many(given, labels=labels, keep_result=keep_result)
        for task, identity in zip(given, identities, strict=True):
            self._record(task, identity, None, labels)
        return identities

    schedule_many = submit_many

    async def spawn(
        self,
        children: Iterable[BaseTask],
        callback: BaseTask,
        *,
        ttl_seconds: float = DEFAULT_GROUP_TTL_SECONDS,
        labels: Mapping[str, Any] | None = None,
    ) -> str:
        """Spawn a group, see `JetStreamBroker.spawn`. Its children and its callback are recorded, the callback last.

        A parent that runs again gets the group that it has; nothing is recorded again.

        Raises:
            RuntimeError: As for `submit`.
        """
        given = list(children) if isinstance(children, Iterable) else children
        async with self._answering():
            group = await super().spawn(given, callback, ttl_seconds=ttl_seconds, labels=labels)
        if group not in self.groups:
            self.groups.append(group)
            for index, child in enumerate(given):
                self._record(child, child_id(group, index), None, labels)
            self._record(callback, callback_id(group), None, labels)
        return group

    async def result(self, task_id: str, timeout: float | None = 60.0) -> Any:
        """Wait for the result of a task, see `JetStreamBroker.result`.

        Raises:
            RuntimeError: The event loop of the mesh does not run.
        """
        self.check_loop()
        return await super().result(task_id, timeout)

    def _record(
        self, task: BaseTask, identity: str, at_time: datetime | None, labels: Mapping[str, Any] | None
    ) -> None:
        # As it was stored: a test may change it, and submit it again.
        as_stored = copy.deepcopy(task)
        self.submitted.append(Submitted(as_stored, identity, at_time, dict(labels or {}), current_task_id.get()))

    def check_loop(self) -> None:
        """Refuse the use on another event loop while the one of the mesh does not run: it would wait for ever.

        Raises:
            RuntimeError: So it is.
        """
        if not self._home.is_running():
            raise RuntimeError(
                "the mesh was opened on another event loop, which does not run: use it in its own test only; a test "
                "of anyio needs the strict mode of pytest-asyncio"
            )

    @asynccontextmanager
    async def _answering(self) -> AsyncIterator[None]:
        """Refuse to wait for ever for the event loop of the mesh."""
        self.check_loop()
        if asyncio.get_running_loop() is self._home:
            yield
            return
        try:
            async with asyncio.timeout(BLOCKED_SECONDS):
                yield
        except TimeoutError:
            raise RuntimeError(
                f"the event loop of the mesh has been blocked for {BLOCKED_SECONDS:g} s, e.g. by a TestClient in an "
                "async test; use httpx.AsyncClient with its ASGITransport there"
            ) from None


def matching(
    records: Iterable[Submitted[Any]], expected: type[T] | T | None, fields: Mapping[str, Any]
) -> list[Submitted[T]]:
    """Those of the records that are of a class and have these values in fields, or that are equal to a task.

    Raises:
        TypeError: The class has no field of that name, or there is no class.
    """
    if expected is not None and not isinstance(expected, (type, BaseTask)):
        raise TypeError(
            f"{expected!r} is no task; give a class, e.g. SyncOwnersTask, or a task, SyncOwnersTask('alice')"
        )
    if expected is None or not isinstance(expected, type):
        if fields:
            raise TypeError(
                "values of fields need a class of tasks before them, e.g. SyncOwnersTask, owner_name='alice'"
            )
        return [each for each in records if expected is None or _equal(each.task, expected)]
    known = _field_names(expected)
    if unknown := sorted(set(fields) - set(known)):
        raise TypeError(f"{expected.__qualname__} has no field {unknown[0]}; it has {', '.join(known) or 'none'}")
    return [
        each
        for each in records
        if isinstance(each.task, expected) and all(getattr(each.task, name) == fields[name] for name in fields)
    ]


def only_match(records: Iterable[Submitted[Any]], expected: type[T] | T, fields: Mapping[str, Any]) -> Submitted[T]:
    """The one of the records that matches.

    Raises:
        AssertionError: None does, or several do; the text lists what was submitted.
        TypeError: As for `matching`.
    """
    __tracebackhide__ = True
    listed = list(records)
    found = matching(listed, expected, fields)
    if len(found) == 1:
        return found[0]
    name = _expected_text(expected, fields)
    if found:
        raise AssertionError(f"{name} was submitted {len(found)} times:{_lines(found)}")
    if not listed:
        raise AssertionError(f"{name} was not submitted, and nothing else was")
    raise AssertionError(f"{name} was not submitted, but:{_lines(listed)}")


def _lines(records: list[Submitted[Any]]) -> str:
    rest = f"\n  and {len(records) - MAX_LISTED} more" if len(records) > MAX_LISTED else ""
    return "".join(f"\n  {each}" for each in records[:MAX_LISTED]) + rest


def _expected_text(expected: type[BaseTask] | BaseTask, fields: Mapping[str, Any]) -> str:
    if not isinstance(expected, type):
        return _task_text(expected)
    values = ", ".join(f"{name}={value!r}" for name, value in fields.items())
    return f"{expected.__qualname__}{f'({values})' if values else ''}"


def _task_text(task: BaseTask) -> str:
    """The task as its class shows it; one that does not say its fields, by its class."""
    return f"{type(task).__qualname__}()" if type(task).__repr__ is object.__repr__ else shown(repr(task))


def _equal(task: BaseTask, expected: BaseTask) -> bool:
    if type(task) is not type(expected):
        return False
    # A class without fields, and one with `eq=False`, compares by identity.
    return task == expected or all(getattr(task, name) == getattr(expected, name) for name in _field_names(type(task)))


def _field_names(task_class: Any) -> list[str]:
    if dataclasses.is_dataclass(task_class):
        return [field.name for field in dataclasses.fields(task_class)]
    return list(getattr(task_class, "__pydantic_fields__", ()))
