"""Resources: settings, the configuration, and reports of missing ones before anything runs.

Annotations are live: some dependencies are local.
"""

from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated, Any

import pytest
from diracx.core.config import Config, ConfigSource
from diracx.core.properties import JOB_ADMINISTRATOR, SecurityProperty
from diracx.db.sql import JobDB

from diracx.tasks.plumbing import depends
from diracx.tasks.plumbing.depends import DBDepends, Depends, NoTransaction
from diracx.tasks.plumbing.exceptions import ResourceError, TaskDefinitionError
from diracx.tasks.plumbing.execution.loops import loop_on_a_thread, run_on
from diracx.tasks.plumbing.injection.diracx_config import DiracxConfig
from diracx.tasks.plumbing.injection.injector import Injector
from diracx.tasks.plumbing.injection.resources import Resources
from diracx.tasks.plumbing.injection.service_settings import ServiceSettings
from support.acme import (
    GarageSettings,
    LogsDB,
    LollygagDB,
    UnlistedDB,
)
from support.configurations import CONFIGURATION, commit_configuration
from support.distributions import install_metadata
from support.injected_tasks import missing, run, task_with

pytestmark = pytest.mark.usefixtures("acme_installed")

AnyCallable = Callable[..., Any]
Lollygag = Annotated[LollygagDB, DBDepends(LollygagDB.transaction)]


class TestMissingResources:
    def test_a_url_that_is_not_set_is_named_with_the_task_and_an_example(self) -> None:
        async def execute(self: Any, db: Lollygag) -> None: ...

        assert missing(execute) == [
            "acme:SomeTask needs LollygagDB: set DIRACX_DB_URL_LOLLYGAGDB, e.g. sqlite+aiosqlite:////path/lollygagdb.db"
        ]

    async def test_with_a_missing_resource_nothing_is_opened(self) -> None:
        async def execute(self: Any, db: Lollygag) -> None: ...

        resources = Resources()
        resources.prepare(type(task_with(execute)))
        with pytest.raises(ResourceError, match="DIRACX_DB_URL_LOLLYGAGDB"):
            async with resources.opened():
                raise AssertionError("opened")

    def test_a_resource_of_several_tasks_is_one_line_and_each_variable_has_its_own(self) -> None:
        async def one(self: Any, db: Lollygag, jobs: NoTransaction[JobDB]) -> None: ...

        async def other(self: Any, db: LollygagDB, logs: LogsDB) -> None: ...

        resources = Resources()
        for name, execute in (("acme:One", one), ("acme:Other", other), ("acme:Third", other)):
            resources.prepare(type(task_with(execute)), name)
        shared, jobs, logs = resources.problems()
        assert shared.startswith("acme:One and 2 more tasks need LollygagDB: set DIRACX_DB_URL_LOLLYGAGDB")
        assert jobs.startswith("acme:One needs JobDB: set DIRACX_DB_URL_JOBDB")
        assert logs.startswith("acme:Other and 1 more task need LogsDB: set DIRACX_OS_DB_LOGSDB")

    def test_a_resource_of_a_nested_callable_is_found_for_each_task_that_depends_on_it(self) -> None:
        async def nested(db: LollygagDB) -> None: ...

        async def broken(self: Any, a: Annotated[None, Depends(nested)], b: str) -> None: ...

        async def good(self: Any, a: Annotated[None, Depends(nested)]) -> None: ...

        resources = Resources()
        with pytest.raises(TaskDefinitionError, match="parameter 'b'"):
            resources.prepare(type(task_with(broken)), "acme:Broken")
        assert resources.problems() == []
        resources.prepare(type(task_with(good)), "acme:Good")
        assert resources.problems()[0].startswith("acme:Good needs LollygagDB")

    def test_an_invalid_url_is_reported_without_its_password(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DIRACX_DB_URL_LOLLYGAGDB", "mysql://admin:secret@")

        async def execute(self: Any, db: Lollygag) -> None: ...

        (line,) = missing(execute)
        assert "DIRACX_DB_URL_LOLLYGAGDB" in line
        assert "empty host" in line
        assert "secret" not in line

    def test_a_database_that_no_extension_lists(self) -> None:
        async def execute(self: Any, db: UnlistedDB) -> None: ...

        (line,) = missing(execute)
        assert line.startswith("acme:SomeTask needs UnlistedDB: no extension of DiracX lists it")
        assert '[project.entry-points."diracx.dbs.sql"]' in line

    @pytest.mark.parametrize(
        ("group", "name", "value"), [("diracx", "extension", "my-ext"), ("diracx.dbs.sql", "ThirdDB", "my-mod:T")]
    )
    def test_a_malformed_entry_point_by_which_diracx_finds_nothing_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: str, name: str, value: str
    ) -> None:
        install_metadata(tmp_path / "broken", "broken", {group: {name: value}})
        monkeypatch.syspath_prepend(tmp_path / "broken")

        async def execute(self: Any, db: Lollygag) -> None: ...

        with pytest.raises(TaskDefinitionError) as caught:
            Resources().prepare(type(task_with(execute)))
        assert str(caught.value) == (
            f"DiracX finds no database: the entry point `{name} = {value}` in {group} is malformed"
        )

    def test_of_several_extensions_diracx_finds_no_database(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        install_metadata(tmp_path / "second", "second", {"diracx": {"extension": "second"}})
        monkeypatch.syspath_prepend(tmp_path / "second")

        async def execute(self: Any, db: Lollygag) -> None: ...

        with pytest.raises(TaskDefinitionError, match="DiracX finds no database: NotImplementedError: "):
            Resources().prepare(type(task_with(execute)))

    def test_settings_are_a_line_for_each_variable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ACME_GARAGE_DOORS", "many secrets")

        async def execute(self: Any, settings: GarageSettings) -> None: ...

        colour, doors = missing(execute)
        assert colour == "acme:SomeTask needs GarageSettings: set ACME_GARAGE_COLOUR (Field required)"
        assert doors.startswith("acme:SomeTask needs GarageSettings: set ACME_GARAGE_DOORS (Input should be")
        assert "secrets" not in doors

    def test_of_settings_only_another_start_sets_a_missing_variable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ACME_GARAGE_DOORS", "many")
        settings = ServiceSettings(GarageSettings)
        assert settings.unset() == ["set ACME_GARAGE_COLOUR (Field required)"]

        def create(cls: Any) -> Any:
            raise ConnectionError("the vault is closed")

        monkeypatch.setattr(GarageSettings, "create", classmethod(create))
        assert settings.unset() == []
        assert settings.problems() == ["ConnectionError: the vault is closed"]

    def test_a_configuration_without_a_variable_needs_another_start_and_one_without_a_repository_does_not(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DIRACX_CONFIG_BACKEND_URL", f"git+file://{tmp_path}")
        assert DiracxConfig().unset() == []
        assert DiracxConfig().problems()[0].startswith("DIRACX_CONFIG_BACKEND_URL cannot be used (")
        for unusable in ("", "git+file://[", "http"):
            monkeypatch.setenv("DIRACX_CONFIG_BACKEND_URL", unusable)
            assert (
                DiracxConfig()
                .problems()[0]
                .endswith("set DIRACX_CONFIG_BACKEND_URL, e.g. git+file:///path/of/a/repository")
            )
        monkeypatch.setenv("DIRACX_CONFIG_BACKEND_URL", "git+file://[")
        (line,) = DiracxConfig().unset()
        assert line.startswith("DIRACX_CONFIG_BACKEND_URL cannot be used (")

    def test_a_task_may_be_prepared_while_others_are_checked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def late(self: Any, db: LollygagDB) -> None: ...

        async def execute(self: Any, settings: GarageSettings) -> None: ...

        def create(cls: Any) -> Any:
            resources.prepare(type(task_with(late)), "acme:Late")
            return cls(doors=5, colour="red")

        monkeypatch.setattr(GarageSettings, "create", classmethod(create))
        resources = Resources()
        resources.prepare(type(task_with(execute)))
        assert resources.problems() == []
        assert resources.problems()[0].startswith("acme:Late needs LollygagDB")

    def test_a_configuration_without_a_source(self) -> None:
        async def execute(self: Any, config: Config) -> None: ...

        (line,) = missing(execute)
        assert line.startswith("acme:SomeTask needs Config: set DIRACX_CONFIG_BACKEND_URL, e.g. git+file:///")

    async def test_an_override_needs_no_resource(self) -> None:
        async def execute(self: Any, db: LollygagDB, settings: GarageSettings, config: Config) -> Any:
            return db, settings, config

        overrides: dict[AnyCallable, AnyCallable] = {
            LollygagDB.transaction: lambda: "db",
            GarageSettings.create: lambda: "settings",
            ConfigSource.create: lambda: "config",
        }
        assert await run(execute, overrides=overrides) == ("db", "settings", "config")

    def test_an_injector_without_resources_refuses_a_database_that_nothing_serves(self) -> None:
        async def execute(self: Any, db: Lollygag) -> None: ...

        with pytest.raises(TaskDefinitionError, match=r"LollygagDB\.transaction\(\), and nothing serves it"):
            Injector().prepare(type(task_with(execute)))


class TestSettings:
    async def test_one_instance_serves_all_executions_and_lives_as_long_as_the_worker(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ACME_GARAGE_DOORS", "5")
        monkeypatch.setenv("ACME_GARAGE_COLOUR", "red")
        seen = []

        async def execute(
            self: Any, bare: GarageSettings, marked: Annotated[GarageSettings, Depends(GarageSettings.create)]
        ) -> Any:
            assert bare is marked
            seen.append(bare)
            return bare.doors, list(GarageSettings.open_now)

        resources, task = Resources(), task_with(execute)
        invocation = resources.prepare(type(task))
        async with resources.opened():
            assert await invocation(task) == await invocation(task) == (5, ["red"])
        assert seen[0] is seen[1]
        assert GarageSettings.open_now == []

    async def test_each_loop_enters_the_lifetime_of_an_instance_of_its_own(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ACME_GARAGE_DOORS", "5")
        monkeypatch.setenv("ACME_GARAGE_COLOUR", "red")

        async def execute(self: Any, settings: GarageSettings) -> Any:
            return settings

        resources, task = Resources(), task_with(execute)
        invocation = resources.prepare(type(task))
        opened = AsyncExitStack()
        with loop_on_a_thread("one") as one:
            await run_on(one, opened.enter_async_context(resources.opened()))
            async with resources.opened():
                assert GarageSettings.open_now == ["red", "red"]
                assert await invocation(task) is not await run_on(one, invocation(task))
            assert GarageSettings.open_now == ["red"]
            await run_on(one, opened.aclose())
        assert GarageSettings.open_now == []


class TestConfiguration:
    @pytest.fixture
    def repository(self, acme_installed: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        repository = tmp_path / "configuration"
        commit_configuration(repository)
        monkeypatch.setenv("DIRACX_CONFIG_BACKEND_URL", f"git+file://{repository}")
        return repository

    @pytest.mark.usefixtures("repository")
    async def test_the_configuration_is_read_from_its_source_by_class_or_marker(self) -> None:
        marked: Any = depends.Config

        async def execute(self: Any, bare: Config, alias: marked) -> Any:
            assert bare is alias
            return list(bare.registry)

        assert await run(execute) == ["acme"]

    async def test_an_unreadable_configuration_is_reported_before_the_first_task(self, repository: Path) -> None:
        commit_configuration(repository, "Registry: [")

        async def execute(self: Any, config: Config) -> None:
            raise AssertionError("executed")

        with pytest.raises(ResourceError, match="Config cannot be read from DIRACX_CONFIG_BACKEND_URL"):
            await run(execute)

    async def test_one_source_serves_all_loops_until_the_last_has_closed_it(self, repository: Path) -> None:
        async def execute(self: Any, config: Config) -> Any:
            return config

        resources, task = Resources(), task_with(execute)
        invocation = resources.prepare(type(task))
        opened = AsyncExitStack()
        with loop_on_a_thread("one") as one:
            await run_on(one, opened.enter_async_context(resources.opened()))
            async with resources.opened():
                config = await invocation(task)
                assert await run_on(one, invocation(task)) is config
                with pytest.raises(RuntimeError, match="Config is open already"):
                    async with resources.opened():
                        pytest.fail("it was opened twice")
            assert await run_on(one, invocation(task)) is config
            await run_on(one, opened.aclose())
        with pytest.raises(RuntimeError, match="Config is not open"):
            await invocation(task)
        commit_configuration(repository, CONFIGURATION.replace("acme", "emca"))
        async with resources.opened():
            assert list((await invocation(task)).registry) == ["emca"]

    async def test_security_properties_of_all_that_is_installed(self) -> None:
        properties: Any = depends.AvailableSecurityProperties

        async def execute(self: Any, available: properties) -> Any:
            return available

        available: set[SecurityProperty] = await run(execute)
        assert JOB_ADMINISTRATOR in available
