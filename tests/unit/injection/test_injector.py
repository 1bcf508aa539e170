"""The values that `execute()` gets, and overrides. Annotations are live: the dependencies are local."""

import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import fastapi

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.depends import DBDepends, Depends
from diracx.tasks.plumbing.injection.injector import Injector
from support.injected_tasks import Reader, RecordingDatabases, Settings, configured, run, task_with


async def coroutine() -> str:
    return "coroutine"


def generator() -> Iterator[str]:
    yield "generator"


async def async_generator() -> AsyncIterator[str]:
    yield "async generator"


async def greeting(word: str, name: str = "you") -> str:
    return f"{word} {name}"


class TestInjection:
    async def test_a_task_without_dependencies_is_called_directly(self) -> None:
        class Plain(BaseTask):
            async def execute(self, *args: Any, retries: int = 3, **kwargs: Any) -> Any:
                return args, retries, kwargs

        invocation = Injector().prepare(Plain)

        assert invocation.direct
        call: Any = invocation(Plain())
        assert call.cr_code is Plain.execute.__code__
        assert await call == ((), 3, {})

    async def test_each_kind_of_callable_gives_its_value(self) -> None:
        async def execute(
            self: Any,
            a: Annotated[str, Depends(configured)],
            b: Annotated[str, Depends(coroutine)],
            c: Annotated[str, Depends(generator)],
            d: Annotated[str, Depends(async_generator)],
            e: Annotated[Settings, Depends(Settings)],
            f: Annotated[Settings, Depends()],
            g: Annotated[str, Depends(Reader("this"))],
            h: Annotated[str, Depends(partial(greeting, "hello", name="world"))],
            i: str = Depends(coroutine),
            *args: Any,
            j: str = Depends(configured),
            **kwargs: Any,
        ) -> Any:
            assert e is f
            return [a, b, c, d, e.value, g, h, i, j, args, kwargs]

        assert await run(execute) == [
            "configured",
            "coroutine",
            "generator",
            "async generator",
            "configured",
            "read this",
            "hello world",
            "coroutine",
            "configured",
            (),
            {},
        ]

    async def test_values_are_not_converted_to_the_annotated_type(self) -> None:
        async def execute(self: Any, number: Annotated[int, Depends(configured)]) -> Any:
            return number

        assert await run(execute) == "configured"

    async def test_fields_of_the_task_are_not_touched(self) -> None:
        @dataclass(frozen=True, slots=True)
        class Owner(BaseTask):
            value: str

            async def execute(self, value: Annotated[str, Depends(configured)]) -> Any:
                return self.value, value

        assert await Injector().prepare(Owner)(Owner("alice")) == ("alice", "configured")

    async def test_one_execution_shares_a_value_and_the_next_gets_another(self) -> None:
        calls: list[object] = []

        async def shared() -> object:
            calls.append(object())
            return calls[-1]

        async def nested(shared: Annotated[object, Depends(shared)]) -> object:
            return shared

        async def execute(
            self: Any, a: Annotated[object, Depends(nested)], b: Annotated[object, Depends(shared)]
        ) -> Any:
            return a is b

        task = task_with(execute)
        invocation = Injector().prepare(type(task))
        assert await invocation(task)
        assert await invocation(task)
        assert len(calls) == 2

    async def test_without_cache_only_that_parameter_has_a_value_of_its_own(self) -> None:
        async def fresh() -> object:
            return object()

        async def execute(
            self: Any,
            a: Annotated[object, Depends(fresh)],
            b: Annotated[object, Depends(fresh, use_cache=False)],
            c: Annotated[object, Depends(fresh)],
        ) -> Any:
            return a is c, a is b

        assert await run(execute) == (True, False)

    async def test_parameters_of_one_name_at_two_depths_are_not_mixed_up(self) -> None:
        async def inner() -> str:
            return "inner"

        async def outer() -> str:
            return "outer"

        async def nested(session: Annotated[str, Depends(inner)], limit: int = 10) -> tuple[str, int]:
            return session, limit

        async def execute(
            self: Any,
            session: Annotated[str, Depends(outer)],
            limit: Annotated[str, Depends(outer)],
            stack: Annotated[str, Depends(outer)],
            found: Annotated[Any, Depends(nested)],
        ) -> Any:
            return session, stack, found

        assert await run(execute) == ("outer", "outer", ("inner", 10))

    async def test_a_parameter_of_a_provided_type_needs_no_marker(self) -> None:
        class Token:
            pass

        token = Token()

        async def nested(token: Token) -> Token:
            return token

        async def execute(self: Any, mine: Token, its: Annotated[Token, Depends(nested)]) -> Any:
            return mine is token and its is token

        async def current() -> Token:
            return token

        assert await run(execute, providers={Token: current})

    async def test_annotations_may_be_strings_and_the_return_type_unknown(self) -> None:
        async def execute(self: Any, settings: "Annotated[Settings, Depends()]") -> "Unknown":  # type: ignore # noqa: F821
            return settings.value

        assert await run(execute) == "configured"

    async def test_a_class_is_prepared_once(self) -> None:
        async def execute(self: Any) -> None: ...

        injector, task_class = Injector(), type(task_with(execute))
        assert injector.prepare(task_class) is injector.prepare(task_class)

    async def test_a_class_that_two_threads_prepare_at_once_is_prepared_once(self) -> None:
        begun: list[str] = []
        second = threading.Event()

        async def inner() -> str:
            return "inner"

        async def outer(value: Annotated[str, Depends(inner)]) -> str:
            return f"outer {value}"

        async def execute(self: Any, value: Annotated[str, Depends(outer)]) -> str:
            return value

        def replacement(call: Callable[..., Any]) -> None:
            begun.append(call.__name__)
            if begun == ["outer", "inner"]:
                # In the middle of the graph: a second thread that got in here would meet a half-built one.
                second.wait(0.5)
            elif len(begun) > 2:
                second.set()

        injector, task = Injector(replacement=replacement), task_with(execute)
        with ThreadPoolExecutor(2) as threads:
            first, other = threads.map(injector.prepare, [type(task), type(task)], timeout=10)
        assert first is other
        assert begun == ["outer", "inner"]
        assert await first(task) == "outer inner"


class TestOverrides:
    async def test_overrides_replace_a_callable_at_any_depth_with_one_value_for_all(self) -> None:
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
        databases = RecordingDatabases()

        def sentinel(url: str) -> str:
            raise NotImplementedError

        async def execute(self: Any, db: Annotated[str, DBDepends(sentinel)]) -> str:
            return db

        assert await run(execute, overrides={sentinel: databases.gives_async_manager}) == "db1"
        assert databases.events == ["begin", "commit"]

    async def test_overrides_hold_for_one_injector_only(self) -> None:
        async def execute(self: Any, value: Annotated[str, Depends(configured)]) -> str:
            return value

        task = task_with(execute)
        overridden = Injector(overrides={configured: lambda: "overridden"}).prepare(type(task))
        plain = Injector().prepare(type(task))
        assert [await overridden(task), await plain(task)] == ["overridden", "configured"]
