"""`task.schedule()` finds its broker: in the process, in a context, in another thread, in a web application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.exceptions import SendTaskError
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.submitter import bound_for_context, bound_for_process, current_submitter, current_task_id
from diracx.tasks.plumbing.wire.names import Namespace
from support.sample_tasks import Greet, connect, count, message


@pytest.fixture
async def broker(server: EmbeddedServer, names: Namespace) -> AsyncIterator[JetStreamBroker]:
    async with connect(server, names) as broker:
        yield broker


async def test_a_task_without_a_broker_says_how_to_get_one() -> None:
    with pytest.raises(RuntimeError, match="not bound to a broker"):
        await Greet("a").schedule()


async def test_the_binding_ends_with_the_block_and_the_latest_counts(server: EmbeddedServer, names: Namespace) -> None:
    async with connect(server, names) as first:
        async with connect(server, names) as second:
            assert current_submitter() is second
            async with connect(server, names, bind=False):
                assert current_submitter() is second
        assert current_submitter() is first
    with pytest.raises(RuntimeError, match="not bound"):
        current_submitter()


class Recorder:
    """Takes tasks to nowhere; satisfies `Submitter`."""

    def __init__(self) -> None:
        self.tasks: list[Any] = []

    async def submit(self, task: Any, **_: Any) -> str:
        self.tasks.append(task)
        return "recorded"

    async def spawn(self, children: Any, callback: Any, **_: Any) -> str:
        self.tasks += [*children, callback]
        return "recorded"

    async def result(self, task_id: str, timeout: float | None = None) -> Any:
        return None


async def test_bindings_that_end_in_another_order_leave_the_right_one() -> None:
    first, second = Recorder(), Recorder()
    outer, inner = bound_for_process(first), bound_for_process(second)
    outer.__enter__()
    inner.__enter__()
    outer.__exit__(None, None, None)
    assert current_submitter() is second
    inner.__exit__(None, None, None)
    with pytest.raises(RuntimeError):
        current_submitter()


async def test_a_binding_of_the_context_overrides_the_process_there_only(broker: JetStreamBroker) -> None:
    recorder = Recorder()

    async def overridden() -> str:
        with bound_for_context(recorder):
            return await Greet("a").schedule()

    assert await asyncio.create_task(overridden()) == "recorded"
    assert await Greet("b").schedule() != "recorded"
    assert recorder.tasks == [Greet("a")]
    assert await count(broker.connection, broker.namespace.tasks_stream) == 1


async def test_a_task_is_submitted_from_the_event_loop_of_another_thread(broker: JetStreamBroker) -> None:
    def in_a_thread() -> list[str]:
        async def submit() -> list[str]:
            current_task_id.set("0192")
            one = await Greet("a").schedule(at_time=datetime.now(UTC) - timedelta(days=1))
            return [one, *await broker.submit_many([Greet("b"), Greet("c")])]

        return asyncio.run(submit())

    # On the wrong loop the answer would be seen when that loop next wakes, at the end of the timeout.
    async with asyncio.timeout(5):
        ids = await asyncio.to_thread(in_a_thread)
    stream = broker.namespace.tasks_stream
    for sequence in (1, 2, 3):
        _, headers, _ = await message(broker.connection, stream, sequence)
        assert headers["Task-Id"] in ids
        assert headers["Task-Parent"] == "0192"
    assert await count(broker.connection, stream) == 3


async def test_a_refusal_reaches_the_event_loop_of_another_thread(broker: JetStreamBroker) -> None:
    def in_a_thread() -> str:
        return asyncio.run(Greet("a" * 1_100_000).schedule())

    with pytest.raises(SendTaskError, match="max_payload"):
        await asyncio.to_thread(in_a_thread)


async def test_a_request_of_a_web_application_finds_the_broker_of_its_lifespan(
    server: EmbeddedServer, connection: Connection, names: Namespace
) -> None:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with connect(server, names):
            yield

    app = FastAPI(lifespan=lifespan)

    @app.post("/greet/{name}")
    async def greet(name: str) -> str:
        return await Greet(name).schedule()

    started, stop = asyncio.Event(), asyncio.Event()

    async def serve() -> None:
        # In a task of its own, as ASGI servers do: what it sets in its context no request sees.
        async with app.router.lifespan_context(app):
            started.set()
            await stop.wait()

    serving = asyncio.create_task(serve())
    await started.wait()
    try:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            answers = await asyncio.gather(*(client.post(f"/greet/{number}") for number in range(5)))
        ids = {answer.raise_for_status().json() for answer in answers}
    finally:
        stop.set()
        await serving
    stored = {(await message(connection, names.tasks_stream, sequence))[1]["Task-Id"] for sequence in range(1, 6)}
    assert stored == ids
    with pytest.raises(RuntimeError, match="not bound"):
        await Greet("late").schedule()
