"""Another callable in the place of a dependency. Annotations are live: the dependencies are local."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

import fastapi

from diracx.tasks.plumbing.depends import DBDepends, Depends
from diracx.tasks.plumbing.injection.injector import Injector
from support.injecting import Story, configured, run, task_with


class TestOverrides:
    async def test_they_replace_a_callable_at_any_depth_with_one_value_for_all(self) -> None:
        class DB:
            @classmethod
            def transaction(cls) -> "DB":
                raise NotImplementedError("This should never be called")

        opened: list[DB] = []

        async def nested(db: Annotated[DB, fastapi.Depends(DB.transaction)]) -> DB:
            return db

        async def execute(
            self: Any,
            a: Annotated[DB, DBDepends(DB.transaction)],
            b: Annotated[DB, Depends(nested)],
        ) -> Any:
            return a is b

        async def engine() -> str:
            return "engine"

        async def transaction(engine: Annotated[str, Depends(engine)]) -> AsyncIterator[DB]:
            assert engine == "overridden, too"
            opened.append(DB())
            yield opened[-1]

        async def other_engine() -> str:
            return "overridden, too"

        assert await run(execute, overrides={DB.transaction: transaction, engine: other_engine})
        assert len(opened) == 1

    async def test_an_override_of_a_database_may_give_back_a_context_manager(self) -> None:
        story = Story()

        def sentinel(url: str) -> str:
            raise NotImplementedError

        async def execute(self: Any, db: Annotated[str, DBDepends(sentinel)]) -> str:
            return db

        assert await run(execute, overrides={sentinel: story.gives_async_manager}) == "db1"
        assert story.events == ["begin", "commit"]

    async def test_they_belong_to_one_injector(self) -> None:
        async def execute(self: Any, value: Annotated[str, Depends(configured)]) -> str:
            return value

        task = task_with(execute)
        overridden = Injector(overrides={configured: lambda: "overridden"}).prepare(type(task))
        plain = Injector().prepare(type(task))
        assert [await overridden(task), await plain(task)] == ["overridden", "configured"]
