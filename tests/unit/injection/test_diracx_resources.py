"""OpenSearch databases, settings and the configuration of DiracX in tasks.

Annotations are live: some dependencies are local.
"""

from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import git
import pytest
from diracx.core.config import Config
from diracx.core.properties import JOB_ADMINISTRATOR, SecurityProperty
from diracx.db.exceptions import DBUnavailableError
from diracx.db.os import JobParametersDB

from diracx.tasks.plumbing import depends
from diracx.tasks.plumbing.depends import DBDepends, Depends
from diracx.tasks.plumbing.exceptions import ResourceError
from diracx.tasks.plumbing.injection.resources import Resources
from support.acme import (
    GarageSettings,
    LogsDB,
    PreferredJobParametersDB,
)
from support.executing import missing, run, task_with

pytestmark = pytest.mark.usefixtures("acme_installed")

CONFIGURATION = """
DIRAC: {}
Operations: {}
Registry:
  acme:
    IdP: {URL: "https://idp.example.org", ClientID: acme}
    DefaultGroup: users
    Users: {}
    Groups: {}
"""


def commit(repository: Path, configuration: str) -> None:
    with closing(git.Repo.init(repository, initial_branch="master")) as opened:
        (repository / "default.yml").write_text(configuration)
        opened.index.add(["default.yml"])
        opened.index.commit("all of it")


class TestOpenSearch:
    @pytest.fixture(autouse=True)
    def nowhere(self, acme_installed: None, monkeypatch: pytest.MonkeyPatch) -> None:
        # Port 1 of loopback refuses.
        for name in ("LOGSDB", "JOBPARAMETERSDB"):
            monkeypatch.setenv(f"DIRACX_OS_DB_{name}", '{"hosts": "http://127.0.0.1:1", "max_retries": 0}')

    async def test_a_marker_and_a_bare_class_are_one_open_client(self) -> None:
        databases = []

        async def execute(self: Any, bare: LogsDB, marked: Annotated[LogsDB, DBDepends(LogsDB.session)]) -> Any:
            assert bare is marked
            assert bare.client.transport is not None
            databases.append(bare)

        await run(execute)
        with pytest.raises(RuntimeError):
            _ = databases[0].client

    async def test_the_preferred_implementation_is_given(self) -> None:
        async def execute(self: Any, base: JobParametersDB, extended: PreferredJobParametersDB) -> Any:
            return base is extended, type(base)

        assert await run(execute) == (True, PreferredJobParametersDB)

    async def test_a_server_that_is_away_fails_the_task_and_not_the_opening(self) -> None:
        async def execute(self: Any, logs: LogsDB) -> None:
            await logs.ping()  # type: ignore[no-untyped-call]

        with pytest.raises(DBUnavailableError):
            await run(execute)

    def test_arguments_that_are_not_set_or_no_json_are_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def execute(self: Any, logs: LogsDB) -> None: ...

        monkeypatch.setenv("DIRACX_OS_DB_LOGSDB", "{secret")
        (line,) = missing(execute)
        assert "DIRACX_OS_DB_LOGSDB" in line
        assert "secret" not in line
        monkeypatch.delenv("DIRACX_OS_DB_LOGSDB")
        (line,) = missing(execute)
        assert line.startswith('acme:SomeTask needs LogsDB: set DIRACX_OS_DB_LOGSDB, e.g. \'{"hosts"')


class TestSettings:
    async def test_one_instance_serves_all_and_its_lifetime_is_that_of_the_worker(
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


class TestConfiguration:
    @pytest.fixture
    def repository(self, acme_installed: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        repository = tmp_path / "configuration"
        commit(repository, CONFIGURATION)
        monkeypatch.setenv("DIRACX_CONFIG_BACKEND_URL", f"git+file://{repository}")
        return repository

    @pytest.mark.usefixtures("repository")
    async def test_it_is_read_from_its_source_bare_or_marked(self) -> None:
        marked: Any = depends.Config

        async def execute(self: Any, bare: Config, alias: marked) -> Any:
            assert bare is alias
            return list(bare.registry)

        assert await run(execute) == ["acme"]

    async def test_one_that_cannot_be_read_is_told_before_the_first_task(self, repository: Path) -> None:
        commit(repository, "Registry: [")

        async def execute(self: Any, config: Config) -> None:
            raise AssertionError("executed")

        with pytest.raises(ResourceError, match="Config cannot be read from DIRACX_CONFIG_BACKEND_URL"):
            await run(execute)

    async def test_security_properties_of_all_that_is_installed(self) -> None:
        properties: Any = depends.AvailableSecurityProperties

        async def execute(self: Any, available: properties) -> Any:
            return available

        available: set[SecurityProperty] = await run(execute)
        assert JOB_ADMINISTRATOR in available
