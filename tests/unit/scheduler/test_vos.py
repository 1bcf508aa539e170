"""The sources of the VOs."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from diracx.tasks.plumbing.overrides.configuration import Configuration
from diracx.tasks.plumbing.overrides.layouts import parse
from diracx.tasks.plumbing.scheduler.vos import BACKEND_URL, VirtualOrganisations
from diracx.tasks.testing import wait_until
from support.clock import ManualClock

SILENT = Configuration()
SAYS = parse("vos: [atlas]")


class Diracx:
    """Stands for diracx-core and a repository."""

    def __init__(self) -> None:
        self.registry: Any = {"lhcb": {}, "my vo.org": {}}
        self.asked = 0
        """How often git was asked for the latest revision."""
        self.read: list[str] = []
        """The revisions that were read."""
        self.answers = threading.Event()
        """While it is not set, git hangs."""
        self.answers.set()

    def open(self, url: str) -> Diracx:
        assert url == "git+file:///cs"
        return self

    def latest_revision(self) -> tuple[str, datetime]:
        self.asked += 1
        self.answers.wait()
        if isinstance(self.registry, BaseException):
            raise self.registry
        return str(self.registry), datetime.now(UTC)

    def read_raw(self, hexsha: str, modified: datetime) -> Any:
        self.read.append(hexsha)
        return SimpleNamespace(registry=self.registry)


@pytest.fixture
def diracx() -> Iterator[Diracx]:
    diracx = Diracx()
    yield diracx
    diracx.answers.set()


def of_diracx(diracx: Diracx, *options: str, clock: ManualClock | None = None) -> VirtualOrganisations:
    return VirtualOrganisations(
        options, environ={BACKEND_URL: "git+file:///cs"}, clock=clock or ManualClock(), opener=diracx.open
    )


async def seen(organisations: VirtualOrganisations, configuration: Configuration) -> tuple[str, ...] | None:
    await organisations.read(configuration)
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


async def test_a_revision_is_read_once(diracx: Diracx) -> None:
    clock = ManualClock()
    organisations = of_diracx(diracx, clock=clock)
    for clock.now in (0, 6, 12):
        assert await seen(organisations, SILENT) == ("lhcb", "my vo.org")
    assert (diracx.asked, len(diracx.read)) == (3, 1)


def test_a_git_that_hangs_holds_up_nothing_and_is_told_once(diracx: Diracx, caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    organisations = of_diracx(diracx, clock=clock)
    diracx.answers.clear()
    for clock.now in (0, 6, 29.9):
        organisations.refresh(SILENT)
        assert organisations.current(SILENT) is None, "unknown, so that no VO is treated as removed"
    assert not caplog.records
    for clock.now in (30, 31, 89.9):
        organisations.refresh(SILENT)
        assert organisations.why_stuck(SILENT) is None
    assert [record.getMessage() for record in caplog.records] == [
        f"git has not answered for 30 s ({BACKEND_URL}); the known VOs stay in force"
    ]
    clock.now = 95
    stuck = f"git has not answered for 95 s ({BACKEND_URL}): only a restart can read the VOs again"
    assert organisations.why_stuck(SILENT) == stuck
    assert organisations.why_stuck(SAYS) is None, "these VOs do not come from git"
    assert diracx.asked == 1


async def test_a_git_that_answers_after_all_counts_and_is_asked_again(diracx: Diracx) -> None:
    clock = ManualClock()
    organisations = of_diracx(diracx, clock=clock)
    assert await seen(organisations, SILENT) == ("lhcb", "my vo.org")
    diracx.answers.clear()
    diracx.registry = {"lhcb": {}}
    clock.now = 10
    organisations.refresh(SILENT)
    clock.now = 200
    assert await seen(organisations, SILENT) == ("lhcb", "my vo.org"), "the known ones stay in force"
    assert organisations.why_stuck(SILENT) is not None
    diracx.answers.set()

    def taken_over() -> bool:
        organisations.refresh(SILENT)
        return organisations.current(SILENT) == ("lhcb",)

    await wait_until(taken_over, description="the answer is taken over")
    assert organisations.why_stuck(SILENT) is None
    await wait_until(lambda: diracx.asked == 3, description="git is asked again")


async def test_a_single_read_waits_no_longer_than_the_limit(diracx: Diracx, caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    diracx.answers.clear()
    organisations = of_diracx(diracx, clock=clock)
    reading = asyncio.create_task(organisations.read(SILENT))
    await wait_until(lambda: diracx.asked, description="git is asked")
    assert not reading.done()
    clock.now = 30
    await reading
    assert "git has not answered for 30 s" in caplog.text


@pytest.mark.parametrize("error", [ValueError, SystemExit])
async def test_vos_that_cannot_be_read_are_unknown_and_not_removed(
    diracx: Diracx, caplog: pytest.LogCaptureFixture, error: type[BaseException]
) -> None:
    clock = ManualClock()
    diracx.registry = error("no such repository")
    organisations = of_diracx(diracx, clock=clock)
    with caplog.at_level(logging.ERROR):
        for clock.now in (0, 10, 20):
            assert await seen(organisations, SILENT) is None
    assert [record.message for record in caplog.records] == [
        f"the VOs cannot be read from {BACKEND_URL}; the known ones stay in force: {error.__name__}: no such repository"
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
