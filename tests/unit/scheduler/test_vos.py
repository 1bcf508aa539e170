"""The sources of the VOs."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from diracx.tasks.plumbing.overrides.overrides import Configuration, parse
from diracx.tasks.plumbing.scheduler.vos import BACKEND_URL, VirtualOrganisations
from support.clock import ManualClock

SILENT = Configuration()
SAYS = parse("vos: [atlas]")


class Diracx:
    """Stands for diracx-core and a repository."""

    def __init__(self) -> None:
        self.registry: Any = {"lhcb": {}, "my vo.org": {}}

    def open(self, url: str) -> Diracx:
        assert url == "git+file:///cs"
        return self

    def read(self) -> Any:
        if isinstance(self.registry, Exception):
            raise self.registry
        return SimpleNamespace(registry=self.registry)


@pytest.fixture
def diracx() -> Diracx:
    return Diracx()


def of_diracx(diracx: Diracx, *options: str, clock: ManualClock | None = None) -> VirtualOrganisations:
    return VirtualOrganisations(
        options, environ={BACKEND_URL: "git+file:///cs"}, clock=clock or ManualClock(), opener=diracx.open
    )


async def seen(organisations: VirtualOrganisations, configuration: Configuration) -> tuple[str, ...] | None:
    await organisations.refresh(configuration)
    return organisations.current(configuration)


async def test_options_win_over_the_configuration_and_that_over_diracx(diracx: Diracx) -> None:
    assert await seen(of_diracx(diracx, "alice"), SAYS) == ("alice",)
    assert await seen(of_diracx(diracx), SAYS) == ("atlas",)
    assert await seen(of_diracx(diracx), SILENT) == ("lhcb", "my vo.org")


async def test_without_any_source_there_are_none() -> None:
    assert await seen(VirtualOrganisations(environ={}), SILENT) == ()


async def test_vos_of_diracx_come_and_go_within_seconds(diracx: Diracx) -> None:
    clock = ManualClock()
    organisations = of_diracx(diracx, clock=clock)
    assert await seen(organisations, SILENT) == ("lhcb", "my vo.org")
    diracx.registry = {"lhcb": {}}
    clock.now = 4
    assert await seen(organisations, SILENT) == ("lhcb", "my vo.org")
    clock.now = 6
    assert await seen(organisations, SILENT) == ("lhcb",)


async def test_vos_that_cannot_be_read_are_unknown_and_not_removed(
    diracx: Diracx, caplog: pytest.LogCaptureFixture
) -> None:
    clock = ManualClock()
    diracx.registry = ValueError("no such repository")
    organisations = of_diracx(diracx, clock=clock)
    with caplog.at_level(logging.ERROR):
        for clock.now in (0, 10, 20):
            assert await seen(organisations, SILENT) is None
    assert [record.message for record in caplog.records] == [
        f"the VOs cannot be read from {BACKEND_URL}; the known ones stay in force: ValueError: no such repository"
    ]
    diracx.registry = {"lhcb": {}}
    clock.now = 30
    assert await seen(organisations, SILENT) == ("lhcb",)


async def test_a_backend_without_diracx_names_the_package_to_install(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "diracx.core.config", None)
    organisations = VirtualOrganisations(environ={BACKEND_URL: "git+file:///cs"})
    assert await seen(organisations, SILENT) is None
    assert "pip install 'diracx-tasks[diracx]'" in caplog.text


async def test_the_vos_of_a_real_diracx_configuration_are_read(tmp_path: Path) -> None:
    pytest.importorskip("diracx.core.config")
    vo = {"DefaultGroup": "user", "IdP": {"ClientID": "c", "URL": "https://idp.invalid"}, "Users": {}, "Groups": {}}
    registry = {"lhcb": vo, "my vo.org": vo}
    (tmp_path / "default.yml").write_text(
        json.dumps({"DIRAC": {}, "Registry": registry, "Operations": {"Defaults": {}}})
    )
    for command in (
        ("init", "-q", "-b", "master"),
        ("add", "."),
        ("-c", "user.name=t", "-c", "user.email=t@t.invalid", "commit", "-q", "-m", "t"),
    ):
        await asyncio.to_thread(subprocess.run, ["git", "-C", str(tmp_path), *command], check=True)
    organisations = VirtualOrganisations(environ={BACKEND_URL: f"git+file://{tmp_path}"})
    assert await seen(organisations, SILENT) == ("lhcb", "my vo.org")
