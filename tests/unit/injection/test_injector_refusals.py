"""An `execute()` that cannot be served is refused at once. Annotations are live: the dependencies are local."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import wraps
from typing import Annotated, Any

import fastapi
import pytest

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.depends import DBDepends, Depends
from diracx.tasks.plumbing.exceptions import TaskDefinitionError
from diracx.tasks.plumbing.injection.injector import Injector
from support.injected_tasks import Settings, configured, refusal, task_with


class TestRefusals:
    @pytest.mark.parametrize("name", ["SomeTask.execute()", "parameter 'db'", "Depends(callable)"])
    def test_a_parameter_that_nothing_fills_is_named_with_its_class_and_a_hint(self, name: str) -> None:
        async def execute(self: Any, db: str) -> None: ...

        assert name in refusal(execute)

    def test_a_parameter_that_is_a_field_of_the_task(self) -> None:
        @dataclass
        class Sync(BaseTask):
            owner: str

            async def execute(self, owner: str) -> None: ...

        with pytest.raises(TaskDefinitionError, match=r"'owner' .*: remove the parameter, and read self\.owner"):
            Injector().prepare(Sync)

    @pytest.mark.parametrize("override", [{"owners_db": configured}, {configured: "alice"}])
    def test_an_override_that_is_no_callable(self, override: Any) -> None:
        with pytest.raises(TaskDefinitionError, match=r"^the override .* replaces nothing; write a callable"):
            Injector(override)

    def test_an_execute_without_self(self) -> None:
        async def execute(**kwargs: Any) -> None: ...

        assert "write `self` as its first parameter" in refusal(execute)

    def test_an_execute_that_is_missing(self) -> None:
        class Nothing(BaseTask):
            pass

        with pytest.raises(TaskDefinitionError, match=r"Nothing\.execute\(\) is missing"):
            Injector().prepare(Nothing)  # type: ignore[type-abstract]

    def test_an_execute_that_is_not_async(self) -> None:
        def execute(self: Any) -> None: ...

        assert "async def" in refusal(execute)

    def test_an_execute_that_a_decorator_made_sync(self) -> None:
        async def execute(self: Any) -> None: ...

        @wraps(execute)
        def decorated(*args: Any, **kwargs: Any) -> Any:
            return execute(*args, **kwargs)

        assert "decorators" in refusal(decorated)

    def test_an_execute_that_is_a_generator(self) -> None:
        async def execute(self: Any) -> AsyncIterator[None]:
            yield

        assert "async generator" in refusal(execute)

    def test_a_positional_only_parameter(self) -> None:
        async def execute(self: Any, db: Annotated[str, Depends(configured)], /) -> None: ...

        assert "parameter 'db' is positional-only" in refusal(execute)

    def test_an_annotation_that_cannot_be_resolved(self) -> None:
        async def execute(self: Any, a: int = 1, *, db: "MissingDB") -> None: ...  # type: ignore # noqa: F821

        text = refusal(execute)
        assert "parameter 'db'" in text
        assert "name 'MissingDB' is not defined" in text
        assert "TYPE_CHECKING" in text

    def test_two_markers_on_one_parameter(self) -> None:
        async def twice(self: Any, db: Annotated[str, Depends(configured), fastapi.Depends(configured)]) -> None: ...

        async def both(self: Any, db: Annotated[str, Depends(configured)] = Settings.default) -> None: ...

        assert "parameter 'db' has 2 markers" in refusal(twice)
        assert "parameter 'db' has 2 markers" in refusal(both)

    def test_a_marker_without_anything_to_call(self) -> None:
        async def execute(self: Any, db: Annotated[str | None, Depends()]) -> None: ...

        assert "no callable" in refusal(execute)

    def test_a_parameter_deep_inside_is_named_with_the_way_to_it(self) -> None:
        class DB:
            def transaction(self) -> None: ...

        async def nested(db: Annotated[DB, DBDepends(DB.transaction)]) -> None: ...

        async def execute(self: Any, a: Annotated[None, Depends(nested)]) -> None: ...

        text = refusal(execute)
        assert text.startswith(f"{__name__}.SomeTask.execute() > ")
        assert "DB.transaction(): parameter 'self'" in text
        assert "@classmethod" in text

    def test_a_callable_without_a_signature_or_a_hash(self) -> None:
        @dataclass
        class Unhashable:
            def __call__(self) -> None: ...

        async def built_in(self: Any, a: Annotated[dict[str, str], Depends(dict)]) -> None: ...

        async def unhashable(self: Any, a: Annotated[None, Depends(Unhashable())]) -> None: ...

        assert "cannot be read" in refusal(built_in)
        assert "unhashable type" in refusal(unhashable)

    def test_dependencies_in_a_circle(self) -> None:
        async def sentinel() -> str:
            return ""

        async def override(original: Annotated[str, Depends(sentinel)]) -> str:
            return original

        async def execute(self: Any, a: Annotated[str, Depends(sentinel)]) -> None: ...

        assert "in a circle" in refusal(execute, overrides={sentinel: override})

    async def test_a_refused_class_leaves_nothing_behind_for_the_next(self) -> None:
        async def broken(missing: str) -> None: ...

        async def bad(self: Any, a: Annotated[None, Depends(broken)]) -> None: ...

        async def good(self: Any, a: Annotated[str, Depends(configured)]) -> str:
            return a

        injector = Injector()
        for _ in range(2):
            with pytest.raises(TaskDefinitionError, match="parameter 'missing'"):
                injector.prepare(type(task_with(bad)))
        task = task_with(good)
        assert await injector.prepare(type(task))(task) == "configured"
