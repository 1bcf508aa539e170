"""The functions of DiracX's `plumbing.factory`, on FastAPI's own reading of tasks.

Annotations are live: the tasks are local.
"""

import inspect
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import fastapi
import httpx
import pytest
from diracx.core.config import ConfigSource
from diracx.core.settings import ServiceSettingsBase
from diracx.db.sql import JobDB
from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import get_dependant

from diracx.tasks.plumbing import depends
from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.depends import Depends, NoTransaction, auto_inject
from diracx.tasks.plumbing.exceptions import ResourceError, TaskDefinitionError
from diracx.tasks.plumbing.factory import (
    find_missing_overrides,
    load_task_registry,
    setup_dependency_overrides,
    task_wrapper,
    wrap_task,
)
from diracx.tasks.plumbing.lock_registry import validate_registry
from diracx.tasks.testing import sqlite_database
from support.acme import GarageSettings, LogsDB, LollygagDB, PreferredJobDB
from support.configurations import commit_configuration
from support.distributions import install_metadata

pytestmark = pytest.mark.usefixtures("acme_installed")

AnyCallable = Callable[..., Any]
AliasOfConfig: Any = depends.Config


async def _count(db: LollygagDB) -> int:
    return len(await db.owners())


count = auto_inject(_count)


@auto_inject
async def _class_of_database(db: NoTransaction[JobDB]) -> str:
    return type(db).__name__


@dataclass
class RegisterTask(BaseTask):
    owner: str
    twice: bool = False

    async def execute(
        self,
        db: LollygagDB,
        raw: NoTransaction[JobDB],
        settings: GarageSettings,
        config: AliasOfConfig,
        logs: LogsDB,
        counted: Annotated[int, Depends(count)],
        greeting: str = "hello",
        *rest: Any,
        **more: Any,
    ) -> list[Any]:
        """Register an owner."""
        return [self.owner, self.twice, db, raw, settings, config, logs, counted, greeting, rest, more]


class IdleTask(BaseTask):
    async def execute(self) -> str:
        return "idle"


def dependant_of(task_class: type[BaseTask]) -> Dependant:
    return get_dependant(path="", call=wrap_task(task_class))


class TestWrappedTasks:
    async def test_a_call_makes_the_task_and_executes_it_with_the_given_values(self) -> None:
        assert await wrap_task(IdleTask)() == "idle"
        injected: dict[str, Any] = dict.fromkeys(("raw", "settings", "config", "logs"), None)
        found = await wrap_task(RegisterTask)("alice", True, db="db", counted=3, extra=1, **injected)
        assert found == ["alice", True, "db", None, None, None, None, 3, "hello", (), {"extra": 1}]

    def test_the_signature_has_the_parameters_of_execute_for_fastapi(self) -> None:
        wrapped = wrap_task(RegisterTask)
        parameters = inspect.signature(wrapped).parameters
        assert inspect.iscoroutinefunction(wrapped)
        assert wrapped.__name__ == "RegisterTask"
        assert list(parameters) == ["db", "raw", "settings", "config", "logs", "counted", "greeting"]
        assert {parameter.kind for parameter in parameters.values()} == {inspect.Parameter.KEYWORD_ONLY}
        assert parameters["greeting"].default == "hello"
        calls = [each.call for each in dependant_of(RegisterTask).dependencies]
        assert calls == [
            LollygagDB.transaction,
            JobDB.no_transaction,
            GarageSettings.create,
            ConfigSource.create,
            LogsDB.session,
            count,
        ]
        assert not inspect.signature(wrap_task(IdleTask)).parameters

    async def test_values_that_do_not_fit_the_fields_are_a_type_error(self) -> None:
        with pytest.raises(TypeError, match="owner"):
            await wrap_task(RegisterTask)()

    async def test_a_redis_is_refused_with_what_to_use(self) -> None:
        assert await task_wrapper(IdleTask, _redis=None, _interactive=True) == "idle"
        with pytest.raises(TypeError, match=r"^IdleTask: locks are in JetStream.*leave _redis out"):
            await wrap_task(IdleTask)(_redis=object())


class TestOverrides:
    def test_what_the_environment_lacks_is_named_once(self) -> None:
        assert find_missing_overrides(dependant_of(RegisterTask), {}) == [
            "DIRACX_DB_URL_LOLLYGAGDB (for LollygagDB)",
            "DIRACX_DB_URL_JOBDB (for JobDB)",
            "set ACME_GARAGE_DOORS (Field required) (for GarageSettings)",
            "set ACME_GARAGE_COLOUR (Field required) (for GarageSettings)",
            "DIRACX_CONFIG_BACKEND_URL (for Config)",
            "DIRACX_OS_DB_LOGSDB (for LogsDB)",
        ]

    def test_what_is_overridden_or_makes_itself_is_not_missing(self) -> None:
        class OwnSettings(ServiceSettingsBase):
            @classmethod
            def create(cls) -> Any:
                return cls()

        class OwnTask(BaseTask):
            async def execute(
                self, db: LollygagDB, settings: OwnSettings, counted: Annotated[int, Depends(count)]
            ) -> None: ...

        assert not find_missing_overrides(dependant_of(OwnTask), {LollygagDB.transaction: lambda: None})

    async def test_nothing_is_opened_where_nothing_is_configured(self) -> None:
        async with setup_dependency_overrides() as overrides:
            assert overrides == {}
        dependant = dependant_of(RegisterTask)
        async with setup_dependency_overrides([dependant]) as overrides:
            assert overrides == {}

    async def test_a_route_gets_what_is_configured_and_its_commit_counts(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ACME_GARAGE_DOORS", "5")
        monkeypatch.setenv("ACME_GARAGE_COLOUR", "red")
        monkeypatch.setenv("DIRACX_CONFIG_BACKEND_URL", commit_configuration(tmp_path / "configuration"))
        monkeypatch.setenv("DIRACX_OS_DB_LOGSDB", '{"hosts": "http://127.0.0.1:9"}')

        @auto_inject
        async def register(
            owner: str, db: LollygagDB, settings: GarageSettings, config: AliasOfConfig, logs: LogsDB
        ) -> list[Any]:
            if owner == "nobody":
                await db.insert_car_of_nobody()
            await db.insert_owner(owner)
            return [settings.doors, list(config.registry), type(logs).__name__]

        application = fastapi.FastAPI()
        application.add_api_route("/{owner}", register)
        transport = httpx.ASGITransport(application, raise_app_exceptions=False)
        async with sqlite_database(LollygagDB, tmp_path) as onlooker:
            dependant = get_dependant(path="/{owner}", call=register)
            async with setup_dependency_overrides([dependant]) as overrides:
                assert not find_missing_overrides(dependant, overrides)
                application.dependency_overrides.update(overrides)
                async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                    alice, nobody = await client.get("/alice"), await client.get("/nobody")
            async with onlooker:
                assert await onlooker.owners() == ["alice"]
        assert alice.json() == [5, ["acme"], "LogsDB"]
        assert nobody.status_code == 500
        assert GarageSettings.open_now == []

    async def test_every_class_of_a_name_is_overridden_also_without_a_dependant(self, tmp_path: Path) -> None:
        async with sqlite_database(PreferredJobDB, tmp_path, "JobDB"), setup_dependency_overrides() as overrides:
            assert set(overrides) == {
                getattr(database, name)
                for database in (JobDB, PreferredJobDB)
                for name in ("transaction", "no_transaction")
            }
            application = fastapi.FastAPI()
            application.add_api_route("/", _class_of_database)
            application.dependency_overrides.update(overrides)
            transport = httpx.ASGITransport(application)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                assert (await client.get("/")).json() == "PreferredJobDB"

    async def test_a_configuration_that_cannot_be_read_is_an_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        url = commit_configuration(tmp_path / "configuration", "Registry: [")
        monkeypatch.setenv("DIRACX_CONFIG_BACKEND_URL", url)
        with pytest.raises(ResourceError, match="Config cannot be read"):
            async with setup_dependency_overrides():
                raise AssertionError("opened")

    @pytest.mark.parametrize("module", ["diracx.db.os.utils", "diracx.core.config"])
    async def test_a_part_of_diracx_that_is_not_installed_has_nothing_to_open(
        self, module: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, module, None)
        async with setup_dependency_overrides() as overrides:
            assert overrides == {}


class TestRegistries:
    def test_the_tasks_of_all_groups_or_some(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        tasks = {"RegisterTask": f"{__name__}:RegisterTask", "Broken": "nowhere.at_all:Broken"}
        monkeypatch.setitem(sys.modules, __name__, sys.modules[RegisterTask.__module__])
        install_metadata(
            tmp_path / "some",
            "some-tasks",
            {"diracx.tasks.lollygag": tasks, "diracx.tasks.idle": {"IdleTask": f"{__name__}:IdleTask"}},
        )
        monkeypatch.syspath_prepend(str(tmp_path / "some"))
        idle, lollygag = {"idle:IdleTask": IdleTask}, {"lollygag:RegisterTask": RegisterTask}
        with caplog.at_level(logging.WARNING):
            assert load_task_registry() == idle | lollygag
        (warning,) = [record.getMessage() for record in caplog.records]
        assert warning.startswith("lollygag:Broken (some-tasks) cannot be loaded from nowhere.at_all:Broken")
        assert load_task_registry(["diracx.tasks.idle"]) == idle
        assert load_task_registry(["diracx.tasks.idle", "diracx.tasks.lollygag"]) == idle | lollygag
        assert load_task_registry([]) == load_task_registry(["idle"]) == {}

    def test_lock_types_that_cannot_be_loaded_are_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        validate_registry()
        install_metadata(tmp_path / "some", "some-locks", {"diracx.lock_object_types": {"garage": "nowhere.at_all"}})
        monkeypatch.syspath_prepend(str(tmp_path / "some"))
        with pytest.raises(
            TaskDefinitionError, match=r"^the lock types garage = nowhere\.at_all cannot be loaded: Mod"
        ):
            validate_registry()
