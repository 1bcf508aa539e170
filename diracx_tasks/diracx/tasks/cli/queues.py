"""The queues that a command acts on."""

from __future__ import annotations

import functools
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import rich_click as click

from diracx.tasks.cli.access import mesh_expected, namespace_of, operator_connection
from diracx.tasks.cli.options import Access
from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.exceptions import ServerError, near_names
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.consumer_pause import paused_until
from diracx.tasks.plumbing.jetstream.errors import CONSUMER_NOT_FOUND, ApiError
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.plumbing.wire.times import from_rfc3339

Command = Callable[..., Any]

NAMES: Final = tuple(Namespace.consumer(priority, size) for priority in Priority for size in Size)

_SUBJECT: Final = re.compile(r"([a-z][a-z0-9_]*)\.tasks\.(.*)")


@dataclass(frozen=True, slots=True)
class Queue:
    """The state of a queue at one moment."""

    name: str
    stream: str
    paused_until: datetime | None
    seen: datetime
    """That moment, by the server's clock."""


@dataclass(frozen=True, slots=True)
class Queues:
    """The queues that a user names: either some texts, or everything."""

    texts: tuple[str, ...]
    everything: bool

    def __post_init__(self) -> None:
        if bool(self.texts) == self.everything:
            raise click.UsageError("give either QUEUE... or --all")

    def names(self, namespace: Namespace) -> list[str]:
        """Return the names of their consumers, each once.

        Raises:
            click.UsageError: A queue does not exist.
        """
        return list(NAMES) if self.everything else list(dict.fromkeys(_named(text, namespace) for text in self.texts))

    @asynccontextmanager
    async def opened(self, access: Access, command: str) -> AsyncIterator[tuple[Connection, list[Queue]]]:
        """Connect and read the state of each queue.

        Raises:
            click.UsageError: A queue does not exist.
            ServerError: No server is reachable, or the namespace or one of the queues is missing on it.
        """
        namespace = namespace_of(access)
        names = self.names(namespace)
        async with operator_connection(access, command) as connection, mesh_expected(connection, namespace):
            yield connection, [await _read(connection, namespace, name) for name in names]


def _named(text: str, namespace: Namespace) -> str:
    subject = _SUBJECT.fullmatch(text)
    name = (subject[2] if subject else text).replace(".", "-")
    if name in NAMES:
        if subject and subject[1] != namespace.name:
            raise click.UsageError(f"{text} is not of namespace {namespace.name}; add --namespace {subject[1]}")
        return name
    near = near_names(name, NAMES)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(NAMES)}"
    raise click.UsageError(f"unknown queue {text!r}; {hint}")


async def _read(connection: Connection, namespace: Namespace, name: str) -> Queue:
    with _queue_expected(namespace, name):
        info = await connection.api(f"CONSUMER.INFO.{namespace.tasks_stream}.{name}")
    return Queue(name, namespace.tasks_stream, paused_until(info), from_rfc3339(info["ts"]))


@contextmanager
def _queue_expected(namespace: Namespace, name: str) -> Iterator[None]:
    try:
        yield
    except ApiError as error:
        if error.err_code != CONSUMER_NOT_FOUND:
            raise
        raise ServerError(
            f"namespace {namespace.name} has no queue {name}: create it with `diracx-task-run setup`"
        ) from None


def with_queues(command: Command) -> Command:
    """Make a value of `QUEUE...` and `--all`, which a command receives as `queues`."""

    @functools.wraps(command)
    def queued(*, queues: tuple[str, ...], everything: bool, **values: Any) -> Any:
        return command(queues=Queues(queues, everything), **values)

    return queued
