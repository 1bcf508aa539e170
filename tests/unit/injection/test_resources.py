"""What is missing is told before anything runs, and overrides need nothing.

Annotations are live: some dependencies are local.
"""

from collections.abc import Callable
from typing import Annotated, Any

import pytest
from diracx.core.config import Config, ConfigSource
from diracx.db.sql import JobDB

from diracx.tasks.plumbing.depends import DBDepends, Depends, NoTransaction
from diracx.tasks.plumbing.exceptions import ResourceError, TaskDefinitionError
from diracx.tasks.plumbing.injection.injector import Injector
from diracx.tasks.plumbing.injection.resources import Resources
from support.acme import (
    GarageSettings,
    LogsDB,
    LollygagDB,
    UnlistedDB,
)
from support.executing import missing, run, task_with

pytestmark = pytest.mark.usefixtures("acme_installed")

AnyCallable = Callable[..., Any]
Lollygag = Annotated[LollygagDB, DBDepends(LollygagDB.transaction)]


class TestWhatIsMissing:
    def test_a_url_that_is_not_set_is_named_with_the_task_and_an_example(self) -> None:
        async def execute(self: Any, db: Lollygag) -> None: ...

        assert missing(execute) == [
            "acme:SomeTask needs LollygagDB: set DIRACX_DB_URL_LOLLYGAGDB, e.g. sqlite+aiosqlite:////path/lollygagdb.db"
        ]

    async def test_nothing_is_opened_then(self) -> None:
        async def execute(self: Any, db: Lollygag) -> None: ...

        resources = Resources()
        resources.prepare(type(task_with(execute)))
        with pytest.raises(ResourceError, match="DIRACX_DB_URL_LOLLYGAGDB"):
            async with resources.opened():
                raise AssertionError("opened")

    def test_a_url_that_several_tasks_need_is_one_line_and_each_variable_has_its_own(self) -> None:
        async def one(self: Any, db: Lollygag, jobs: NoTransaction[JobDB]) -> None: ...

        async def other(self: Any, db: LollygagDB, logs: LogsDB) -> None: ...

        resources = Resources()
        for name, execute in (("acme:One", one), ("acme:Other", other), ("acme:Third", other)):
            resources.prepare(type(task_with(execute)), name)
        shared, jobs, logs = resources.problems()
        assert shared.startswith("acme:One and 2 more tasks need LollygagDB: set DIRACX_DB_URL_LOLLYGAGDB")
        assert jobs.startswith("acme:One needs JobDB: set DIRACX_DB_URL_JOBDB")
        assert logs.startswith("acme:Other and 1 more task need LogsDB: set DIRACX_OS_DB_LOGSDB")

    def test_a_need_deep_inside_a_callable_that_two_tasks_share_is_found_for_both(self) -> None:
        async def nested(db: LollygagDB) -> None: ...

        async def broken(self: Any, a: Annotated[None, Depends(nested)], b: str) -> None: ...

        async def good(self: Any, a: Annotated[None, Depends(nested)]) -> None: ...

        resources = Resources()
        with pytest.raises(TaskDefinitionError, match="parameter 'b'"):
            resources.prepare(type(task_with(broken)), "acme:Broken")
        assert resources.problems() == []
        resources.prepare(type(task_with(good)), "acme:Good")
        assert resources.problems()[0].startswith("acme:Good needs LollygagDB")

    def test_a_url_that_is_none_is_told_without_its_password(self, monkeypatch: pytest.MonkeyPatch) -> None:
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

    def test_settings_are_a_line_for_each_variable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ACME_GARAGE_DOORS", "many secrets")

        async def execute(self: Any, settings: GarageSettings) -> None: ...

        colour, doors = missing(execute)
        assert colour == "acme:SomeTask needs GarageSettings: set ACME_GARAGE_COLOUR (Field required)"
        assert doors.startswith("acme:SomeTask needs GarageSettings: set ACME_GARAGE_DOORS (Input should be")
        assert "secrets" not in doors

    def test_a_configuration_without_a_source(self) -> None:
        async def execute(self: Any, config: Config) -> None: ...

        (line,) = missing(execute)
        assert line.startswith("acme:SomeTask needs Config: set DIRACX_CONFIG_BACKEND_URL, e.g. git+file:///")

    async def test_an_override_needs_nothing(self) -> None:
        async def execute(self: Any, db: LollygagDB, settings: GarageSettings, config: Config) -> Any:
            return db, settings, config

        overrides: dict[AnyCallable, AnyCallable] = {
            LollygagDB.transaction: lambda: "db",
            GarageSettings.create: lambda: "settings",
            ConfigSource.create: lambda: "config",
        }
        assert await run(execute, overrides=overrides) == ("db", "settings", "config")

    def test_an_injector_without_resources_refuses_what_nothing_serves(self) -> None:
        async def execute(self: Any, db: Lollygag) -> None: ...

        with pytest.raises(TaskDefinitionError, match=r"LollygagDB\.transaction\(\), and nothing serves it"):
            Injector().prepare(type(task_with(execute)))
