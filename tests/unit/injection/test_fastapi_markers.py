"""FastAPI's own markers on `execute()`, and below it. Annotations are live: the dependencies are local."""

from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

import fastapi

from diracx.tasks.plumbing.depends import DBDepends, Depends
from diracx.tasks.plumbing.injection.injector import Injector
from support.injecting import Settings, Story, configured, refusal, run, task_with


class TestFastAPIMarkers:
    async def test_they_are_honoured_at_every_depth_and_shared_with_ours(self) -> None:
        story = Story()
        db_type = Annotated[str, fastapi.Depends(story.generator)]

        async def coroutine(db: db_type) -> str:
            return f"coroutine {db}"

        async def async_generator(db: str = fastapi.Depends(story.generator)) -> AsyncIterator[str]:
            yield f"async generator {db}"

        def generator(db: Annotated[str, fastapi.Security(story.generator, scopes=["x"])]) -> Iterator[str]:
            yield f"generator {db}"

        def sync(inner: Annotated[str, fastapi.Depends(coroutine)]) -> str:
            return f"sync {inner}"

        async def execute(
            self: Any,
            a: Annotated[str, fastapi.Depends(async_generator)],
            b: Annotated[str, Depends(generator)],
            c: Annotated[str, fastapi.Depends(sync)],
            d: Annotated[str, DBDepends(story.generator)],
            e: Annotated[str, fastapi.Depends(story.generator, use_cache=False)],
        ) -> Any:
            return [a, b, c, d, e]

        assert await run(execute) == [
            "async generator db1",
            "generator db1",
            "sync coroutine db1",
            "db1",
            "db2",
        ]
        assert story.events == ["begin", "begin", "commit", "commit"]

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
