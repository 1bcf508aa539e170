"""The closing of dependencies when `execute()` has ended. Annotations are live: the dependencies are local."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Annotated, Any

import pytest

from diracx.tasks.plumbing.depends import DBDepends, Depends
from support.injected_tasks import AnyCallable, RecordingDatabases, run


def yields_never() -> Iterator[str]:
    yield from ()


def yields_twice() -> Iterator[str]:
    yield from ("a", "b")


async def waits_and_yields_never() -> AsyncIterator[str]:
    for value in "":
        yield value


async def waits_and_yields_twice() -> AsyncIterator[str]:
    yield "a"
    yield "b"


def in_a_thread() -> int:
    return 1


def beside(value: Any, *, solved: bool) -> AnyCallable:
    """An `execute()` that awaits its value; `solved`: beside a dependency which only fast-depends can call."""

    async def alone(self: Any, value: value) -> None:
        await asyncio.sleep(0) if isinstance(value, str) else await value

    async def with_another(self: Any, value: value, other: Annotated[int, Depends(in_a_thread)]) -> None:
        await alone(self, value)

    return with_another if solved else alone


@pytest.mark.parametrize("solved", [False, True])
@pytest.mark.parametrize("marker", [Depends, DBDepends])
@pytest.mark.parametrize("call", [yields_never, yields_twice, waits_and_yields_never, waits_and_yields_twice])
async def test_a_generator_that_does_not_yield_once_is_named(
    marker: AnyCallable, call: AnyCallable, solved: bool
) -> None:
    said = f"^the dependency {call.__name__}: generator didn't (yield|stop); it has to yield exactly once$"
    with pytest.raises(RuntimeError, match=said):
        await run(beside(Annotated[str, marker(call)], solved=solved))


@pytest.mark.parametrize("solved", [False, True])
async def test_a_generator_of_the_task_itself_is_not_taken_for_a_dependency(solved: bool) -> None:
    async def only_once() -> AsyncIterator[Any]:
        yield asynccontextmanager(waits_and_yields_never)().__aenter__()

    with pytest.raises(RuntimeError, match=r"^generator didn't yield$"):
        await run(beside(Annotated[Any, Depends(only_once)], solved=solved))


@pytest.mark.parametrize("solved", [False, True])
@pytest.mark.parametrize("opened", [False, True])
async def test_an_error_of_a_generator_itself_stays_as_it_is(opened: bool, solved: bool) -> None:
    async def fails() -> AsyncIterator[str]:
        if opened:
            yield "a"
        raise RuntimeError("of its own")

    with pytest.raises(RuntimeError, match=r"^of its own$"):
        await run(beside(Annotated[str, Depends(fails)], solved=solved))


class TestClosing:
    async def test_dependencies_close_in_reverse_order(self) -> None:
        events: list[str] = []

        async def first() -> AsyncIterator[str]:
            events.append("open first")
            yield "first"
            events.append("close first")

        def second(_: Annotated[str, Depends(first)]) -> Iterator[str]:
            events.append("open second")
            yield "second"
            events.append("close second")

        @asynccontextmanager
        async def third() -> AsyncIterator[str]:
            events.append("open third")
            yield "third"
            events.append("close third")

        async def execute(self: Any, b: Annotated[str, Depends(second)], c: Annotated[str, DBDepends(third)]) -> None:
            events.append("execute")

        await run(execute)
        opened = ["open first", "open second", "open third"]
        assert events == [*opened, "execute", "close third", "close second", "close first"]

    async def test_a_failing_set_up_rolls_back_what_is_open_and_execute_is_not_called(self) -> None:
        databases = RecordingDatabases()

        async def broken() -> str:
            raise ConnectionError("no route")

        async def execute(
            self: Any, db: Annotated[str, DBDepends(databases.generator)], b: Annotated[str, Depends(broken)]
        ) -> None:
            databases.events.append("execute")

        with pytest.raises(ConnectionError, match="no route"):
            await run(execute)
        assert databases.events == ["begin", "rollback ConnectionError"]

    @pytest.mark.parametrize("marker", [Depends, DBDepends])
    @pytest.mark.parametrize("error", [ValueError("lost?"), asyncio.CancelledError("lost?")])
    async def test_a_generator_that_swallows_the_exception_does_not_make_it_a_success(
        self, marker: AnyCallable, error: BaseException
    ) -> None:
        async def swallowing() -> AsyncIterator[str]:
            try:
                yield "db"
            except BaseException:
                return

        async def execute(self: Any, db: Annotated[str, marker(swallowing)]) -> None:
            raise error

        with pytest.raises(type(error), match=r"lost\?") as raised:
            await run(execute)
        assert raised.value is error

    async def test_a_generator_may_replace_the_exception(self) -> None:
        async def translating() -> AsyncIterator[str]:
            try:
                yield "db"
            except KeyError as error:
                raise LookupError("no such owner") from error

        async def execute(self: Any, db: Annotated[str, DBDepends(translating)]) -> None:
            raise KeyError("alice")

        with pytest.raises(LookupError, match="no such owner") as raised:
            await run(execute)
        assert isinstance(raised.value.__cause__, KeyError)

    @pytest.mark.parametrize("marker", [Depends, DBDepends])
    @pytest.mark.parametrize("kind", ["generator", "sync_generator"])
    async def test_a_cancellation_rolls_back_and_stays_a_cancellation(self, marker: AnyCallable, kind: str) -> None:
        databases, started = RecordingDatabases(), asyncio.Event()

        async def execute(self: Any, db: Annotated[str, marker(getattr(databases, kind))]) -> None:
            started.set()
            await asyncio.Event().wait()

        running = asyncio.create_task(run(execute))
        await started.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert databases.events == ["begin", "rollback CancelledError"]

    async def test_a_rollback_that_fails_does_not_hide_a_cancellation(self) -> None:
        started = asyncio.Event()

        async def transaction() -> AsyncIterator[str]:
            try:
                yield "db"
            finally:
                raise ConnectionError("gone")

        async def execute(self: Any, db: Annotated[str, DBDepends(transaction)]) -> None:
            started.set()
            await asyncio.Event().wait()

        running = asyncio.create_task(run(execute))
        await started.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError) as raised:
            await running
        assert isinstance(raised.value.__cause__, ConnectionError)

    async def test_set_up_execute_and_closing_run_in_one_context(self) -> None:
        connection: ContextVar[str] = ContextVar("connection")

        async def transaction() -> AsyncIterator[None]:
            token = connection.set("open")
            yield
            # Raises ValueError in another context than the one that it was set in.
            connection.reset(token)

        async def execute(self: Any, db: Annotated[None, DBDepends(transaction)]) -> Any:
            return connection.get()

        assert await run(execute) == "open"
        assert connection.get("closed") == "closed"

    async def test_sync_dependencies_run_in_a_thread_that_sees_the_context(self) -> None:
        seen: ContextVar[str] = ContextVar("seen")

        async def setting() -> None:
            seen.set("by the thread")

        def reading(_: Annotated[None, Depends(setting)]) -> tuple[str, int]:
            return seen.get(), threading.get_ident()

        async def execute(self: Any, read: Annotated[Any, Depends(reading)]) -> Any:
            return read

        value, thread = await run(execute)
        assert value == "by the thread"
        assert thread != threading.get_ident()
