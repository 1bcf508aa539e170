"""A route commits before the client has its answer. A route whose commit fails is a 500.

By itself FastAPI closes dependencies after the answer, so the client would have a 200 for what was never stored.

Annotations are live: the routes are local.
"""

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Annotated, Any

import fastapi
import pytest
from diracx.core.config import Config
from fastapi.exceptions import DependencyScopeError

from diracx.tasks.plumbing.depends import DBDepends, Depends, NoTransaction, auto_inject
from support.acme import GarageSettings, LogsDB, LollygagDB

AnyCallable = Callable[..., Any]
Marked = Annotated[LollygagDB, DBDepends(LollygagDB.transaction)]
CommitFailedError = ConnectionError


@auto_inject
async def nested(db: LollygagDB) -> Any:
    return db


@auto_inject
async def opened(db: LollygagDB) -> AsyncIterator[Any]:
    yield db


@auto_inject
def opened_in_a_thread(db: LollygagDB) -> Iterator[Any]:
    yield db


def bare(record: AnyCallable) -> AnyCallable:
    async def endpoint(db: LollygagDB) -> None:
        record(db)

    return endpoint


def without_transaction(record: AnyCallable) -> AnyCallable:
    async def endpoint(db: NoTransaction[LollygagDB]) -> None:
        record(db)

    return endpoint


def marked(record: AnyCallable) -> AnyCallable:
    async def endpoint(db: Marked) -> None:
        record(db)

    return endpoint


def marked_by_depends(record: AnyCallable) -> AnyCallable:
    async def endpoint(db: Annotated[Any, Depends(LollygagDB.transaction)]) -> None:
        record(db)

    return endpoint


def by_default(record: AnyCallable) -> AnyCallable:
    default: Any = DBDepends(LollygagDB.transaction)

    async def endpoint(db: Any = default) -> None:
        record(db)

    return endpoint


def session(record: AnyCallable) -> AnyCallable:
    async def endpoint(db: LogsDB) -> None:
        record(db)

    return endpoint


def in_a_dependency(record: AnyCallable) -> AnyCallable:
    async def endpoint(db: Annotated[Any, Depends(nested)]) -> None:
        record(db)

    return endpoint


def in_a_dependency_of_fastapi(record: AnyCallable) -> AnyCallable:
    async def endpoint(db: Annotated[Any, fastapi.Depends(nested)]) -> None:
        record(db)

    return endpoint


def in_a_generator(record: AnyCallable) -> AnyCallable:
    async def endpoint(db: Annotated[Any, Depends(opened)]) -> None:
        record(db)

    return endpoint


def in_a_generator_of_a_thread(record: AnyCallable) -> AnyCallable:
    async def endpoint(db: Annotated[Any, Depends(opened_in_a_thread)]) -> None:
        record(db)

    return endpoint


def in_a_generator_of_fastapi(record: AnyCallable) -> AnyCallable:
    async def endpoint(db: Annotated[Any, fastapi.Depends(opened, scope="function")]) -> None:
        record(db)

    return endpoint


def shared_by_all(record: AnyCallable) -> AnyCallable:
    async def endpoint(
        db: LollygagDB,
        same: Marked,
        outer: Annotated[Any, Depends(nested)],
        outermost: Annotated[Any, Depends(opened)],
    ) -> None:
        assert db is same is outer is outermost
        record(db)

    return endpoint


ROUTES = [
    bare,
    without_transaction,
    marked,
    marked_by_depends,
    by_default,
    session,
    in_a_dependency,
    in_a_dependency_of_fastapi,
    in_a_generator,
    in_a_generator_of_a_thread,
    in_a_generator_of_fastapi,
    shared_by_all,
]


class Served:
    """An application whose databases, and whose answer, record their events."""

    def __init__(self, make: AnyCallable, *, fails: bool = False) -> None:
        self.events: list[str] = []
        self.status = 0
        self._fails = fails
        self.application = fastapi.FastAPI()
        endpoint = auto_inject(make(lambda db: self.events.append(f"route {db}")))
        self.application.add_api_route("/", endpoint, status_code=200)
        for sentinel in (LollygagDB.transaction, LollygagDB.no_transaction, LogsDB.session):
            self.application.dependency_overrides[sentinel] = self._database

    async def _database(self) -> AsyncIterator[str]:
        self.events.append("begin")
        yield "db"
        if self._fails:
            self.events.append("commit fails")
            raise CommitFailedError("the server has gone away")
        self.events.append("commit")

    async def _receive(self) -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.events.append(message["type"])

    async def answer(self) -> None:
        scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": []}
        await self.application(scope, self._receive, self._send)


@pytest.mark.parametrize("make", ROUTES)
async def test_a_route_commits_before_it_answers(make: AnyCallable) -> None:
    served = Served(make)
    await served.answer()
    assert served.events == ["begin", "route db", "commit", "http.response.start"]
    assert served.status == 200


@pytest.mark.parametrize("make", ROUTES)
async def test_a_commit_that_fails_is_a_500(make: AnyCallable) -> None:
    served = Served(make, fails=True)
    with pytest.raises(CommitFailedError):  # for the log of the server
        await served.answer()
    assert served.events == ["begin", "route db", "commit fails", "http.response.start"]
    assert served.status == 500


def test_fastapi_refuses_a_generator_that_it_closes_late_around_a_database() -> None:
    async def endpoint(db: Annotated[Any, fastapi.Depends(opened)]) -> None: ...

    with pytest.raises(DependencyScopeError, match='cannot depend on dependencies with scope "function"'):
        fastapi.FastAPI().add_api_route("/", auto_inject(endpoint))


def test_a_fastapi_without_scopes_is_refused_for_databases_only(monkeypatch: pytest.MonkeyPatch) -> None:
    old = ModuleType("fastapi")
    old.__spec__ = ModuleSpec("fastapi", None)
    old.__dict__.update(__version__="0.120.4", Depends=lambda dependency, *, use_cache: ("marker", dependency))
    monkeypatch.setitem(sys.modules, "fastapi", old)

    def harmless(settings: GarageSettings, config: Config) -> None: ...

    def refused(db: LollygagDB) -> None: ...

    assert auto_inject(harmless) is harmless
    with pytest.raises(
        ImportError,
        match=r"^FastAPI 0\.120\.4 would answer before LollygagDB\.transaction\(\) commits; .*'fastapi>=0\.121'$",
    ):
        auto_inject(refused)
