"""`DBDepends`, `NoTransaction` and FastAPI's own markers. Annotations are live: the dependencies are local."""

import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import fastapi
import pytest

from diracx.tasks.depends import NoTransaction
from diracx.tasks.plumbing.depends import DBDepends, Depends
from diracx.tasks.plumbing.injection.injector import Injector
from support.injected_tasks import (
    TRANSACTION_KINDS,
    AnyCallable,
    RecordingDatabases,
    Settings,
    configured,
    refusal,
    run,
    task_with,
)


class TestDatabases:
    @pytest.mark.parametrize("kind", TRANSACTION_KINDS)
    async def test_a_transaction_of_any_kind_commits_when_execute_returns(self, kind: str) -> None:
        databases = RecordingDatabases()

        async def execute(self: Any, db: Annotated[str, DBDepends(getattr(databases, kind))]) -> str:
            databases.events.append("execute")
            return db

        assert (await run(execute)).startswith("db")
        assert databases.events == ["begin", "execute", "commit"]

    @pytest.mark.parametrize("kind", TRANSACTION_KINDS)
    async def test_a_transaction_of_any_kind_rolls_back_and_raises_the_same_exception(self, kind: str) -> None:
        databases, error = RecordingDatabases(), ValueError("no")

        async def execute(self: Any, db: Annotated[str, DBDepends(getattr(databases, kind))]) -> None:
            raise error

        with pytest.raises(ValueError, match="no") as raised:
            await run(execute)
        assert raised.value is error
        assert databases.events == ["begin", "rollback ValueError"]

    async def test_a_classmethod_may_give_an_object_that_is_its_own_context_manager(self) -> None:
        class DB:
            entered = False

            @classmethod
            def transaction(cls) -> "DB":
                return cls()

            async def __aenter__(self) -> "DB":
                self.entered = True
                return self

            async def __aexit__(self, *exc_info: object) -> None:
                self.entered = False

        async def execute(self: Any, db: Annotated[DB, DBDepends(DB.transaction)], **kwargs: Any) -> Any:
            assert db.entered
            return db

        assert not (await run(execute)).entered

    async def test_a_decorated_classmethod_is_entered_once_for_all_parameters(self) -> None:
        class DB:
            opened = 0

            @classmethod
            @asynccontextmanager
            async def transaction(cls) -> AsyncIterator["DB"]:
                cls.opened += 1
                yield cls()

        async def nested(db: Annotated[DB, DBDepends(DB.transaction)]) -> DB:
            return db

        async def execute(
            self: Any,
            db: Annotated[DB, DBDepends(DB.transaction)],
            same: Annotated[DB, Depends(nested)],
        ) -> Any:
            return db is same

        assert await run(execute)
        assert DB.opened == 1

    async def test_a_sync_database_stays_in_the_thread_of_the_task(self) -> None:
        def transaction() -> Iterator[sqlite3.Connection]:
            connection = sqlite3.connect(":memory:")
            try:
                yield connection
            finally:
                connection.close()

        async def execute(self: Any, db: Annotated[sqlite3.Connection, DBDepends(transaction)]) -> Any:
            return db.execute("select 42").fetchone()

        assert await run(execute) == (42,)

    @pytest.mark.parametrize("marker", [Depends, DBDepends])
    async def test_a_commit_that_fails_makes_the_execution_fail(self, marker: AnyCallable) -> None:
        async def transaction() -> AsyncIterator[str]:
            yield "db"
            raise ConnectionError("commit failed")

        async def execute(self: Any, db: Annotated[str, marker(transaction)]) -> str:
            return "done"

        with pytest.raises(ConnectionError, match="commit failed"):
            await run(execute)

    async def test_without_a_transaction_the_database_comes_from_its_override(self) -> None:
        class DB:
            @classmethod
            async def transaction(cls) -> "DB":
                raise AssertionError("no transaction was asked for")

            @classmethod
            def no_transaction(cls) -> "DB":
                raise NotImplementedError("a sentinel")

            async def __aenter__(self) -> Any:
                raise AssertionError("it is not entered either")

            async def __aexit__(self, *exc_info: object) -> None: ...

        in_transaction = Annotated[DB, DBDepends(DB.transaction)]
        db = DB()

        async def execute(
            self: Any,
            a: NoTransaction[DB],
            b: Annotated[DB, NoTransaction()],
            c: NoTransaction[in_transaction],
            d: Annotated[in_transaction, NoTransaction()],
        ) -> Any:
            return a is b is c is d is db

        async def serve() -> DB:
            return db

        assert await run(execute, overrides={DB.no_transaction: serve})
        assert "nothing serves" in refusal(execute)
        assert "DB.no_transaction" in refusal(execute)

    async def test_a_database_marker_without_a_callable_is_refused_where_it_is_written(self) -> None:
        with pytest.raises(TypeError, match="not callable"):
            DBDepends("sqlite://")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="needs a callable"):
            DBDepends(None)  # type: ignore[arg-type]


class TestFastAPIMarkers:
    async def test_markers_of_fastapi_are_honoured_at_every_depth_and_share_values_with_ours(self) -> None:
        databases = RecordingDatabases()
        db_type = Annotated[str, fastapi.Depends(databases.generator)]

        async def coroutine(db: db_type) -> str:
            return f"coroutine {db}"

        async def async_generator(db: str = fastapi.Depends(databases.generator)) -> AsyncIterator[str]:
            yield f"async generator {db}"

        def generator(db: Annotated[str, fastapi.Security(databases.generator, scopes=["x"])]) -> Iterator[str]:
            yield f"generator {db}"

        def sync(inner: Annotated[str, fastapi.Depends(coroutine)]) -> str:
            return f"sync {inner}"

        async def execute(
            self: Any,
            a: Annotated[str, fastapi.Depends(async_generator)],
            b: Annotated[str, Depends(generator)],
            c: Annotated[str, fastapi.Depends(sync)],
            d: Annotated[str, DBDepends(databases.generator)],
            e: Annotated[str, fastapi.Depends(databases.generator, use_cache=False)],
        ) -> Any:
            return [a, b, c, d, e]

        assert await run(execute) == [
            "async generator db1",
            "generator db1",
            "sync coroutine db1",
            "db1",
            "db2",
        ]
        assert databases.events == ["begin", "begin", "commit", "commit"]

    async def test_a_marker_without_a_callable_means_the_annotated_class(self) -> None:
        class Checker:
            def __init__(self, settings: Annotated[Settings, fastapi.Depends()]) -> None:
                self.settings = settings

        async def execute(self: Any, checker: Annotated[Checker, fastapi.Depends()]) -> Any:
            return checker.settings.value

        assert await run(execute) == "configured"

    def test_a_part_of_a_request_is_refused_unless_it_is_overridden(self) -> None:
        async def user(token: str = fastapi.Header()) -> str:
            return token

        async def execute(self: Any, user: Annotated[str, fastapi.Depends(user)]) -> Any:
            return user

        assert "HTTP request" in refusal(execute)
        assert "user(): parameter 'token'" in refusal(execute)
        task = task_with(execute)
        assert not Injector(overrides={user: configured}).prepare(type(task)).direct
