"""SQL databases, on a real SQLite, and OpenSearch databases of diracx-db in tasks.

Annotations are live: some dependencies are local.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated, Any

import pytest
from diracx.db.exceptions import DBUnavailableError
from diracx.db.os import JobParametersDB
from diracx.db.sql import JobDB
from sqlalchemy.exc import IntegrityError

from diracx.tasks.plumbing.depends import DBDepends, Depends, NoTransaction
from diracx.tasks.plumbing.execution.loops import loop_on_a_thread, run_on
from diracx.tasks.plumbing.injection.resources import Resources
from support.acme import (
    LogsDB,
    LollygagDB,
    OwnTransactionDB,
    PreferredJobDB,
    PreferredJobParametersDB,
)
from support.injected_tasks import missing, run, task_with

pytestmark = pytest.mark.usefixtures("acme_installed")

Lollygag = Annotated[LollygagDB, DBDepends(LollygagDB.transaction)]


@pytest.fixture
async def owners(
    acme_installed: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[[], Any]]:
    """An empty database for LollygagDB, and a function that returns the committed names."""
    url = f"sqlite+aiosqlite:///{tmp_path}/owners.db"
    monkeypatch.setenv("DIRACX_DB_URL_LOLLYGAGDB", url)
    onlooker = LollygagDB(url)
    async with onlooker.engine_context():
        async with onlooker.engine.begin() as connection:
            await connection.run_sync(LollygagDB.metadata.create_all)

        async def names() -> list[str]:
            async with onlooker:
                return await onlooker.owners()

        yield names


class TestSQLDatabases:
    async def test_a_marker_and_a_bare_class_and_a_nested_callable_share_one_transaction(self, owners: Any) -> None:
        async def nested(db: LollygagDB) -> LollygagDB:
            return db

        async def execute(
            self: Any, marked: Lollygag, bare: LollygagDB, deep: Annotated[LollygagDB, Depends(nested)]
        ) -> Any:
            assert marked is bare is deep
            await marked.insert_owner("alice")
            return marked.conn.in_transaction()

        assert await run(execute)
        assert await owners() == ["alice"]

    async def test_a_failing_execute_leaves_no_row(self, owners: Any) -> None:
        error = ValueError("no")

        async def execute(self: Any, db: LollygagDB) -> None:
            await db.insert_owner("alice")
            assert await db.owners() == ["alice"]
            raise error

        with pytest.raises(ValueError, match="no") as raised:
            await run(execute)
        assert raised.value is error
        assert await owners() == []

    async def test_a_cancelled_execute_leaves_no_row(self, owners: Any) -> None:
        async def execute(self: Any, db: LollygagDB) -> None:
            await db.insert_owner("alice")
            executing = asyncio.current_task()
            assert executing is not None
            executing.cancel()
            await asyncio.Event().wait()

        with pytest.raises(asyncio.CancelledError):
            await asyncio.create_task(run(execute))
        assert await owners() == []

    async def test_a_commit_that_fails_fails_the_task_and_leaves_no_row_and_no_connection(self, owners: Any) -> None:
        async def execute(self: Any, db: LollygagDB) -> LollygagDB:
            await db.insert_car_of_nobody()
            await db.insert_owner("alice")
            return db

        async def look(self: Any, db: NoTransaction[LollygagDB]) -> Any:
            return db.engine.pool.checkedout()  # type: ignore[attr-defined]

        resources, failing, looking = Resources(), task_with(execute), task_with(look)
        invocation, after = resources.prepare(type(failing)), resources.prepare(type(looking))
        async with resources.opened():
            with pytest.raises(IntegrityError):
                await asyncio.create_task(invocation(failing))
            assert await asyncio.create_task(after(looking)) == 0
        assert await owners() == []

    async def test_without_a_transaction_the_task_opens_its_own(self, owners: Any) -> None:
        async def execute(self: Any, db: NoTransaction[LollygagDB]) -> None:
            with pytest.raises(RuntimeError):
                _ = db.conn
            async with db:
                await db.insert_owner("alice")
            assert await owners() == ["alice"]

        await run(execute)

    async def test_concurrent_executions_have_separate_connections(self, owners: Any) -> None:
        connections, both = [], asyncio.Barrier(2)

        async def execute(self: Any, db: LollygagDB) -> None:
            connections.append(db.conn)
            await both.wait()

        resources, task = Resources(), task_with(execute)
        invocation = resources.prepare(type(task))
        async with resources.opened(), asyncio.TaskGroup() as group:
            for _ in range(2):
                group.create_task(invocation(task))
        assert connections[0] is not connections[1]

    async def test_the_engine_is_made_once_and_disposed_of_at_the_end(self, owners: Any) -> None:
        seen = []

        async def execute(self: Any, db: NoTransaction[LollygagDB]) -> None:
            seen.append((db, db.engine))

        resources, task = Resources(), task_with(execute)
        invocation = resources.prepare(type(task))
        async with resources.opened():
            await invocation(task)
            await invocation(task)
        assert seen[0] == seen[1]
        with pytest.raises(AssertionError):
            _ = seen[0][0].engine
        with pytest.raises(RuntimeError, match="LollygagDB is not open"):
            await invocation(task)
        async with resources.opened():
            await invocation(task)
        assert seen[2] != seen[0]

    async def test_databases_are_opened_on_the_loop_that_executes(self, owners: Any) -> None:
        async def execute(self: Any, db: LollygagDB) -> str:
            await db.insert_owner("alice")
            return threading.current_thread().name

        resources, task = Resources(), task_with(execute)
        invocation = resources.prepare(type(task))
        names: list[str] = []

        async def elsewhere() -> None:
            async with resources.opened():
                names.append(await invocation(task))

        thread = threading.Thread(target=lambda: asyncio.run(elsewhere()), name="executing")
        thread.start()
        await asyncio.to_thread(thread.join)
        assert names == ["executing"]
        assert await owners() == ["alice"]

    async def test_transactions_on_two_loops_run_at_a_time_each_on_an_engine_of_its_own(self, owners: Any) -> None:
        both, databases, names = threading.Barrier(2), [], iter(["alice", "bob"])

        async def execute(self: Any, db: LollygagDB) -> None:
            await db.owners()
            databases.append((db, db.engine, db.conn))
            await asyncio.to_thread(both.wait, 10)
            await db.insert_owner(next(names))

        resources, task = Resources(), task_with(execute)
        invocation = resources.prepare(type(task))

        async def open_and_execute() -> None:
            async with resources.opened():
                await invocation(task)

        with loop_on_a_thread("one") as one, loop_on_a_thread("two") as two:
            await asyncio.gather(run_on(one, open_and_execute()), run_on(two, open_and_execute()))
        assert all(of_one is not of_two for of_one, of_two in zip(*databases, strict=True))
        assert sorted(await owners()) == ["alice", "bob"]

    async def test_a_failure_on_one_loop_rolls_back_nothing_of_another(self, owners: Any) -> None:
        inserted, failed = threading.Event(), threading.Event()

        async def fails(self: Any, db: LollygagDB) -> None:
            await asyncio.to_thread(inserted.wait, 10)
            raise ValueError("no")

        async def inserts(self: Any, db: LollygagDB) -> None:
            await db.insert_owner("alice")
            inserted.set()
            await asyncio.to_thread(failed.wait, 10)

        resources, failing, inserting = Resources(), task_with(fails), task_with(inserts)
        failure, insertion = resources.prepare(type(failing)), resources.prepare(type(inserting))

        async def fail() -> None:
            async with resources.opened():
                with pytest.raises(ValueError, match="no"):
                    await failure(failing)
            failed.set()

        async def insert() -> None:
            async with resources.opened():
                await insertion(inserting)

        with loop_on_a_thread("one") as one, loop_on_a_thread("two") as two:
            await asyncio.gather(run_on(one, fail()), run_on(two, insert()))
        assert await owners() == ["alice"]

    async def test_a_loop_that_closes_its_engine_leaves_those_of_other_loops_open(self, owners: Any) -> None:
        async def execute(self: Any, db: LollygagDB) -> Any:
            return db.engine

        resources, task = Resources(), task_with(execute)
        invocation = resources.prepare(type(task))
        first, second, again = AsyncExitStack(), AsyncExitStack(), AsyncExitStack()
        with loop_on_a_thread("one") as one, loop_on_a_thread("two") as two:
            await run_on(one, first.enter_async_context(resources.opened()))
            await run_on(two, second.enter_async_context(resources.opened()))
            engine = await run_on(two, invocation(task))
            await run_on(one, first.aclose())
            with pytest.raises(RuntimeError, match=r"LollygagDB is not open: open it .* on this event loop"):
                await run_on(one, invocation(task))
            assert await run_on(two, invocation(task)) is engine
            with pytest.raises(RuntimeError, match="LollygagDB is open already"):
                await run_on(two, again.enter_async_context(resources.opened()))
            await run_on(one, again.enter_async_context(resources.opened()))
            assert await run_on(one, invocation(task)) is not engine
            await run_on(two, second.aclose())
            await run_on(one, again.aclose())

    async def test_the_preferred_implementation_is_given_whichever_class_is_asked_for(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DIRACX_DB_URL_JOBDB", "sqlite+aiosqlite:///:memory:")

        async def execute(self: Any, base: JobDB, extended: PreferredJobDB) -> Any:
            return base is extended, type(base)

        assert await run(execute) == (True, PreferredJobDB)

    async def test_a_class_that_defines_its_own_transaction_keeps_it(self) -> None:
        async def execute(self: Any, db: OwnTransactionDB) -> Any:
            return db

        assert await run(execute) == "its own"


class TestOpenSearch:
    @pytest.fixture(autouse=True)
    def nowhere(self, acme_installed: None, monkeypatch: pytest.MonkeyPatch) -> None:
        # Port 1 of loopback refuses.
        for name in ("LOGSDB", "JOBPARAMETERSDB"):
            monkeypatch.setenv(f"DIRACX_OS_DB_{name}", '{"hosts": "http://127.0.0.1:1", "max_retries": 0}')

    async def test_a_marker_and_a_bare_class_are_one_open_client(self) -> None:
        databases = []

        async def execute(self: Any, bare: LogsDB, marked: Annotated[LogsDB, DBDepends(LogsDB.session)]) -> Any:
            assert bare is marked
            assert bare.client.transport is not None
            databases.append(bare)

        await run(execute)
        with pytest.raises(RuntimeError):
            _ = databases[0].client

    async def test_the_preferred_implementation_is_given(self) -> None:
        async def execute(self: Any, base: JobParametersDB, extended: PreferredJobParametersDB) -> Any:
            return base is extended, type(base)

        assert await run(execute) == (True, PreferredJobParametersDB)

    async def test_a_server_that_is_away_fails_the_task_and_not_the_opening(self) -> None:
        async def execute(self: Any, logs: LogsDB) -> None:
            await logs.ping()  # type: ignore[no-untyped-call]

        with pytest.raises(DBUnavailableError):
            await run(execute)

    def test_a_variable_that_is_not_set_or_not_json_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def execute(self: Any, logs: LogsDB) -> None: ...

        monkeypatch.setenv("DIRACX_OS_DB_LOGSDB", "{secret")
        (line,) = missing(execute)
        assert "DIRACX_OS_DB_LOGSDB" in line
        assert "secret" not in line
        monkeypatch.delenv("DIRACX_OS_DB_LOGSDB")
        (line,) = missing(execute)
        assert line.startswith('acme:SomeTask needs LogsDB: set DIRACX_OS_DB_LOGSDB, e.g. \'{"hosts"')
