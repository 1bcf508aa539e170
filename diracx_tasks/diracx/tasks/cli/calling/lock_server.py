"""The server for the locks of a `call`: a reachable one, or else an embedded one for this call alone."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from typing import Any

from diracx.tasks.cli.access import connection_name
from diracx.tasks.cli.terminal.output import note
from diracx.tasks.plumbing.embedded.server import USER, EmbeddedServer, EmbeddedServerError
from diracx.tasks.plumbing.exceptions import ResultIsMissingError, SendTaskError, ServerUnavailableError
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from diracx.tasks.plumbing.jetstream.assets import assets
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.connection.settings import ConnectionSettings
from diracx.tasks.plumbing.jetstream.errors import AccessRefusedError, ServerUnreachableError
from diracx.tasks.plumbing.jetstream.topology import ensure
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.submitter import bound_for_process
from diracx.tasks.plumbing.wire.names import Namespace


class NowhereToRun:
    """The submitter beside an embedded server. It refuses every task, since no worker would ever run it."""

    async def submit(
        self,
        task: Any,
        *,
        at_time: datetime | None = None,
        labels: Mapping[str, Any] | None = None,
        keep_result: float | bool | None = None,
    ) -> str:
        """Refuse the task.

        Raises:
            SendTaskError: Always.
        """
        raise _nowhere(f"{type(task).__name__} was not submitted", "the task")

    async def spawn(
        self, children: Iterable[Any], callback: Any, *, ttl_seconds: float = 0, labels: Mapping[str, Any] | None = None
    ) -> str:
        """Refuse the group.

        Raises:
            SendTaskError: Always.
        """
        raise _nowhere(f"the group of {type(callback).__name__} was not spawned", "its tasks")

    async def result(self, task_id: str, timeout: float | None = 60.0) -> Any:
        """Refuse the question.

        Raises:
            ResultIsMissingError: Always.
        """
        raise ResultIsMissingError(task_id, "the embedded server of this call keeps none; name a server by --nats-url")


def _nowhere(what: str, who: str) -> SendTaskError:
    return SendTaskError(
        f"{what}: the embedded server of this call ends with it, so {who} would run nowhere; start a nats-server with "
        "JetStream and name it by --nats-url"
    )


@asynccontextmanager
async def lock_server(
    settings: ConnectionSettings, namespace: Namespace, registry: TaskRegistry
) -> AsyncIterator[Connection]:
    """Connect to a server with a bucket of locks, and bind a submitter for the process.

    Raises:
        ServerUnavailableError: The server refuses this client, or none is reachable and none can be started.
    """
    name = connection_name("call")
    async with AsyncExitStack() as stack:
        connecting = JetStreamBroker.connect(
            settings=settings, namespace=namespace.name, registry=registry, name=name, role="call"
        )
        try:
            broker = await stack.enter_async_context(connecting)
        except (ServerUnreachableError, AccessRefusedError) as unreachable:
            # The server at the default address may be the `dev` of another user of this host.
            if isinstance(unreachable, AccessRefusedError) and not settings.by_default:
                raise
            own = await _embedded(stack, unreachable)
            embedded = Connection.open(own, name=name, inbox_prefix=namespace.inbox_prefix("call"))
            connection = await stack.enter_async_context(embedded)
            await ensure(connection, [asset for asset in assets(namespace) if asset.name == namespace.locks_bucket])
            stack.enter_context(bound_for_process(NowhereToRun()))
            note(f"an embedded server serves this call, and its locks bind nobody else: {unreachable}")
            yield connection
        else:
            yield broker.connection


async def _embedded(stack: AsyncExitStack, unreachable: ServerUnavailableError) -> ConnectionSettings:
    password = secrets.token_hex()
    try:
        server = await stack.enter_async_context(EmbeddedServer(password=password))
    except EmbeddedServerError as error:
        raise ServerUnavailableError(f"{unreachable}; and no server can be started for this call: {error}") from error
    return ConnectionSettings(servers=(server.address,), user=USER, password=password)
