"""What tasks and web routes share: `auto_inject`, and the names that other packages of DiracX import from `depends`.

Annotations are live: some dependencies are local.
"""

import inspect
import sys
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Annotated, Any

import fastapi
import httpx
import pytest
from diracx.core.config import Config, ConfigSource
from diracx.core.properties import SecurityProperty

from diracx.tasks import plumbing
from diracx.tasks.plumbing import depends
from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.depends import DBDepends, Depends, NoTransaction, auto_inject
from diracx.tasks.plumbing.injection.resources import Resources
from support.acme import GarageSettings, LogsDB, LollygagDB

SERVED: dict[Callable[..., Any], Callable[..., Any]] = {
    LollygagDB.transaction: lambda: "transaction",
    LollygagDB.no_transaction: lambda: "no transaction",
    LogsDB.session: lambda: "session",
    GarageSettings.create: lambda: "settings",
    ConfigSource.create: lambda: "config",
    SecurityProperty.available_properties: lambda: "properties",
}

AliasOfConfig: Any = depends.Config
Properties: Any = depends.AvailableSecurityProperties


def configured() -> str:
    return "configured"


@auto_inject
async def shared(
    db: LollygagDB,
    marked: Annotated[LollygagDB, DBDepends(LollygagDB.transaction)],
    raw: NoTransaction[LollygagDB],
    logs: LogsDB,
    settings: GarageSettings,
    config: Config,
    alias: AliasOfConfig,
    properties: Properties,
    ours: Annotated[str, Depends(configured)],
    theirs: Annotated[str, fastapi.Depends(configured)],
    default: str = Depends(configured),
) -> list[Any]:
    return [db, marked, raw, logs, settings, config, alias, properties, ours, theirs, default]


EVERYTHING = [
    "transaction",
    "transaction",
    "no transaction",
    "session",
    "settings",
    "config",
    "config",
    "properties",
    "configured",
    "configured",
    "configured",
]


async def answer(endpoint: Callable[..., Any], url: str = "/") -> Any:
    application = fastapi.FastAPI()
    application.add_api_route("/", endpoint, response_model=None)
    application.dependency_overrides.update(SERVED)
    transport = httpx.ASGITransport(application)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        response = await client.get(url)
    assert response.status_code == 200, response.text
    return response.json()


async def test_fastapi_injects_all_that_a_task_may_ask_for() -> None:
    assert await answer(shared) == EVERYTHING


async def test_a_task_may_depend_on_the_same_callable() -> None:
    class SomeTask(BaseTask):
        async def execute(self, found: Annotated[Any, Depends(shared)]) -> Any:
            return found

    resources = Resources(SERVED)
    invocation = resources.prepare(SomeTask)
    async with resources.opened():
        assert await invocation(SomeTask()) == EVERYTHING


async def test_parameters_of_the_request_stay_as_they_are() -> None:
    @auto_inject
    async def endpoint(name: str, db: LollygagDB, limit: int = 10) -> Any:
        return name, db, limit

    assert await answer(endpoint, "/?name=alice") == ["alice", "transaction", 10]


async def test_a_partial_of_a_marked_function_is_injected_too() -> None:
    assert await answer(partial(auto_inject(_greeting), "hello")) == ["hello", "transaction"]


async def _greeting(word: str, db: LollygagDB) -> Any:
    return word, db


def test_doing_it_twice_or_for_nothing_changes_nothing() -> None:
    def plain(name: str, unknown: "NotDefined" = None) -> None: ...  # type: ignore # noqa: F821

    before = inspect.signature(shared)
    assert auto_inject(shared) is shared
    assert inspect.signature(shared) == before
    assert auto_inject(plain) is plain
    assert not hasattr(plain, "__signature__")


def test_without_fastapi_the_markers_are_those_of_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    def nested(db: LollygagDB) -> None: ...

    monkeypatch.setitem(sys.modules, "fastapi", None)
    annotation = inspect.signature(auto_inject(nested)).parameters["db"].annotation
    assert annotation == Annotated[LollygagDB, DBDepends(LollygagDB.transaction)]


@pytest.mark.parametrize(
    ("name", "module"),
    [("Config", "diracx.core.config"), ("AvailableSecurityProperties", "diracx.core.properties")],
)
def test_without_diracx_core_its_names_say_what_to_install(
    name: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"^{name} needs diracx-core: pip install 'diracx-tasks\[diracx\]'$"):
        getattr(depends, name)


def test_a_diracx_core_that_lacks_something_itself_is_reported_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "diracx.core.config")
    monkeypatch.setitem(sys.modules, "diracx.core.config.schema", None)
    with pytest.raises(ModuleNotFoundError, match=r"^import of diracx\.core\.config\.schema halted"):
        _ = depends.Config


@pytest.mark.parametrize("module", [plumbing, depends])
def test_a_name_that_is_not_there_is_an_attribute_error(module: ModuleType) -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = module.Nothing
